package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/store"
)

// ownerState is what became of an owner.
type ownerState int

const (
	ownerUnknown ownerState = iota // it cannot be told: its kind is not served, or the store failed
	ownerAlive
	ownerWaiting // it goes, and waits for its dependents to go first
	ownerAbsent
)

// verdict is what is to be done with an object that has owners.
type verdict struct {
	remove     bool        // nobody owns it any more
	foreground bool        // its own dependents go first: an owner waits for all of them
	drop       []types.UID // references to owners that are gone, while others live
}

// judgeOwners decides about an object by what became of its owners. Of an owner
// that nothing can be told of it thinks the best.
func judgeOwners(refs []metav1.OwnerReference, state func(metav1.OwnerReference) ownerState) verdict {
	var v verdict
	alive, waiting := 0, 0
	for _, ref := range refs {
		switch state(ref) {
		case ownerUnknown:
			return verdict{}
		case ownerAlive:
			alive++
		case ownerWaiting:
			waiting++
			v.drop = append(v.drop, ref.UID)
		case ownerAbsent:
			v.drop = append(v.drop, ref.UID)
		}
	}
	if len(refs) > 0 && alive == 0 {
		return verdict{remove: true, foreground: waiting > 0}
	}
	return v
}

// ownerKey is where the owner of an object in a namespace is stored. Of a kind
// that is not stored, such as reviews, nothing can be told.
func (g *garbage) ownerKey(ref metav1.OwnerReference, namespace string) (store.Key, bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return store.Key{}, false
	}
	for _, r := range storedOnly(g.s.registry.all) {
		if r.gvk.Group != gv.Group || r.gvk.Kind != ref.Kind || r.view != nil {
			continue
		}
		if !r.namespaced {
			namespace = ""
		} else if namespace == "" {
			return store.Key{}, false // a cluster-scoped object has no owner in a namespace
		}
		return store.Key{Resource: r.key, Namespace: namespace, Name: ref.Name}, true
	}
	return store.Key{}, false
}

// ownerState reads what became of an owner.
func (g *garbage) ownerState(ctx context.Context, ref metav1.OwnerReference, namespace string) ownerState {
	key, ok := g.ownerKey(ref, namespace)
	if !ok {
		return ownerUnknown
	}
	entry, err := g.s.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return ownerAbsent
	}
	var o ownership
	if err != nil || json.Unmarshal(entry.Value, &o) != nil {
		return ownerUnknown
	}
	switch {
	case o.Metadata.UID != ref.UID:
		return ownerAbsent // another one of that name
	case o.Metadata.DeletionTimestamp != nil && slices.Contains(o.Metadata.Finalizers, metav1.FinalizerDeleteDependents):
		return ownerWaiting
	}
	return ownerAlive
}

// keepFor returns the finalizers that an object has once its deletion was asked
// for: those that make the collector see to its dependents first follow the
// policy, if one is given.
func keepFor(finalizers []string, o *metav1.DeleteOptions) []string {
	if o.PropagationPolicy == nil {
		return finalizers
	}
	kept := slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool {
		return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
	})
	switch *o.PropagationPolicy {
	case metav1.DeletePropagationOrphan:
		kept = append(kept, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		kept = append(kept, metav1.FinalizerDeleteDependents)
	}
	return kept
}

// dropReferences removes references to owners from an object.
func (g *garbage) dropReferences(ctx context.Context, key store.Key, uid types.UID, owners []types.UID) error {
	err := g.change(ctx, key, uid, func(u *unstructured.Unstructured) {
		left := slices.DeleteFunc(u.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
			return slices.Contains(owners, ref.UID)
		})
		if len(left) == 0 {
			left = nil // the field goes, as if there had never been owners
		}
		u.SetOwnerReferences(left)
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, owner := range owners {
		g.forget(owner, key)
	}
	g.recall(ctx, key)
	return nil
}

// change writes an object anew; one that is gone, or is another one than uid
// says, is left alone.
func (g *garbage) change(ctx context.Context, key store.Key, uid types.UID, alter func(*unstructured.Unstructured)) error {
	rq, err := g.request(ctx, http.MethodPut, key)
	if err != nil {
		return err
	}
	_, _, err = g.s.modify(rq, options{}, func(old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		u := old.DeepCopy()
		if uid == "" || u.GetUID() == uid {
			alter(u)
		}
		return u, nil
	}, "garbage-collector")
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// request is a request for an object by the collector.
func (g *garbage) request(ctx context.Context, method string, key store.Key) (*request, error) {
	raw, err := http.NewRequestWithContext(ctx, method, "/", nil)
	if err != nil {
		return nil, err
	}
	for _, r := range g.s.registry.all {
		if r.key == key.Resource && r.view == nil {
			return &request{Request: raw, resource: r, namespace: key.Namespace, name: key.Name, user: garbageUser}, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", key, store.ErrInvalidKey)
}
