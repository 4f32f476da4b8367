package gitops

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/manifest"
)

// inventory watches the objects with the directory's label: their metadata only.
type inventory struct {
	factory   metadatainformer.SharedInformerFactory
	informers map[kind]cache.SharedIndexInformer
	// wake is told when one was changed or deleted; it does not block.
	wake func()
}

func newInventory(client metadata.Interface, source string, wake func()) (*inventory, error) {
	inv := &inventory{informers: map[kind]cache.SharedIndexInformer{}, wake: wake}
	inv.factory = metadatainformer.NewFilteredSharedInformerFactory(client, 0, metav1.NamespaceAll, func(o *metav1.ListOptions) {
		o.LabelSelector = v1.LabelManifests + "=" + source
	})
	for _, k := range kinds {
		informer := inv.factory.ForResource(k.gvr()).Informer()
		if err := informer.SetTransform(inv.shorten); err != nil {
			return nil, fmt.Errorf("watch %s: %w", k.resource, err)
		}
		if _, err := informer.AddEventHandler(inv.handler(k)); err != nil {
			return nil, fmt.Errorf("watch %s: %w", k.resource, err)
		}
		inv.informers[k] = informer
	}
	return inv, nil
}

// start returns once everything is known.
func (inv *inventory) start(ctx context.Context) error {
	inv.factory.Start(ctx.Done())
	for _, informer := range inv.informers {
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return ctx.Err()
		}
	}
	return nil
}

// stop returns once the watches have ended; their context has.
func (inv *inventory) stop() { inv.factory.Shutdown() }

// shorten drops what nobody here reads.
func (inv *inventory) shorten(o any) (any, error) {
	if p, ok := o.(*metav1.PartialObjectMetadata); ok {
		for i, entry := range p.ManagedFields {
			if entry.Manager == FieldManager {
				p.ManagedFields = p.ManagedFields[i : i+1 : i+1]
				return p, nil
			}
		}
		p.ManagedFields = nil
	}
	return o, nil
}

// handler passes over what changes nothing for us, such as every status.
func (inv *inventory) handler(k kind) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			a, okA := before.(metav1.Object)
			b, okB := after.(metav1.Object)
			if !okA || !okB {
				return
			}
			was, is := liveOf(k.GroupKind(), a), liveOf(k.GroupKind(), b)
			was.ResourceVersion, was.Edition = is.ResourceVersion, is.Edition
			if was != is {
				inv.wake()
			}
		},
		DeleteFunc: func(any) { inv.wake() },
	}
}

// live is what the watches have seen.
func (inv *inventory) live() map[manifest.Identity]Live {
	all := map[manifest.Identity]Live{}
	for k, informer := range inv.informers {
		for _, o := range informer.GetStore().List() {
			if m, ok := o.(metav1.Object); ok {
				live := liveOf(k.GroupKind(), m)
				all[live.Identity] = live
			}
		}
	}
	return all
}
