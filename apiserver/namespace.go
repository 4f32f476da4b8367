package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/store"
)

// A namespace lives as follows. Its spec.finalizers, which only the server
// writes, hold it back until the reaper found it empty.
//
//	created ── Active ── deleted ── Terminating ── contents deleted ── gone
//	                                nothing can be      (each as its own
//	                                created in it        finalizers allow)

// namespaceUser makes the deletions inside a namespace that is deleted.
var namespaceUser = User{Name: "system:namespace-controller"}

func prepareNamespace(obj, old map[string]any) {
	finalizers := []any{string(corev1.FinalizerKubernetes)}
	if old != nil {
		finalizers, _, _ = unstructured.NestedSlice(old, "spec", "finalizers")
	} else {
		obj["status"] = map[string]any{"phase": string(corev1.NamespaceActive)}
	}
	spec, _ := obj["spec"].(map[string]any)
	if spec == nil {
		spec = map[string]any{}
		obj["spec"] = spec
	}
	if len(finalizers) > 0 {
		spec["finalizers"] = finalizers
	} else {
		delete(spec, "finalizers")
	}
	meta := metadataOf(obj)
	labels, _ := meta["labels"].(map[string]any)
	if labels == nil {
		labels = map[string]any{}
		meta["labels"] = labels
	}
	labels[corev1.LabelMetadataName] = meta["name"]
}

func checkNamespaceDelete(old *unstructured.Unstructured) error {
	if old.GetName() == metav1.NamespaceDefault {
		return apierrors.NewForbidden(corev1.Resource("namespaces"), old.GetName(), errors.New("this namespace may not be deleted"))
	}
	return nil
}

func namespaceHolds(u *unstructured.Unstructured) bool {
	finalizers, _, _ := unstructured.NestedSlice(u.Object, "spec", "finalizers")
	return len(finalizers) > 0
}

// heldByServer tells whether the server's own finalizer is there; others may be
// set by /finalize.
func heldByServer(u *unstructured.Unstructured) bool {
	finalizers, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "finalizers")
	return slices.Contains(finalizers, string(corev1.FinalizerKubernetes))
}

// dropFinalizer takes the server's own finalizer away.
func dropFinalizer(u *unstructured.Unstructured) error {
	finalizers, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "finalizers")
	finalizers = slices.DeleteFunc(finalizers, func(f string) bool { return f == string(corev1.FinalizerKubernetes) })
	if len(finalizers) == 0 {
		unstructured.RemoveNestedField(u.Object, "spec", "finalizers")
		return nil
	}
	return unstructured.SetNestedStringSlice(u.Object, finalizers, "spec", "finalizers")
}

func namespaceMarked(obj map[string]any) {
	status, _ := obj["status"].(map[string]any)
	if status == nil {
		status = map[string]any{}
		obj["status"] = status
	}
	status["phase"] = string(corev1.NamespaceTerminating)
}

// namespaces keeps creations out of namespaces that are going away, and
// empties those.
type namespaces struct {
	s *Server
	// creating is held for reading from the check of a namespace to the write
	// into it. Who holds it for writing knows that no write is under way that
	// was checked before.
	creating sync.RWMutex
	wake     chan struct{} // one slot
	waiting  atomic.Bool   // some namespace waits for its contents to go
}

func newNamespaces(s *Server) *namespaces {
	return &namespaces{s: s, wake: make(chan struct{}, 1)}
}

// check refuses a creation in a namespace that does not exist or is going away.
func (n *namespaces) check(ctx context.Context, gr schema.GroupResource, key store.Key) error {
	entry, err := n.s.store.Get(ctx, store.Key{Resource: namespacesKey, Name: key.Namespace})
	if err != nil {
		return storeError(err, corev1.Resource(namespacesKey), key.Namespace)
	}
	u, err := decodeStored(entry.Value, entry.Revision)
	if err != nil {
		return err
	}
	if u.GetDeletionTimestamp() == nil {
		return nil
	}
	refusal := apierrors.NewForbidden(gr, key.Name,
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", key.Namespace))
	refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", key.Namespace), Field: "metadata.namespace",
	})
	return refusal
}

