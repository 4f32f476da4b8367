package controller

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Which changes of objects wake a controller: most are the echo of its own writes, or
// nothing to it.

// specOrDeletionChanged lets a controller pass over the echo of its own writes
// of status and finalizers.
func specOrDeletionChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
			!e.ObjectNew.GetDeletionTimestamp().Equal(e.ObjectOld.GetDeletionTimestamp())
	}}
}

// rebuildAsked passes what asks for a failed build to be tried again.
func rebuildAsked() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetAnnotations()[v1.AnnotationRebuild] != e.ObjectNew.GetAnnotations()[v1.AnnotationRebuild]
	}}
}

// cloneChanged passes what changes an image's number of clones.
func cloneChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.(*v1.Sandbox).Status.ImageRevision != e.ObjectNew.(*v1.Sandbox).Status.ImageRevision
	}}
}

// imageChanged passes what a sandbox that waits for its image waits for, and
// what its machine takes over from the image.
func imageChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, is := e.ObjectOld.(*v1.GoldenImage), e.ObjectNew.(*v1.GoldenImage)
		return was.Generation != is.Generation || was.Status.Revision != is.Status.Revision ||
			readyReason(was) != readyReason(is) || sealed(was) != sealed(is)
	}}
}

// sealed tells whether there is something to clone. Of an image that is being deleted
// Ready does not: it says who uses it all the time, also while its hypervisor is away.
func sealed(img *v1.GoldenImage) bool {
	return meta.IsStatusConditionTrue(img.Status.Conditions, v1.ConditionImported)
}

// readyReason is unique to each status of the Ready condition, and to each step of
// a build.
func readyReason(img *v1.GoldenImage) string {
	c := meta.FindStatusCondition(img.Status.Conditions, v1.ConditionReady)
	switch {
	case c == nil:
		return ""
	case c.Reason == v1.ReasonProvisioning:
		return c.Reason + ": " + c.Message
	default:
		return c.Reason
	}
}

// clonesDelay gathers the changes of many sandboxes into one look at their
// image.
const clonesDelay = 250 * time.Millisecond

// wakeImageOf wakes the reconciler of the image that a sandbox names.
type wakeImageOf struct{}

type imageQueue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Create implements handler.EventHandler.
func (wakeImageOf) Create(_ context.Context, e event.CreateEvent, q imageQueue) {
	wakeImage(q, e.Object)
}

// Update implements handler.EventHandler.
func (wakeImageOf) Update(_ context.Context, e event.UpdateEvent, q imageQueue) {
	wakeImage(q, e.ObjectNew)
}

// Delete implements handler.EventHandler.
func (wakeImageOf) Delete(_ context.Context, e event.DeleteEvent, q imageQueue) {
	wakeImage(q, e.Object)
}

// Generic implements handler.EventHandler.
func (wakeImageOf) Generic(_ context.Context, e event.GenericEvent, q imageQueue) {
	wakeImage(q, e.Object)
}

func wakeImage(q imageQueue, o client.Object) {
	q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKey{Name: o.(*v1.Sandbox).Spec.Image}}, clonesDelay)
}
