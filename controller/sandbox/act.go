package sandbox

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// remember updates what the status remembers to fit what was just seen.
func (r *Reconciler) remember(v *view) {
	st := &v.sbx.Status
	power := providers.PowerOff
	if v.machine != nil {
		power = v.machine.Power
	}
	now := metav1.NewTime(v.now)
	switch power {
	case providers.PowerRunning:
		if st.StartedAt == nil { // started by a run that was killed before it could say so
			st.StartedAt = &now
		}
		if since := st.StoppingSince; since != nil && v.desired.Power != v1.PowerStopped &&
			!v.now.Before(since.Add(providers.StopGrace)) {
			st.StoppingSince = nil // the guest ignored it, and it is not wanted any more
		}
	case providers.PowerStopping:
		if st.StoppingSince == nil {
			st.StoppingSince = &now
		}
	case providers.PowerOff:
		st.StoppingSince = nil
		st.Addresses = nil
		if crashed := v.machine != nil && v.machine.OffReason == providers.OffCrashed; crashed && st.StartedAt == nil {
			st.StartedAt = onSince(st) // it ended by itself before we could end it
		}
		if v.desired.Power != v1.PowerRunning {
			st.StartedAt = nil // off on purpose: the next start is no restart
		}
	case providers.PowerSaved:
		st.StoppingSince = nil
	}
	if power != providers.PowerRunning || v.machine.Agent != providers.AgentConnected && !agentless(v.img) {
		forgetGuestConfig(st) // mounts do not outlive the guest's run
	}
}

// onSince is since when a machine ran that the last look found running, and that was
// not started since; nil for any other.
func onSince(st *v1.SandboxStatus) *metav1.Time {
	c := meta.FindStatusCondition(st.Conditions, v1.ConditionPoweredOn)
	if c == nil || c.Status != metav1.ConditionTrue {
		return nil
	}
	return c.LastTransitionTime.DeepCopy()
}

// act carries out a step and records what a later run must know.
func (r *Reconciler) act(ctx context.Context, p providers.Provider, v *view, spec providers.MachineSpec) error {
	st := &v.sbx.Status
	id := v.sbx.UID
	untold := r.announce(ctx, v)
	if untold != nil && (!v.last.isolating() || apierrors.IsConflict(untold)) {
		return untold
	}
	now := metav1.NewTime(r.o.Clock.Now())
	switch v.last.action {
	case actEnsure:
		if err := p.EnsureMachine(ctx, spec); err != nil {
			return err
		}
		if v.machine == nil {
			r.eventMade(v)
			st.StartedAt, st.GuestConfigHash = nil, v.guestConfigOfDisk()
		}
	case actStart, actRestart:
		if err := r.beforeStart(ctx, v); err != nil {
			return err
		}
		if err := p.Start(ctx, id); err != nil {
			return err
		}
		st.StartedAt = &now
		st.StoppingSince = nil
		switch {
		case v.last.why == whyNoSpace:
			r.event(v.sbx, corev1.EventTypeWarning, v1.ReasonCapacity, "Start", "the host had no space for the machine's disk: it is let run, to see whether there is some")
		case v.last.action == actRestart:
			r.event(v.sbx, corev1.EventTypeWarning, "Restarted", "Start", "%s", restarted(v.machine))
		default:
			r.event(v.sbx, corev1.EventTypeNormal, "Started", "Start", "the machine runs")
		}
	case actStopGraceful:
		if err := p.Stop(ctx, id, providers.StopGraceful); err != nil {
			return err
		}
		st.StoppingSince = &now
	case actStopForce:
		// A guest is cut off also when that cannot be written down, as on a full disk.
		if err := errors.Join(p.Stop(ctx, id, providers.StopForce), untold); err != nil {
			return err
		}
		switch v.last.why {
		case whyNetwork:
			r.event(v.sbx, corev1.EventTypeWarning, "NetworkChanged", "Stop", "powered off to be started on the network that the spec names")
		case whyDrift, whyUnisolated:
			r.event(v.sbx, corev1.EventTypeWarning, v.told.reason, "Stop", "powered off, because it must not run as others left it: %s", v.told.what)
		}
		st.StartedAt, st.StoppingSince = nil, nil
	case actSuspend:
		if err := p.Suspend(ctx, id); err != nil {
			return err
		}
		r.event(v.sbx, corev1.EventTypeNormal, "Suspended", "Suspend", "memory and devices are saved on disk")
	case actReset:
		if err := p.Reset(ctx, id); err != nil {
			return err
		}
		st.GuestConfigHash = v.guestConfigOfDisk()
		r.event(v.sbx, corev1.EventTypeNormal, "Reverted", "Reset", "the disk is as it was cloned again")
		return r.reverted(ctx, v)
	case actRevert:
		if err := p.RevertMachine(ctx, v.target.ref()); err != nil {
			return err
		}
		st.GuestConfigHash = guestConfigUnknown // the keys and mounts of then
		r.event(v.sbx, corev1.EventTypeNormal, "Reverted", "Revert", "the machine is as in snapshot %s again", v.target.name)
		return r.reverted(ctx, v)
	}
	return nil
}