// terminating wakes the reaper for a namespace that is being deleted.
func (n *namespaces) terminating() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// contentRemoved wakes the reaper if it waits for objects to go.
func (n *namespaces) contentRemoved() {
	if n.waiting.Load() {
		n.terminating()
	}
}

// retryAfter is how long the reaper waits when something failed.
const retryAfter = 5 * time.Second

// run empties and removes namespaces until the context ends.
func (n *namespaces) run(ctx context.Context) {
	for {
		var retry <-chan time.Time
		if err := n.reap(ctx); err != nil && ctx.Err() == nil {
			n.s.log.Error(err, "A namespace could not be emptied yet")
			retry = n.s.clock.After(retryAfter)
		}
		select {
		case <-n.wake:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// reap goes once through the namespaces that are being deleted.
func (n *namespaces) reap(ctx context.Context) error {
	// Before looking, so that a removal meanwhile wakes the reaper again.
	n.waiting.Store(true)
	snapshot, err := n.s.store.List(ctx, namespacesKey, "")
	if err != nil {
		return err
	}
	var failed []error
	waiting := false
	for _, entry := range snapshot.Entries {
		u, err := decodeStored(entry.Value, entry.Revision)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", entry.Key, err))
			continue
		}
		if u.GetDeletionTimestamp() == nil || !heldByServer(u) {
			continue
		}
		waiting = true
		n.settle()
		if err := n.deleteContents(ctx, entry.Key.Name); err != nil {
			failed = append(failed, err)
		}
		if err := n.finalize(ctx, entry.Key); err != nil {
			failed = append(failed, err)
		}
	}
	if !waiting {
		n.waiting.Store(false)
	}
	return errors.Join(failed...)
}

// settle waits for the creations that are under way. Those that begin later
// find every namespace that was being deleted before.
func (n *namespaces) settle() {
	n.creating.Lock()
	defer n.creating.Unlock()
}

// contents are the resources whose objects lie in namespaces.
func (n *namespaces) contents() []*resource {
	return slices.DeleteFunc(slices.Clone(n.s.registry.all), func(r *resource) bool { return !r.namespaced || r.view != nil })
}

// deleteContents asks for the deletion of everything in a namespace.
func (n *namespaces) deleteContents(ctx context.Context, namespace string) error {
	var failed []error
	for _, r := range n.contents() {
		snapshot, err := n.s.store.List(ctx, r.key, namespace)
		if err != nil {
			return err
		}
		for _, entry := range snapshot.Entries {
			raw, err := http.NewRequestWithContext(ctx, http.MethodDelete, "/", nil)
			if err != nil {
				return err
			}
			rq := &request{Request: raw, resource: r, namespace: namespace, name: entry.Key.Name, user: namespaceUser}
			if _, _, _, err := n.s.deleteObject(rq, &metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				failed = append(failed, fmt.Errorf("%s: %w", entry.Key, err))
			}
		}
	}
	return errors.Join(failed...)
}

// finalize removes a namespace in which nothing can be created any more, if it
// is empty.
func (n *namespaces) finalize(ctx context.Context, key store.Key) error {
	for _, r := range n.contents() {
		snapshot, err := n.s.store.List(ctx, r.key, key.Name)
		if err != nil {
			return err
		}
		if len(snapshot.Entries) > 0 {
			return nil // the removal of the last one wakes the reaper
		}
	}
	for range maxAttempts {
		entry, err := n.s.store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		u, err := decodeStored(entry.Value, entry.Revision)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if err := dropFinalizer(u); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		value, err := encodeStored(u.Object)
		if err != nil {
			return err
		}
		r := n.s.registry.find(corev1.Resource(namespacesKey))
		if _, err := n.s.replace(ctx, r, entry, u, value); !errors.Is(err, errRaced) {
			return err
		}
	}
	return fmt.Errorf("%s: %w", key, errRaced)
}
