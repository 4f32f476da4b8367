package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// slimmer makes objects smaller for the cache. It is safe for concurrent use.
type slimmer struct {
	mu    sync.Mutex
	known map[string]string // strings that very many objects have
}

func newSlimmer() *slimmer { return &slimmer{known: make(map[string]string)} }

// slim makes of an object from the API what the cache keeps of it: what nobody here
// reads is left out, and strings that very many objects have are there once. Patches
// are differences of two objects, so what is left out stays as it is: but no
// reconciler may remove the last annotation of an object, which would remove those it
// does not see.
func (s *slimmer) slim(o client.Object) {
	o.SetManagedFields(nil)
	o.SetLabels(nil)
	o.SetAnnotations(ours(o.GetAnnotations()))
	o.SetNamespace(s.once(o.GetNamespace()))
	o.SetFinalizers(s.onceEach(o.GetFinalizers()))
	switch o := o.(type) {
	case *v1.Sandbox:
		s.sandbox(o)
	case *v1.GoldenImage:
		s.conditions(&o.Status.Conditions)
	case *v1.SandboxSnapshot:
		onceIn(s, &o.Spec.Sandbox)
		s.conditions(&o.Status.Conditions)
	}
}

// transform is slim as a cache wants it.
func (s *slimmer) transform(o any) (any, error) {
	if object, ok := o.(client.Object); ok {
		s.slim(object)
	}
	return o, nil
}

func (s *slimmer) sandbox(o *v1.Sandbox) {
	onceIn(s, &o.Spec.Image)
	onceIn(s, &o.Spec.PowerState)
	onceIn(s, &o.Spec.RestartPolicy)
	onceIn(s, &o.Spec.Readiness.Mode)
	onceIn(s, &o.Spec.Network.Mode)
	onceIn(s, &o.Spec.Lifecycle.OnExpiry)
	o.Spec.Network.PortForwards = slices.Clone(o.Spec.Network.PortForwards)
	for i := range o.Spec.Network.PortForwards {
		p := &o.Spec.Network.PortForwards[i]
		onceIn(s, &p.Name)
		onceIn(s, &p.Protocol)
		onceIn(s, &p.HostAddress)
	}
	onceIn(s, &o.Status.Phase)
	onceIn(s, &o.Status.Provider)
	onceIn(s, &o.Status.ImageRevision)
	s.conditions(&o.Status.Conditions)
}

// conditions has them take no more room than they need: a decoder makes room for
// more.
func (s *slimmer) conditions(list *[]metav1.Condition) {
	*list = slices.Clone(*list)
	for i := range *list {
		c := &(*list)[i]
		onceIn(s, &c.Type)
		onceIn(s, &c.Status)
		onceIn(s, &c.Reason)
		onceIn(s, &c.Message)
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

const (
	// maxOnce is how many strings are remembered; they are forgotten when there are
	// more, and begin anew.
	maxOnce = 8 << 10
	// maxShared is the longest of them, in bytes.
	maxShared = 256
)

// once is a string that is in memory once for all who have it.
func (s *slimmer) once(text string) string {
	if text == "" || len(text) > maxShared {
		return text
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.known[text]
	if !ok {
		if len(s.known) >= maxOnce {
			clear(s.known)
		}
		known = strings.Clone(text) // which may be a part of something larger
		s.known[known] = known
	}
	return known
}

func onceIn[S ~string](s *slimmer, text *S) { *text = S(s.once(string(*text))) }

func (s *slimmer) onceEach(list []string) []string {
	list = slices.Clone(list)
	for i := range list {
		onceIn(s, &list[i])
	}
	return list
}

// places tell where the objects of a kind are, by their UIDs. An index of the cache
// takes six times as much for each. An object is known before the cache has it, and
// until after the cache has lost it.
type places struct {
	slimmer *slimmer

	mu sync.RWMutex
	of map[types.UID]types.NamespacedName
}

func newPlaces(s *slimmer) *places {
	return &places{slimmer: s, of: make(map[types.UID]types.NamespacedName)}
}

// transform is what the cache does with an object before it takes it.
func (p *places) transform(o any) (any, error) {
	o, err := p.slimmer.transform(o)
	if object, ok := o.(client.Object); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.of[object.GetUID()] = client.ObjectKeyFromObject(object)
	}
	return o, err
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
