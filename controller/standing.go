package controller

import (
	"context"
	"fmt"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/goldenimage"
	"sandboxd.dev/sandboxd/controller/sandbox"
	"sandboxd.dev/sandboxd/providers"
)

// objects are those that may ask for capacity, as the controllers' cache has them.
type objects struct {
	sandboxes, images, snapshots toolscache.Indexer
	defaults                     sandbox.Defaults
	builds                       goldenimage.BuildOptions
	providers                    *providers.Set
	// down tells whether a provider does not answer.
	down func(v1.ProviderName) bool
	news *news
}

func newObjects(ctx context.Context, c cache.Cache, o Options, down func(v1.ProviderName) bool) (*objects, error) {
	n := newNews()
	stores := &objects{defaults: o.Defaults, builds: buildDefaults(o), providers: o.Providers, down: down, news: n}
	for _, s := range []struct {
		of    client.Object
		store *toolscache.Indexer
		note  toolscache.IndexFunc
	}{
		{&v1.Sandbox{}, &stores.sandboxes, n.ofSandbox},
		{&v1.GoldenImage{}, &stores.images, n.ofImage},
		{&v1.SandboxSnapshot{}, &stores.snapshots, n.ofSnapshot},
	} {
		informer, err := c.GetInformer(ctx, s.of, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("watch %T for admission: %w", s.of, err)
		}
		shared, ok := informer.(toolscache.SharedIndexInformer)
		if !ok {
			return nil, fmt.Errorf("watch %T for admission: %T has no store", s.of, informer)
		}
		if err := n.follow(shared, s.note); err != nil {
			return nil, fmt.Errorf("watch %T for admission: %w", s.of, err)
		}
		*s.store = shared.GetIndexer()
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
func (o *objects) Standing(who capacity.Who) (s capacity.Standing, exists bool) {
	if who.Namespace == "" {
		img := find[v1.GoldenImage](o.images, "", who.Name)
		if img == nil || !img.DeletionTimestamp.IsZero() || !goldenimage.IsBuilt(img) {
			return s, false
		}
		return capacity.Standing{
			Place: placeOf(img), Key: goldenimage.AdmissionKey(img), Want: goldenimage.ComingNeed(img, o.builds),
			Away: o.down(o.providerOf(nil, img)),
		}, true
	}
	sbx := find[v1.Sandbox](o.sandboxes, who.Namespace, who.Name)
	if sbx == nil || !sbx.DeletionTimestamp.IsZero() {
		return s, false
	}
	img := find[v1.GoldenImage](o.images, "", sbx.Spec.Image)
	return capacity.Standing{
		Place: placeOf(sbx), Key: o.sandboxKey(sbx, img), Want: sandbox.ComingNeed(sbx, img, o.defaults),
		Away: o.down(o.providerOf(sbx, img)),
	}, true
}

// Names implements capacity.Objects.
func (o *objects) Names() []capacity.Who {
	var list []capacity.Who
	for _, store := range []toolscache.Store{o.sandboxes, o.images} {
		for _, item := range store.List() {
			if item, ok := item.(client.Object); ok {
				list = append(list, whoIs(item))
			}
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
