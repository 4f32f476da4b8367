// Package patch writes what a reconciliation changed of an object.
//
// Writes are merge patches over the version that was read: if somebody wrote
// meanwhile they fail with a conflict, and the reconciliation runs again on
// the newer version. Patches leave fields that this program does not know
// alone, which updates would drop.
package patch

import (
	"context"
	"sync"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Writer writes objects of a reconciler and remembers which version of each it
// wrote last, so that a reconciliation can tell that its cache does not have
// its own last write yet. It is safe for concurrent use.
type Writer struct {
	client client.Client

	mu      sync.Mutex
	written map[types.UID]string // resource versions
}

// NewWriter makes a Writer.
func NewWriter(c client.Client) *Writer {
	return &Writer{client: c, written: make(map[types.UID]string)}
}

// Stale tells whether an object, as read from a cache, is older than what was
// written last. What the reconciler remembers in the status would be missing.
func (w *Writer) Stale(o client.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	written, ok := w.written[o.GetUID()]
	if !ok {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(o.GetResourceVersion(), written)
	if err == nil && order < 0 {
		return true
	}
	delete(w.written, o.GetUID())
	return false
}

// Claim writes what must be there before anything is made for an object, which is its
// finalizer. Unlike with Object, one that is gone is an error: nobody would be told to
// remove what is made for it.
func (w *Writer) Claim(ctx context.Context, before, after client.Object) error {
	err := w.client.Patch(ctx, after, over(before))
	_ = w.remember(after, err)
	return err
}

// Object writes what changed outside of the status. An object that is gone is
// no error.
func (w *Writer) Object(ctx context.Context, before, after client.Object) error {
	return w.remember(after, w.client.Patch(ctx, after, over(before)))
}

// Status writes what changed of the status, if anything did. An object that is
// gone is no error.
func (w *Writer) Status(ctx context.Context, before, after client.Object) error {
	if apiequality.Semantic.DeepEqual(before, after) {
		return nil
	}
	return w.remember(after, w.client.Status().Patch(ctx, after, over(before)))
}

func (w *Writer) remember(o client.Object, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && (o.GetDeletionTimestamp().IsZero() || len(o.GetFinalizers()) > 0) {
		w.written[o.GetUID()] = o.GetResourceVersion()
		return nil
	}
	delete(w.written, o.GetUID())
	return client.IgnoreNotFound(err)
}

func over(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}

// ReadyChanged tells whether the Ready condition says something new.
func ReadyChanged(before, after []metav1.Condition) bool {
	b, a := meta.FindStatusCondition(before, v1.ConditionReady), meta.FindStatusCondition(after, v1.ConditionReady)
	return a != nil && (b == nil || a.Reason != b.Reason || a.Message != b.Message)
}
