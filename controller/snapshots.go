package controller

import (
	"context"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/snapshot"
	"sandboxd.dev/sandboxd/controller/turn"
)

// indexRevertTo is the field index of Sandboxes by the snapshot that they are to be
// reverted to.
const indexRevertTo = "spec.revertTo.snapshot"

func (c *Controllers) addSnapshots(o Options, wake queue, turns *turn.Turns) error {
	limiter := patient{o.RateLimiter(), func(r reconcile.Request) bool {
		return c.snapshots.Pending(func(k snapshot.Key) bool { return snapshot.RequestFor(k) == r })
	}}
	return builder.ControllerManagedBy(c.manager).
		Named("snapshot").
		Watches(&v1.SandboxSnapshot{}, &ownChanges{limiter: limiter}, builder.WithPredicates(specOrDeletionChanged())).
		Watches(&v1.Sandbox{}, handler.EnqueueRequestsFromMapFunc(c.snapshotsOf(o.Logger)), builder.WithPredicates(ownerChanged())).
		WatchesRawSource(wake.source(limiter)).
		WithOptions(o.of("snapshot", o.Snapshots, limiter)).
		Complete(c.ending(snapshot.New(snapshot.Options{
			Client: c.manager.GetClient(), Recorder: newRecorder(c.manager.GetEventRecorder("sandboxd")),
			Providers: o.Providers, Work: c.snapshots, Turns: turns, Resync: o.Resync, Clock: o.Clock,
		})))
}

// snapshotsOf finds the snapshots that name a sandbox, and the one that it began
// from.
func (c *Controllers) snapshotsOf(log logr.Logger) handler.MapFunc {
	return func(ctx context.Context, obj client.Object) []reconcile.Request {
		requests := c.find(ctx, log, &v1.SandboxSnapshotList{}, obj, snapshot.IndexSandbox)
		if from := obj.(*v1.Sandbox).Spec.FromSnapshot; from != "" {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: obj.GetNamespace(), Name: from}})
		}
		return requests
	}
}

// usersOf finds the sandboxes that have to do with a snapshot: its own, its forks and
// those that are to be reverted to it.
func (c *Controllers) usersOf(log logr.Logger) handler.MapFunc {
	return func(ctx context.Context, obj client.Object) []reconcile.Request {
		requests := []reconcile.Request{{NamespacedName: client.ObjectKey{
			Namespace: obj.GetNamespace(), Name: obj.(*v1.SandboxSnapshot).Spec.Sandbox,
		}}}
		for _, index := range []string{snapshot.IndexForks, indexRevertTo} {
			requests = append(requests, c.find(ctx, log, &v1.SandboxList{}, obj, index)...)
		}
		return requests
	}
}

// find lists the objects of a namespace whose indexed field names another object.
func (c *Controllers) find(ctx context.Context, log logr.Logger, list client.ObjectList, named client.Object, index string) []reconcile.Request {
	err := c.manager.GetClient().List(ctx, list, client.InNamespace(named.GetNamespace()),
		client.MatchingFields{index: named.GetName()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		log.Error(err, "cannot find the objects that name another; they are looked at at their next resync",
			"field", index, "object", client.ObjectKeyFromObject(named).String())
		return nil
	}
	var requests []reconcile.Request
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o.(client.Object))})
		return nil
	})
	return requests
}

// named indexes a name, if there is one.
func named(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// revertTarget is the snapshot that a sandbox is to be reverted to, or was.
func revertTarget(sbx *v1.Sandbox) string {
	if sbx.Spec.RevertTo == nil {
		return ""
	}
	return sbx.Spec.RevertTo.Snapshot
}

// ownerChanged passes what a snapshot waits for its sandbox to do, and what changes a
// snapshot's number of forks.
func ownerChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, is := e.ObjectOld.(*v1.Sandbox), e.ObjectNew.(*v1.Sandbox)
		return was.Generation != is.Generation || was.Status.MachineID != is.Status.MachineID ||
			!was.DeletionTimestamp.Equal(is.DeletionTimestamp) || upness(was) != upness(is)
	}}
}

// upness is what a snapshot looks at of a sandbox's conditions.
func upness(sbx *v1.Sandbox) (is [3]string) {
	for i, t := range []string{v1.ConditionProvisioned, v1.ConditionPoweredOn, v1.ConditionGuestReady} {
		if c := meta.FindStatusCondition(sbx.Status.Conditions, t); c != nil {
			is[i] = string(c.Status) + c.Reason
		}
	}
	return is
}

// snapshotChanged passes what a fork, a revert and the deletion of a sandbox wait for.
func snapshotChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, is := e.ObjectOld.(*v1.SandboxSnapshot), e.ObjectNew.(*v1.SandboxSnapshot)
		return !was.DeletionTimestamp.Equal(is.DeletionTimestamp) || was.Status.Forks != is.Status.Forks ||
			was.Status.MachineID != is.Status.MachineID || snapshot.Said(was) != snapshot.Said(is)
	}}
}
