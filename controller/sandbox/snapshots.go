package sandbox

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/snapshot"
	"sandboxd.dev/sandboxd/providers"
)

// wantedSnapshot is a snapshot that a sandbox's spec names.
type wantedSnapshot struct {
	// name is empty when the spec names none.
	name string
	// snap is nil when there is none of that name.
	snap *v1.SandboxSnapshot
}

// wait is why something waits, as a condition says it.
type wait struct{ reason, message string }

// ref of a snapshot that was taken.
func (w wantedSnapshot) ref() providers.SnapshotRef {
	return providers.SnapshotRef{Machine: types.UID(w.snap.Status.MachineID), ID: w.snap.UID}
}

// usable tells whether machines can be made from it and reverted to it now.
func (w wantedSnapshot) usable() bool {
	return w.snap != nil && w.snap.DeletionTimestamp.IsZero() &&
		meta.IsStatusConditionTrue(w.snap.Status.Conditions, v1.ConditionReady)
}

// why says why it is not usable.
func (w wantedSnapshot) why(what string) wait {
	if w.snap == nil {
		return wait{v1.ReasonSnapshotNotFound, fmt.Sprintf("%s snapshot %q, which does not exist", what, w.name)}
	}
	because := "it has not been looked at yet"
	if !w.snap.DeletionTimestamp.IsZero() {
		because = "it is being deleted"
	} else if c := meta.FindStatusCondition(w.snap.Status.Conditions, v1.ConditionReady); c != nil {
		because = c.Message
	}
	return wait{v1.ReasonSnapshotNotReady, fmt.Sprintf("%s snapshot %q, which is not ready: %s", what, w.name, because)}
}

// findSnapshots reads the snapshots that the spec names and that matter now.
func (r *Reconciler) findSnapshots(ctx context.Context, v *view) (err error) {
	if v.origin, err = r.wanted(ctx, v.sbx, v.sbx.Spec.FromSnapshot); err != nil {
		return err
	}
	if revert := v.sbx.Spec.RevertTo; revertPending(revert, v.sbx.Status.Revert) && revert.Snapshot != v1.SnapshotGolden {
		v.target, err = r.wanted(ctx, v.sbx, revert.Snapshot)
	}
	return err
}

func (r *Reconciler) wanted(ctx context.Context, sbx *v1.Sandbox, name string) (wantedSnapshot, error) {
	if name == "" {
		return wantedSnapshot{}, nil
	}
	snap := &v1.SandboxSnapshot{}
	err := r.o.Client.Get(ctx, types.NamespacedName{Namespace: sbx.Namespace, Name: name}, snap)
	if apierrors.IsNotFound(err) {
		return wantedSnapshot{name: name}, nil
	}
	return wantedSnapshot{name: name, snap: snap}, err
}

// forkOf is what the machine of a fork is cloned from. It is nil, and v.unmade says
// why, when there is nothing yet to make a machine of, or no more to keep one to.
func (v *view) forkOf() (*providers.SnapshotRef, error) {
	w := v.origin
	if w.name == "" {
		return nil, nil
	}
	if w.snap != nil && w.snap.Status.Image != "" && w.snap.Status.Image != v.sbx.Spec.Image {
		return nil, providers.Errorf(providers.ErrInvalid, "sandbox "+v.sbx.Namespace+"/"+v.sbx.Name,
			"its image is %q, but snapshot %q is of a sandbox of image %q: delete it and apply it again with that image",
			v.sbx.Spec.Image, w.name, w.snap.Status.Image)
	}
	if v.machine == nil && !w.usable() {
		v.unmade = w.why("waits for")
		return nil, nil
	}
	if w.snap == nil || w.snap.Status.TakenAt == nil {
		return nil, nil // another one of the name, or none
	}
	ref := w.ref()
	return &ref, nil
}

// desireRevert sets the revert that is to be carried out. One that has to wait keeps
// nothing else from happening: what it waits for may need the machine to run.
func (v *view) desireRevert() error {
	v.unreverted = wait{}
	revert := v.sbx.Spec.RevertTo
	if !revertPending(revert, v.sbx.Status.Revert) || revert.Snapshot == v1.SnapshotGolden {
		v.desired.Revert = revert
		return nil
	}
	object, w := "sandbox "+v.sbx.Namespace+"/"+v.sbx.Name, v.target
	switch {
	case w.snap != nil && w.snap.Spec.Sandbox != v.sbx.Name:
		return providers.Errorf(providers.ErrInvalid, object,
			"revertTo.snapshot: snapshot %q is of sandbox %q, and a sandbox is reverted to its own only: name another one, or make a fork with fromSnapshot",
			w.name, w.snap.Spec.Sandbox)
	case w.snap != nil && w.snap.Status.MachineID != "" && w.snap.Status.MachineID != string(v.sbx.UID):
		return providers.Errorf(providers.ErrInvalid, object,
			"revertTo.snapshot: snapshot %q is of an earlier sandbox of this name: name another one", w.name)
	case !w.usable():
		v.unreverted = w.why("waits to be reverted to")
	default:
		v.desired.Revert = revert
	}
	return nil
}

