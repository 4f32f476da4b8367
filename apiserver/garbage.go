package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/store"
)

// An object that names others as its owners (metadata.ownerReferences) lives as
// long as one of them does. How an owner is deleted says what becomes of its
// dependents:
//
//	background  owner gone ──▶ dependents deleted
//	foreground  owner marked, finalizer foregroundDeletion ──▶ dependents deleted
//	            ──▶ none left that blocks it ──▶ finalizer removed, owner gone
//	orphan      owner marked, finalizer orphan ──▶ references to it removed
//	            from its dependents ──▶ finalizer removed, owner gone

// garbageUser makes the deletions of what nobody owns any more, whatever it is.
var garbageUser = User{Name: "system:garbage-collector", Groups: loopbackUser.Groups}

// garbage deletes objects whose owners are gone. It keeps in memory only who
// names an owner; every decision is made anew from what is in the store, so
// that nothing is lost when the daemon dies at any moment.
type garbage struct {
	s    *Server
	wake chan struct{} // one slot

	mu sync.Mutex
	// dependents are the keys of the objects that may name an owner, by its UID.
	dependents map[types.UID]map[store.Key]struct{}
	queue      map[store.Key]struct{} // objects to look at
}

func newGarbage(s *Server) *garbage {
	return &garbage{
		s: s, wake: make(chan struct{}, 1),
		dependents: map[types.UID]map[store.Key]struct{}{}, queue: map[store.Key]struct{}{},
	}
}

// ownership is the part of the metadata that the collection depends on.
type ownership struct {
	Metadata struct {
		UID               types.UID               `json:"uid"`
		OwnerReferences   []metav1.OwnerReference `json:"ownerReferences"`
		Finalizers        []string                `json:"finalizers"`
		DeletionTimestamp *metav1.Time            `json:"deletionTimestamp"`
	} `json:"metadata"`
}

// The members without which a value is of no interest: a write of any other
// object costs no parsing.
var (
	ownersMember   = []byte(`"ownerReferences":[`)
	deletionMember = []byte(`"deletionTimestamp":"`)
)

// wrote tells of a value that was stored.
func (g *garbage) wrote(key store.Key, value []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.record(key, value)
}

// record puts what a value says into the index. The caller holds mu.
func (g *garbage) record(key store.Key, value []byte) {
	owned, marked := bytes.Contains(value, ownersMember), bytes.Contains(value, deletionMember)
	if !owned && !marked {
		return
	}
	var o ownership
	if json.Unmarshal(value, &o) != nil {
		return
	}
	for _, ref := range o.Metadata.OwnerReferences {
		keys := g.dependents[ref.UID]
		if keys == nil {
			keys = map[store.Key]struct{}{}
			g.dependents[ref.UID] = keys
		}
		if _, known := keys[key]; !known {
			keys[key] = struct{}{}
			g.lookAt(key)
		}
	}
	if o.Metadata.DeletionTimestamp != nil && (slices.Contains(o.Metadata.Finalizers, metav1.FinalizerDeleteDependents) ||
		slices.Contains(o.Metadata.Finalizers, metav1.FinalizerOrphanDependents)) {
		g.lookAt(key)
	}
}

// removed tells of an entry that left the store. Those that it owned are looked
// at, and its owners, which may wait for it to go.
func (g *garbage) removed(ctx context.Context, entry store.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.dependents) == 0 {
		return
	}
	var o ownership
	if json.Unmarshal(entry.Value, &o) != nil {
		return
	}
	for key := range g.dependents[o.Metadata.UID] {
		g.lookAt(key)
	}
	for _, ref := range o.Metadata.OwnerReferences {
		g.forget(ref.UID, entry.Key)
		if key, ok := g.ownerKey(ref, entry.Key.Namespace); ok {
			g.lookAt(key)
		}
	}
	if len(o.Metadata.OwnerReferences) > 0 {
		g.recall(ctx, entry.Key)
	}
}

// recall puts into the index what an object says by now, after something was
// forgotten of its key: another one may have got that key before. It reads with
// mu held, so that nobody forgets between. The caller holds mu.
func (g *garbage) recall(ctx context.Context, key store.Key) {
	if entry, err := g.s.store.Get(context.WithoutCancel(ctx), key); err == nil {
		g.record(key, entry.Value)
	}
}

// forget drops that a key names an owner. The caller holds mu.
func (g *garbage) forget(owner types.UID, key store.Key) {
	delete(g.dependents[owner], key)
	if len(g.dependents[owner]) == 0 {
		delete(g.dependents, owner)
	}
}

// lookAt queues an object. The caller holds mu.
func (g *garbage) lookAt(key store.Key) {
	g.queue[key] = struct{}{}
	wake(g.wake)
}

func (g *garbage) next() (store.Key, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range g.queue {
		delete(g.queue, key)
		return key, true
	}
	return store.Key{}, false
}

