package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/census"
	"sandboxd.dev/sandboxd/controller/goldenimage"
	"sandboxd.dev/sandboxd/controller/sandbox"
	"sandboxd.dev/sandboxd/providers"
)

// Capacity of the host.
type Capacity struct {
	// Budget works out what there is for machines, given what is reserved for each of
	// them, and the most that it may become by itself; nil means no limit.
	Budget func(reserved func(types.UID) capacity.Amount) (budget, most capacity.Amount, err error)
	// Measure is how often that is worked out again; 0: only at the start.
	Measure time.Duration
}

// objects are those that may ask for capacity, as the controllers' cache has them.
type objects struct {
	sandboxes, images, snapshots toolscache.Store
	defaults                     sandbox.Defaults
	builds                       goldenimage.BuildOptions
	providers                    *providers.Set
	// down tells whether a provider does not answer.
	down func(v1.ProviderName) bool
}

func newObjects(ctx context.Context, c cache.Cache, o Options, down func(v1.ProviderName) bool) (*objects, error) {
	stores := &objects{defaults: o.Defaults, builds: buildDefaults(o), providers: o.Providers, down: down}
	for _, s := range []struct {
		of    client.Object
		store *toolscache.Store
	}{{&v1.Sandbox{}, &stores.sandboxes}, {&v1.GoldenImage{}, &stores.images}, {&v1.SandboxSnapshot{}, &stores.snapshots}} {
		informer, err := c.GetInformer(ctx, s.of, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("watch %T for admission: %w", s.of, err)
		}
		shared, ok := informer.(toolscache.SharedInformer)
		if !ok {
			return nil, fmt.Errorf("watch %T for admission: %T has no store", s.of, informer)
		}
		*s.store = shared.GetStore()
	}
	return stores, nil
}

// find returns an object of a store; nil when it has none of that name. It must not
// be changed.
func find[T any](store toolscache.Store, namespace, name string) *T {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	found, _, _ := store.GetByKey(key)
	o, _ := found.(*T)
	return o
}

// Key implements capacity.Objects.
func (o *objects) Key(who capacity.Who) capacity.Key {
	if who.Namespace == "" {
		if img := find[v1.GoldenImage](o.images, "", who.Name); img != nil {
			return goldenimage.AdmissionKey(img)
		}
		return capacity.Key{}
	}
	if sbx := find[v1.Sandbox](o.sandboxes, who.Namespace, who.Name); sbx != nil {
		return o.sandboxKey(sbx, find[v1.GoldenImage](o.images, "", sbx.Spec.Image))
	}
	return capacity.Key{}
}

func (o *objects) sandboxKey(sbx *v1.Sandbox, img *v1.GoldenImage) capacity.Key {
	var from *v1.SandboxSnapshot
	if name := sbx.Spec.FromSnapshot; name != "" {
		from = find[v1.SandboxSnapshot](o.snapshots, sbx.Namespace, name)
	}
	return sandbox.AdmissionKey(sbx, img, from)
}

// Away implements capacity.Objects.
func (o *objects) Away(who capacity.Who) bool {
	if who.Namespace == "" {
		return o.down(o.providerOf(nil, find[v1.GoldenImage](o.images, "", who.Name)))
	}
	sbx := find[v1.Sandbox](o.sandboxes, who.Namespace, who.Name)
	if sbx == nil {
		return false
	}
	return o.down(o.providerOf(sbx, find[v1.GoldenImage](o.images, "", sbx.Spec.Image)))
}

// Standing implements capacity.Objects.
func (o *objects) Standing() []capacity.Standing {
	var list []capacity.Standing
	for _, item := range o.sandboxes.List() {
		sbx, ok := item.(*v1.Sandbox)
		if !ok || !sbx.DeletionTimestamp.IsZero() {
			continue
		}
		img := find[v1.GoldenImage](o.images, "", sbx.Spec.Image)
		list = append(list, capacity.Standing{
			Place: placeOf(sbx), Key: o.sandboxKey(sbx, img), Want: sandbox.ComingNeed(sbx, img, o.defaults),
			Away: o.down(o.providerOf(sbx, img)),
		})
	}
	for _, item := range o.images.List() {
		if img, ok := item.(*v1.GoldenImage); ok && img.DeletionTimestamp.IsZero() && goldenimage.IsBuilt(img) {
			list = append(list, capacity.Standing{
				Place: placeOf(img), Key: goldenimage.AdmissionKey(img), Want: goldenimage.ComingNeed(img, o.builds),
				Away: o.down(o.providerOf(nil, img)),
			})
		}
	}
	return list
}

// providerOf is the provider that an object is, or is going to be, of. Either is nil when
// there is none.
func (o *objects) providerOf(sbx *v1.Sandbox, img *v1.GoldenImage) v1.ProviderName {
	switch {
	case sbx != nil && sbx.Status.Provider != "":
		return sbx.Status.Provider
	case img == nil:
		return ""
	case img.Status.Provider != "":
		return img.Status.Provider
	default:
		return o.providers.Resolve(img.Spec.Provider)
	}
}

