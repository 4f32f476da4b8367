package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// slim makes of an object from the API what the cache keeps of it: what nobody here
// reads is left out, and strings that very many objects have are there once. Patches
// are differences of two objects, so what is left out stays as it is: but no
// reconciler may remove the last annotation of an object, which would remove those it
// does not see.
func slim(o client.Object) {
	o.SetManagedFields(nil)
	o.SetLabels(nil)
	o.SetAnnotations(ours(o.GetAnnotations()))
	o.SetNamespace(once(o.GetNamespace()))
	o.SetFinalizers(onceEach(o.GetFinalizers()))
	switch o := o.(type) {
	case *v1.Sandbox:
		slimSandbox(o)
	case *v1.GoldenImage:
		slimConditions(&o.Status.Conditions)
	case *v1.SandboxSnapshot:
		o.Spec.Sandbox = once(o.Spec.Sandbox)
		slimConditions(&o.Status.Conditions)
	}
}

// slimmed is slim as a cache wants it.
func slimmed(o any) (any, error) {
	if object, ok := o.(client.Object); ok {
		slim(object)
	}
	return o, nil
}

func slimSandbox(o *v1.Sandbox) {
	onceIn(&o.Spec.Image)
	onceIn(&o.Spec.PowerState)
	onceIn(&o.Spec.RestartPolicy)
	onceIn(&o.Spec.Readiness.Mode)
	onceIn(&o.Spec.Network.Mode)
	onceIn(&o.Spec.Lifecycle.OnExpiry)
	o.Spec.Network.PortForwards = slices.Clone(o.Spec.Network.PortForwards)
	for i := range o.Spec.Network.PortForwards {
		p := &o.Spec.Network.PortForwards[i]
		onceIn(&p.Name)
		onceIn(&p.Protocol)
		onceIn(&p.HostAddress)
	}
	onceIn(&o.Status.Phase)
	onceIn(&o.Status.Provider)
	onceIn(&o.Status.ImageRevision)
	slimConditions(&o.Status.Conditions)
}

// slimConditions has them take no more room than they need: a decoder makes room for
// more.
func slimConditions(list *[]metav1.Condition) {
	*list = slices.Clone(*list)
	for i := range *list {
		c := &(*list)[i]
		onceIn(&c.Type)
		onceIn(&c.Status)
		onceIn(&c.Reason)
		onceIn(&c.Message)
	}
}

// ours are the annotations that mean something here; nil for none.
func ours(all map[string]string) map[string]string {
	all = maps.Clone(all)
	maps.DeleteFunc(all, func(key, _ string) bool { return !strings.HasPrefix(key, v1.GroupVersion.Group+"/") })
	if len(all) == 0 {
		return nil
	}
	return all
}

// once is a string that is in memory once for all who have it.
func once(s string) string { return unique.Make(s).Value() }

func onceIn[S ~string](s *S) {
	if *s != "" {
		*s = S(once(string(*s)))
	}
}

func onceEach(list []string) []string {
	list = slices.Clone(list)
	for i := range list {
		onceIn(&list[i])
	}
	return list
}

// places tell where the objects of a kind are, by their UIDs. An index of the cache
// takes six times as much for each. An object is known before the cache has it, and
// until after the cache has lost it.
type places struct {
	mu sync.RWMutex
	of map[types.UID]types.NamespacedName
}

func newPlaces() *places { return &places{of: make(map[types.UID]types.NamespacedName)} }

// slim is what the cache does with an object before it takes it.
func (p *places) slim(o any) (any, error) {
	if object, ok := o.(client.Object); ok {
		p.mu.Lock()
		p.of[object.GetUID()] = client.ObjectKeyFromObject(object)
		p.mu.Unlock()
	}
	return slimmed(o)
}

// forgetGone has objects forgotten that the cache has lost.
func (p *places) forgetGone(ctx context.Context, c cache.Cache, of client.Object) error {
	informer, err := c.GetInformer(ctx, of, cache.BlockUntilSynced(false))
	if err == nil {
		_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{DeleteFunc: p.forget})
	}
	if err != nil {
		return fmt.Errorf("watch %T for where they are: %w", of, err)
	}
	return nil
}

func (p *places) forget(o any) {
	if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	if object, ok := o.(client.Object); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.of, object.GetUID())
	}
}

// find returns where the object of a UID is, if there is one.
func (p *places) find(id types.UID) (types.NamespacedName, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	key, ok := p.of[id]
	return key, ok
}