// run collects until the context ends. It begins with everything that is owned:
// nobody knows what happened before the last daemon died.
func (g *garbage) run(ctx context.Context) {
	for !g.scan(ctx) { // until then an owner might go whose dependents are not known
		select {
		case <-g.s.clock.After(retryAfter):
		case <-ctx.Done():
			return
		}
	}
	for {
		failed := g.drain(ctx)
		var retry <-chan time.Time
		if len(failed) > 0 {
			retry = g.s.clock.After(retryAfter)
		}
		select {
		case <-g.wake:
		case <-retry:
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
		for _, key := range failed {
			g.queue[key] = struct{}{}
		}
		g.mu.Unlock()
	}
}

// drain looks at everything that is queued and returns what has to be looked at
// again later.
func (g *garbage) drain(ctx context.Context) (failed []store.Key) {
	for {
		key, ok := g.next()
		if !ok || ctx.Err() != nil {
			return failed
		}
		if err := g.look(ctx, key); err != nil && ctx.Err() == nil {
			g.s.log.Error(err, "Owner references could not be acted on yet", "object", key.String())
			failed = append(failed, key)
		}
	}
}

// scan finds every object that has owners or was left while its dependents were
// seen to.
func (g *garbage) scan(ctx context.Context) bool {
	for _, r := range storedOnly(g.s.registry.all) {
		if r.view != nil {
			continue
		}
		snapshot, err := g.s.store.List(ctx, r.key, "")
		if err != nil {
			if ctx.Err() == nil {
				g.s.log.Error(err, "Owner references could not be read yet", "resource", r.key)
			}
			return false
		}
		for _, entry := range snapshot.Entries {
			g.wrote(entry.Key, entry.Value)
		}
	}
	return true
}

// look does one object's part: it deletes it when nobody owns it any more, and
// sees to its dependents when it waits for that.
func (g *garbage) look(ctx context.Context, key store.Key) error {
	entry, err := g.s.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var o ownership
	if err := json.Unmarshal(entry.Value, &o); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if o.Metadata.DeletionTimestamp != nil {
		if err := g.release(ctx, key, o); err != nil {
			return err
		}
	}
	verdict := judgeOwners(o.Metadata.OwnerReferences, func(ref metav1.OwnerReference) ownerState {
		return g.ownerState(ctx, ref, key.Namespace)
	})
	switch {
	case verdict.remove && o.Metadata.DeletionTimestamp == nil:
		return g.collect(ctx, entry, o, verdict.foreground)
	case len(verdict.drop) > 0 && !verdict.remove:
		return g.dropReferences(ctx, key, o.Metadata.UID, verdict.drop)
	}
	return nil
}

// collect deletes an object that nobody owns, unless it changed meanwhile.
func (g *garbage) collect(ctx context.Context, entry store.Entry, o ownership, foreground bool) error {
	rq, err := g.request(ctx, http.MethodDelete, entry.Key)
	if err != nil {
		return err
	}
	version := formatRevision(entry.Revision)
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.Metadata.UID, ResourceVersion: &version}}
	if foreground {
		policy := metav1.DeletePropagationForeground
		options.PropagationPolicy = &policy
	}
	switch _, _, _, err = g.s.deleteObject(rq, options); {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		// It may have got an owner. What is still as it was read is refused for
		// another reason, such as that it is in use: that takes its time.
		now, getErr := g.s.store.Get(ctx, entry.Key)
		if getErr != nil || now.Revision == entry.Revision {
			return err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.lookAt(entry.Key)
		return nil
	}
	return err
}

// release sees to the dependents of an object that waits for that, and lets it
// go when it is done.
func (g *garbage) release(ctx context.Context, owner store.Key, o ownership) error {
	orphan := slices.Contains(o.Metadata.Finalizers, metav1.FinalizerOrphanDependents)
	if !orphan && !slices.Contains(o.Metadata.Finalizers, metav1.FinalizerDeleteDependents) {
		return nil
	}
	blocked := false
	for _, key := range g.dependentsOf(o.Metadata.UID) {
		ref, err := g.reference(ctx, key, o.Metadata.UID)
		switch {
		case err != nil:
			return err
		case ref == nil:
		case orphan:
			if err := g.dropReferences(ctx, key, "", []types.UID{o.Metadata.UID}); err != nil {
				return err
			}
		default:
			blocked = blocked || ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
			g.mu.Lock()
			g.lookAt(key)
			g.mu.Unlock()
		}
	}
	if blocked {
		return nil // the removal of the last one has us look again
	}
	return g.change(ctx, owner, o.Metadata.UID, func(u *unstructured.Unstructured) {
		u.SetFinalizers(slices.DeleteFunc(u.GetFinalizers(), func(f string) bool {
			return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
		}))
	})
}

func (g *garbage) dependentsOf(owner types.UID) []store.Key {
	g.mu.Lock()
	defer g.mu.Unlock()
	var keys []store.Key
	for key := range g.dependents[owner] {
		keys = append(keys, key)
	}
	return keys
}

// reference is the reference of an object to an owner; nil, and forgotten, when
// it has none.
func (g *garbage) reference(ctx context.Context, key store.Key, owner types.UID) (*metav1.OwnerReference, error) {
	entry, err := g.s.store.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	var o ownership
	if err == nil && json.Unmarshal(entry.Value, &o) == nil {
		for i, ref := range o.Metadata.OwnerReferences {
			if ref.UID == owner {
				return &o.Metadata.OwnerReferences[i], nil
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(owner, key)
	g.recall(ctx, key)
	return nil, nil
}
