package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/census"
	"sandboxd.dev/sandboxd/controller/sandbox"
)

// Capacity of the host.
type Capacity struct {
	// Budget works out what there is for machines, given what is reserved for each of
	// them, and the most that it may become by itself; nil means no limit.
	Budget func(reserved func(types.UID) capacity.Amount) (budget, most capacity.Amount, err error)
	// Measure is how often that is worked out again; 0: only at the start.
	Measure time.Duration
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