func placeOf(o client.Object) capacity.Place {
	return capacity.Place{Who: whoIs(o), ID: o.GetUID(), Created: o.GetCreationTimestamp().Time}
}

func whoIs(o client.Object) capacity.Who {
	return capacity.Who{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// left is what is read of a sandbox that an earlier run has left. There may be very
// many, and who starts the daemon waits.
type left struct {
	Metadata struct {
		Namespace  string    `json:"namespace"`
		Name       string    `json:"name"`
		UID        types.UID `json:"uid"`
		Generation int64     `json:"generation"`
	} `json:"metadata"`
	Status struct {
		Reserved   *v1.Reservation    `json:"reserved"`
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

func (l *left) sandbox() *v1.Sandbox {
	return &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: l.Metadata.Namespace, Name: l.Metadata.Name, UID: l.Metadata.UID, Generation: l.Metadata.Generation,
		},
		Status: v1.SandboxStatus{Reserved: l.Status.Reserved, Conditions: l.Status.Conditions},
	}
}

// recall reads what an earlier run has left. The ledger knows then what statuses say is
// reserved, before anything is asked for, and u what has to be taken back. It reads
// past the cache, which is not filled yet.
func recall(ctx context.Context, objects *census.Reader, ledger *capacity.Ledger, u *sandbox.Unobserved) error {
	_, err := census.Each(ctx, objects, "sandboxes", func(l *left) {
		sbx := l.sandbox()
		ledger.Restore(whoIs(sbx), sbx.UID, capacity.Reserved(sbx.Status.Reserved))
		u.See(sbx)
	})
	if err == nil {
		_, err = census.Each(ctx, objects, "goldenimages", func(img *v1.GoldenImage) {
			if img.Status.Build != nil {
				ledger.Restore(whoIs(img), img.UID, capacity.Reserved(img.Status.Build.Reserved))
			}
		})
	}
	if err != nil {
		return fmt.Errorf("read what an earlier run has left: %w", err)
	}
	return nil
}

// restateDelay gathers what is to be said to those in line: while many machines end and
// start, they are told how it stands a few times a second only.
const restateDelay = 250 * time.Millisecond

// admissions makes the ledger, as it was before a restart, and what wakes those who
// wait.
func (c *Controllers) admissions(ctx context.Context, o Options, w *wakeups, u *sandbox.Unobserved) (*admissions, error) {
	objects, err := newObjects(ctx, c.manager.GetCache(), o, c.outages.down)
	if err != nil {
		return nil, err
	}
	c.capacity = capacity.New(capacity.NoLimit(), objects)
	if err := recall(ctx, c.objects, c.capacity, u); err != nil {
		return nil, err
	}
	log := o.Logger.WithName("capacity")
	a := &admissions{
		ledger: c.capacity, capacity: o.Capacity, sandboxes: w.sandboxes, images: w.images,
		failed: func(err error) { log.Error(err, "The host cannot be measured: the budget stays as it is") },
	}
	if err := a.measure(); err != nil {
		return nil, fmt.Errorf("work out the capacity of the host: %w", err)
	}
	return a, nil
}

// admissions wake those who wait for capacity, and work out how much there is.
type admissions struct {
	ledger            *capacity.Ledger
	capacity          Capacity
	sandboxes, images queue
	failed            func(error)
}

// Start implements manager.Runnable.
func (a *admissions) Start(ctx context.Context) error {
	var restate, measure <-chan time.Time
	if a.capacity.Budget != nil && a.capacity.Measure > 0 {
		ticker := time.NewTicker(a.capacity.Measure)
		defer ticker.Stop()
		measure = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.ledger.Changed():
			a.wake(ctx, a.ledger.Woken())
			if restate == nil {
				restate = time.After(restateDelay)
			}
		case <-restate:
			restate = nil
			a.wake(ctx, a.ledger.Restated())
		case <-measure:
			if err := a.measure(); err != nil {
				a.failed(err)
			}
		}
	}
}

// measure has the ledger know what there is.
func (a *admissions) measure() error {
	if a.capacity.Budget == nil {
		return nil
	}
	budget, most, err := a.capacity.Budget(a.ledger.Held)
	if err == nil {
		a.ledger.SetBudget(budget, most)
	}
	return err
}

func (a *admissions) wake(ctx context.Context, list []capacity.Who) {
	slices.SortFunc(list, capacity.Who.Compare)
	for _, who := range list {
		request := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: who.Namespace, Name: who.Name}}
		if who.Namespace == "" {
			a.images.add(ctx, ended, request)
		} else {
			a.sandboxes.add(ctx, ended, request)
		}
	}
}