// mayRevert tells whether a revert is asked for that what it goes to does not hold up.
func (v *view) mayRevert() bool {
	revert := v.sbx.Spec.RevertTo
	return revertPending(revert, v.sbx.Status.Revert) && (revert.Snapshot == v1.SnapshotGolden || v.target.usable())
}

// kept tells whether a snapshot of a machine that stands still was begun and has not
// ended.
func (r *Reconciler) kept(ctx context.Context, v *view) (bool, error) {
	if v.machine == nil || v.machine.Power != providers.PowerPaused {
		return false, nil
	}
	snapshots, err := r.snapshotsOf(ctx, v.sbx)
	if err != nil {
		return false, err
	}
	for i := range snapshots {
		if st := &snapshots[i].Status; st.Provider != "" && st.TakenAt == nil {
			return true, nil
		}
	}
	return false, nil
}

// snapshotsOf lists the snapshots of the sandbox's machine. They are only read.
func (r *Reconciler) snapshotsOf(ctx context.Context, sbx *v1.Sandbox) ([]v1.SandboxSnapshot, error) {
	var list v1.SandboxSnapshotList
	err := r.o.Client.List(ctx, &list, client.InNamespace(sbx.Namespace),
		client.MatchingFields{snapshot.IndexSandbox: sbx.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, err
	}
	var own []v1.SandboxSnapshot
	for i := range list.Items {
		if list.Items[i].Status.MachineID == string(sbx.UID) {
			own = append(own, list.Items[i])
		}
	}
	return own, nil
}

// deleteSnapshots has the snapshots of a sandbox that is being deleted go with it,
// and returns the forks of them that must go first.
func (r *Reconciler) deleteSnapshots(ctx context.Context, sbx *v1.Sandbox) (forks []string, err error) {
	snapshots, err := r.snapshotsOf(ctx, sbx)
	if err != nil {
		return nil, err
	}
	for i := range snapshots {
		snap := &snapshots[i]
		if snap.DeletionTimestamp.IsZero() {
			own := &v1.SandboxSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: snap.Namespace, Name: snap.Name}}
			if err := r.o.Client.Delete(ctx, own, client.Preconditions{UID: &snap.UID}); client.IgnoreNotFound(err) != nil {
				return nil, err
			}
		}
		var list v1.SandboxList
		err := r.o.Client.List(ctx, &list, client.InNamespace(sbx.Namespace),
			client.MatchingFields{snapshot.IndexForks: snap.Name}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, err
		}
		forks = append(forks, snapshot.Forks(list.Items)...)
	}
	return forks, nil
}

// holdForForks powers the machine of a sandbox off that is to be deleted once the
// forks of its snapshots are gone.
func (r *Reconciler) holdForForks(ctx context.Context, before, sbx *v1.Sandbox, forks []string) (reconcile.Result, error) {
	if p, err := r.o.Providers.Get(sbx.Status.Provider); err == nil {
		err = p.Stop(ctx, sbx.UID, providers.StopForce)
		if err != nil && !errors.Is(err, providers.ErrNotFound) {
			return reconcile.Result{}, err
		}
		r.o.Capacity.PoweredOff(sbx.UID)
		v := &view{sbx: sbx, now: r.o.Clock.Now()}
		v.reserve(r.o.Capacity.Held(sbx.UID))
		sbx.Status.StartedAt, sbx.Status.StoppingSince = nil, nil
		for _, c := range []metav1.Condition{
			{Type: v1.ConditionPoweredOn, Reason: v1.ReasonStopped, Message: "the machine is off"},
			{Type: v1.ConditionGuestReady, Reason: v1.ReasonPoweredOff, Message: "the machine is off"},
		} {
			c.Status, c.ObservedGeneration, c.LastTransitionTime = metav1.ConditionFalse, sbx.Generation, metav1.NewTime(r.o.Clock.Now())
			meta.SetStatusCondition(&sbx.Status.Conditions, c)
		}
	}
	deletingStatus(sbx, wait{v1.ReasonInUse, "powered off; to be deleted once " + snapshot.UsedBy("its snapshots'", forks) + " gone"}, r.o.Clock.Now())
	return reconcile.Result{RequeueAfter: r.o.Resync}, r.writer.Status(ctx, before, sbx)
}
