package sandbox

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// announce writes down, before an action, what others have changed, if that was not
// told yet, and what the action ends: cut off in it, a later run must not take our own
// doing for somebody else's.
func (r *Reconciler) announce(ctx context.Context, v *view) error {
	st := &v.sbx.Status
	news := v.told.what != "" && !v.told.same(meta.FindStatusCondition(st.Conditions, v1.ConditionDrifted))
	ends := false
	switch v.last.action {
	case actStopForce:
		ends = true
		if v.last.why == whyDrift || v.last.why == whyUnisolated {
			countRepair(v)
		}
	case actStart:
		// Cut off, a start leaves the machine paused or off.
		ends = st.StartedAt != nil || onSince(st) != nil
	case actRestart:
		ends = true
		st.Restarts++
	}
	if !news && !ends {
		return nil
	}
	if ends {
		st.StartedAt = nil
	}
	if v.told.what != "" {
		setDrifted(*v)
	}
	if ends {
		announceEnd(v)
	}
	if err := r.write(ctx, v); err != nil {
		return err
	}
	if news {
		r.tell(v)
	}
	return nil
}

// announceEnd says that the machine does not run, or will not in a moment: whoever
// reads of the next run must not find the last one ready beside it.
func announceEnd(v *view) {
	st := &v.sbx.Status
	unready := metav1.Condition{
		Type: v1.ConditionReady, Status: metav1.ConditionFalse,
		ObservedGeneration: v.sbx.Generation, LastTransitionTime: metav1.NewTime(v.now),
	}
	powered := poweredNow(*v)
	if v.last.action != actStopForce { // what comes of the start is no end of the run before
		meta.SetStatusCondition(&st.Conditions, powered)
	}
	switch {
	case v.told.what != "":
		unready.Reason, unready.Message = v.told.reason, v.told.what+"; "+v.told.then
	case v.last.action != actStopForce && powered.Status == metav1.ConditionFalse:
		unready.Reason, unready.Message = powered.Reason, powered.Message
	default:
		return
	}
	meta.SetStatusCondition(&st.Conditions, unready)
}

// countRepair counts those that follow one another, each once, also when it was cut off.
func countRepair(v *view) {
	st, now := &v.sbx.Status, metav1.NewTime(v.now)
	if had := meta.FindStatusCondition(st.Conditions, v1.ConditionDrifted); v.told.same(had) && counted(st, had) {
		return
	}
	if st.RepairedAt == nil || v.now.Sub(st.RepairedAt.Time) > repairMemory {
		st.Repairs = 0
	}
	st.Repairs++
	st.RepairedAt = &now
}

// tell records the event of what others have changed.
func (r *Reconciler) tell(v *view) {
	r.event(v.sbx, corev1.EventTypeWarning, "Drifted", "Observe", "%s; %s", v.told.what, v.told.then)
}

// conclude derives the status, writes it, and tells what drifted since the last look
// or was put right.
func (r *Reconciler) conclude(ctx context.Context, v *view) error {
	st := &v.sbx.Status
	had := meta.FindStatusCondition(st.Conditions, v1.ConditionDrifted)
	news, was := v.told.what != "" && !v.told.same(had), whatOf(had)
	updateStatus(*v)
	r.noteTry(v.sbx, v.err)
	now := whatOf(meta.FindStatusCondition(st.Conditions, v1.ConditionDrifted))
	if err := r.write(ctx, v); err != nil {
		return err
	}
	if news && v.observed {
		r.tell(v)
	}
	if was != "" && now == "" && v.observed {
		r.event(v.sbx, corev1.EventTypeNormal, "Repaired", "Repair", "put right: %s", was)
	}
	return nil
}

// seekDisk finds out, of a machine that has disappeared, whether its disk did as well.
func (r *Reconciler) seekDisk(ctx context.Context, p providers.Provider, v *view) error {
	if v.machine != nil || v.sbx.Status.MachineID == "" || v.lost != "" {
		return nil
	}
	all, err := p.ListResources(ctx)
	if err != nil {
		return err
	}
	v.lost = "nor its disk: what the guest had written is lost"
	if slices.ContainsFunc(all, func(r providers.Resource) bool {
		return r.Kind == providers.ResourceDisk && slices.Contains(r.Owners, v.sbx.UID)
	}) {
		v.lost = "but still its disk"
	}
	return nil
}

// damaged is the error of a machine that is off and that only people can mend.
func damaged(v *view) error {
	drift := v.machine.Drift
	i := slices.IndexFunc(drift, func(d providers.Drift) bool { return d.Remedy == providers.RemedyNone })
	return providers.Errorf(providers.ErrInvalid, "machine "+string(v.machine.ID), "%s: %s", providers.Details(drift), drift[i].Advice).
		WithReason(drift[i].Reason)
}

// unmended is the error of a machine that was put right and is not.
func unmended(v *view) error {
	return providers.Errorf(providers.ErrBusy, "machine "+string(v.machine.ID),
		"it was put right, and is not: %s", providers.Details(v.machine.Drift))
}