// reverted writes down that a revert was carried out, before the guest runs: if it
// were carried out again, what the guest did since would be lost.
func (r *Reconciler) reverted(ctx context.Context, v *view) error {
	st := &v.sbx.Status
	st.Revert = v.sbx.Spec.RevertTo.DeepCopy()
	st.StartedAt, st.StoppingSince, st.Addresses = nil, nil, nil
	for _, c := range []metav1.Condition{
		{Type: v1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1.ReasonReconciling},
		{Type: v1.ConditionPoweredOn, Status: metav1.ConditionUnknown, Reason: v1.ReasonNotObserved},
	} {
		c.Message = "it was reverted, and the machine has not been looked at since"
		c.ObservedGeneration, c.LastTransitionTime = v.sbx.Generation, metav1.NewTime(r.o.Clock.Now())
		meta.SetStatusCondition(&st.Conditions, c)
	}
	return r.write(ctx, v)
}

func (r *Reconciler) eventMade(v *view) {
	if v.sbx.Status.MachineID == "" {
		r.event(v.sbx, corev1.EventTypeNormal, "Created", "Ensure", "made machine %s from image %s", v.sbx.UID, v.img.Name)
		return
	}
	r.event(v.sbx, corev1.EventTypeWarning, "Recreated", "Ensure", "the hypervisor had machine %s no more, %s: made it again from image %s",
		v.sbx.UID, v.lost, v.img.Name)
}

// restrain does to a machine what must be done even when something in the spec
// keeps it from being made what it should be: it takes it off a network that the
// spec does not name any more, and stops it when it is to be off.
func (r *Reconciler) restrain(ctx context.Context, p providers.Provider, v *view) {
	if v.machine == nil || v.machine.Power == providers.PowerOff {
		return
	}
	if s, ok := unfit(v.desired, observedOf(v), v.now); ok {
		r.isolate(ctx, p, v, s)
	} else if v.desired.Power == v1.PowerStopped {
		r.stop(ctx, p, v)
	}
}

// stop stops a machine as it is.
func (r *Reconciler) stop(ctx context.Context, p providers.Provider, v *view) {
	asItIs := desired{Power: v1.PowerStopped, Restart: v.desired.Restart, Hashes: v.machine.Hashes}
	if v.last = next(asItIs, observedOf(v), v.now); v.last.action == actWait {
		return
	}
	if err := r.act(ctx, p, v, providers.MachineSpec{}); err != nil {
		v.err = err // not terminal, or not for long: tried again
		return
	}
	v.last.after = max(v.last.after, cacheLag) // to see what came of it
}

// isolate powers a machine off that must not run on as it is connected.
func (r *Reconciler) isolate(ctx context.Context, p providers.Provider, v *view, s step) {
	v.last = s
	if err := r.act(ctx, p, v, providers.MachineSpec{}); err != nil {
		v.err = err // not terminal, or not for long: tried again
		return
	}
	v.machine, v.observed, v.last.after = nil, false, cacheLag // seen again at the next look
}

// settle looks inside a machine that runs as asked, and sets up its guest.
func (r *Reconciler) settle(ctx context.Context, p providers.Provider, v *view) {
	if v.machine == nil || v.machine.Power != providers.PowerRunning {
		return
	}
	switch v.sbx.Spec.Readiness.Mode {
	case v1.ReadinessNone:
		v.guest = guestCheck{
			status: metav1.ConditionTrue, reason: v1.ReasonNotChecked,
			message: "spec.readiness asks for no check",
		}
	case v1.ReadinessSSH, v1.ReadinessTCP:
		v.guest = checkPort(ctx, r.o.Dialer, v.sbx, v.machine)
	default:
		v.guest = checkAgent(v.sbx, v.img, v.machine)
	}
	r.configureGuest(ctx, p, v)
}
