package sandbox

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// view is everything that a status is derived from.
type view struct {
	sbx *v1.Sandbox
	// before is the sandbox as it was read or last written.
	before *v1.Sandbox
	// img is nil when there is no such image.
	img *v1.GoldenImage
	// observed tells whether the machine was looked at; machine is nil when
	// there was none.
	observed bool
	machine  *providers.Machine
	desired  desired
	// origin is the snapshot that the sandbox begins from, and target the one that
	// it is to be reverted to, if any.
	origin, target wantedSnapshot
	// kept: a snapshot of the machine was begun and has not ended.
	kept bool
	// unmade and unreverted say what a fork and a revert wait for, if they do.
	unmade, unreverted wait
	// lost says of a machine that has disappeared what became of its disk.
	lost string
	// told is what others have changed.
	told told
	// last is the step that the reconciliation ended with.
	last  step
	guest guestCheck
	// err is what ended the reconciliation, if anything did.
	err error
	now time.Time
	room
}

// guestCheck is the outcome of the readiness check of a running machine.
type guestCheck struct {
	status  metav1.ConditionStatus
	reason  string
	message string
	// configErr is why the guest's settings could not be applied.
	configErr error
}

// updateStatus derives conditions and phase from a view and puts them, and
// what was observed of the machine, into the status of v.sbx.
func updateStatus(v view) {
	st := &v.sbx.Status
	st.ObservedGeneration = v.sbx.Generation
	if v.machine != nil {
		st.MachineID = string(v.machine.ID)
		st.ImageRevision = v.machine.ImageRevision
		st.Accelerator = v.machine.Accelerator
		st.PortForwards = v.machine.PortForwards
		st.Addresses = v.machine.Addresses
	}
	set := func(c metav1.Condition) {
		c.ObservedGeneration = v.sbx.Generation
		c.LastTransitionTime = metav1.NewTime(v.now)
		meta.SetStatusCondition(&st.Conditions, c)
	}
	if !errors.Is(v.err, providers.ErrDown) {
		set(imageCondition(v))
	}
	notAdmitted(v, set)
	// What could not be looked at keeps the conditions of the last look, but for
	// those that others rely on.
	unseen(v, set)
	if v.observed {
		set(provisionedCondition(v))
		setNetwork(v, set)
		set(poweredCondition(v))
		set(guestCondition(v))
		setDrifted(v)
	}
	setWhileTrue(st, stalledCondition(v), set)
	set(readyCondition(v, st))
	st.Phase = phaseOf(v.sbx)
}

// deletingStatus says of a sandbox that is being deleted what is in the way.
func deletingStatus(sbx *v1.Sandbox, w wait, now time.Time) {
	meta.SetStatusCondition(&sbx.Status.Conditions, metav1.Condition{
		Type: v1.ConditionReady, Status: metav1.ConditionFalse,
		Reason:             w.reason,
		Message:            w.message,
		ObservedGeneration: sbx.Generation,
		LastTransitionTime: metav1.NewTime(now),
	})
	sbx.Status.Phase = phaseOf(sbx)
	sbx.Status.NextTryAt = nil // that of what failed before, if anything did
}

func setWhileTrue(st *v1.SandboxStatus, c metav1.Condition, set func(metav1.Condition)) {
	if c.Status == metav1.ConditionTrue {
		set(c)
		return
	}
	meta.RemoveStatusCondition(&st.Conditions, c.Type)
}

func imageCondition(v view) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionImageReady, Status: metav1.ConditionFalse}
	switch {
	case v.img == nil:
		c.Reason = v1.ReasonImageNotFound
		c.Message = fmt.Sprintf("waiting for GoldenImage %q, which does not exist", v.sbx.Spec.Image)
	case !outlives(v.img, v.sbx):
		c.Reason = v1.ReasonImageNotReady
		c.Message = fmt.Sprintf("waiting for another GoldenImage %q: the present one is being deleted, and was so before this sandbox was made", v.img.Name)
	case !imageReady(v.img, v.sbx):
		c.Reason = v1.ReasonImageNotReady
		c.Message = fmt.Sprintf("waiting for GoldenImage %q: %s", v.img.Name, readyMessage(v.img))
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1.ReasonImageReady
		c.Message = fmt.Sprintf("GoldenImage %q is ready", v.img.Name)
		if !v.img.DeletionTimestamp.IsZero() {
			c.Message = fmt.Sprintf("GoldenImage %q is being deleted, and stays until no sandbox uses it any more", v.img.Name)
		}
	}
	return c
}

// readyMessage says why an image is not ready, without the figures of a
// progress that nobody is woken for.
func readyMessage(img *v1.GoldenImage) string {
	c := meta.FindStatusCondition(img.Status.Conditions, v1.ConditionReady)
	switch {
	case c == nil:
		return "its import has not begun"
	case c.Reason == v1.ReasonImporting:
		return "it is being imported"
	case c.Reason == v1.ReasonProvisioning:
		return "it is being built in a machine: " + c.Message
	default:
		return c.Message
	}
}

func provisionedCondition(v view) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionProvisioned, Status: metav1.ConditionFalse}
	switch {
	case v.machine != nil:
		c.Status, c.Reason = metav1.ConditionTrue, v1.ReasonCreated
		c.Message = "machine, disk, seed and network exist"
	case v.err != nil:
		c.Reason, c.Message = providers.ReasonOf(v.err), v.err.Error()
	case v.unmade.reason != "":
		c.Reason, c.Message = v.unmade.reason, v.unmade.message
	case v.unadmitted.reason != "":
		c.Reason, c.Message = v.unadmitted.reason, v.unadmitted.message
	default:
		c.Reason, c.Message = v1.ReasonCreating, "there is no machine yet"
	}
	return c
}

// setNetwork sets the condition anew when the isolation is not seen any more, also where
// it was False for another reason: its time is since when the guest runs without.
func setNetwork(v view, set func(metav1.Condition)) {
	c, list := networkCondition(v), &v.sbx.Status.Conditions
	if had := meta.FindStatusCondition(*list, c.Type); had != nil && c.Reason == v1.ReasonNotObserved && had.Reason != c.Reason {
		meta.RemoveStatusCondition(list, c.Type)
	}
	set(c)
}

func networkCondition(v view) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionNetworkIsolated, Status: metav1.ConditionFalse, Reason: v1.ReasonNotObserved}
	switch {
	case v.machine == nil:
		c.Status, c.Message = metav1.ConditionUnknown, "there is no machine to look at"
	case v.machine.Power == providers.PowerOff || v.machine.Power == providers.PowerSaved:
		c.Status, c.Message = metav1.ConditionUnknown, "the machine is off: its connections are looked at when it starts"
	case v.machine.Hashes.Network != v.desired.Hashes.Network:
		c.Message = "the machine is connected as an earlier version of the spec said"
	case v.machine.Network.Isolated && v.machine.Network.Beyond != "":
		c.Reason = v1.ReasonNotEnforceable
		c.Message = v.machine.Network.Detail + "; " + v.machine.Network.Beyond
	case v.machine.Network.Isolated:
		c.Status, c.Reason = metav1.ConditionTrue, v1.ReasonObserved
		c.Message = v.machine.Network.Detail
	default:
		c.Message = v.machine.Network.Detail
	}
	return c
}

// poweredNow is poweredCondition to be written by itself.
func poweredNow(v view) metav1.Condition {
	c := poweredCondition(v)
	c.ObservedGeneration, c.LastTransitionTime = v.sbx.Generation, metav1.NewTime(v.now)
	return c
}

func poweredCondition(v view) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionPoweredOn, Status: metav1.ConditionFalse}
	if v.machine == nil {
		c.Reason, c.Message = v1.ReasonPoweredOff, "there is no machine yet"
		return c
	}
	switch v.machine.Power {
	case providers.PowerRunning:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1.ReasonRunning, "the machine runs"
		if v.sbx.Status.StoppingSince != nil {
			c.Reason, c.Message = v1.ReasonStopping, "the guest was asked to shut down at "+stamp(v.sbx.Status.StoppingSince)
		}
	case providers.PowerStopping:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1.ReasonStopping, "the guest is shutting down"
	case providers.PowerPaused:
		c.Reason, c.Message = v1.ReasonPaused, "the machine's CPUs are halted"
		if v.machine.Paused == providers.PausedNoSpace {
			c.Reason = v1.ReasonCapacity
			c.Message = "the machine is halted because the host has no space left for its disk: make room in sandboxd's data folder; the guest then goes on by itself, where it stopped"
		}
	case providers.PowerSaved:
		c.Reason, c.Message = v1.ReasonSuspended, "memory and devices are saved on disk"
	default:
		c.Reason, c.Message = offReason(v)
	}
	return c
}

func offReason(v view) (reason, message string) {
	if v.desired.Power != v1.PowerRunning {
		return v1.ReasonStopped, "the machine is off"
	}
	if v.unadmitted.reason != "" {
		return v.unadmitted.reason, v.unadmitted.message
	}
	switch {
	case v.last.why == whyDamaged:
		return v1.ReasonStopped, "the machine is off, and cannot be started as others left it"
	case v.last.why == whyNoSpec:
		return v1.ReasonStopped, "the machine is off: others changed it, and it cannot be put back while what it was made of is missing"
	case v.last.why == whyRepaired:
		return v1.ReasonStarting, fmt.Sprintf("the machine was powered off %d times in a row because others had changed it: it is started again at %s",
			v.sbx.Status.Repairs, v.now.Add(v.last.after).UTC().Format(time.RFC3339))
	case v.last.why == whyExited && v.machine.OffReason == providers.OffShutdown:
		return v1.ReasonExited, "the guest shut down and spec.restartPolicy leaves it off: set powerState to Stopped and Running again to start it"
	case v.last.why == whyExited:
		return v1.ReasonCrashed, fmt.Sprintf("%s (%s) and spec.restartPolicy leaves it off", ended(v.machine), v.machine.OffReason)
	case v.last.why == whyCrashLoop:
		return v1.ReasonCrashed, fmt.Sprintf("%s (%s) after %d restarts: the next one waits until %s",
			ended(v.machine), v.machine.OffReason, v.sbx.Status.Restarts, v.now.Add(v.last.after).UTC().Format(time.RFC3339))
	default:
		return v1.ReasonStarting, "the machine is about to be started"
	}
}

func guestCondition(v view) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionGuestReady, Status: metav1.ConditionFalse}
	if v.machine == nil || v.machine.Power != providers.PowerRunning {
		c.Reason, c.Message = v1.ReasonPoweredOff, "the machine is not running"
		if v.machine != nil && v.machine.Power == providers.PowerStopping {
			c.Message = "the guest is shutting down"
		}
		return c
	}
	if v.guest.status == "" { // an error came before the look inside
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1.ReasonNotObserved, "the guest was not looked at"
		if v.err != nil {
			c.Message += ": " + v.err.Error()
		}
		return c
	}
	c.Status, c.Reason, c.Message = v.guest.status, v.guest.reason, v.guest.message
	return c
}

func stalledCondition(v view) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionStalled, Status: metav1.ConditionFalse}
	if providers.IsTerminal(v.err) {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, providers.ReasonOf(v.err), v.err.Error()
	}
	return c
}

// readyCondition says why the sandbox is not ready, in the order in which the
// causes lie behind one another.
func readyCondition(v view, st *v1.SandboxStatus) metav1.Condition {
	c := metav1.Condition{Type: v1.ConditionReady, Status: metav1.ConditionFalse}
	because := func(conditionType string) bool {
		cause := meta.FindStatusCondition(st.Conditions, conditionType)
		if cause == nil || cause.Status == metav1.ConditionTrue || cause.Reason == v1.ReasonNotEnforceable {
			return false
		}
		c.Reason, c.Message = cause.Reason, cause.Message
		return true
	}
	switch {
	case errors.Is(v.err, providers.ErrDown): // and nobody knows
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1.ReasonUnavailable, v.err.Error()
	case v.err != nil:
		c.Reason, c.Message = providers.ReasonOf(v.err), v.err.Error()
	case v.unmade.reason == "" && v.machine == nil && because(v1.ConditionImageReady):
	case v.unadmitted.reason != "":
		c.Reason, c.Message = v.unadmitted.reason, v.unadmitted.message
	case v.unreverted.reason != "":
		c.Reason, c.Message = v.unreverted.reason, v.unreverted.message
	case because(v1.ConditionProvisioned), because(v1.ConditionPoweredOn),
		because(v1.ConditionNetworkIsolated), because(v1.ConditionGuestReady):
		// A guest that shuts down has no agent any more, and none is waited for.
		p, isolated := meta.FindStatusCondition(st.Conditions, v1.ConditionPoweredOn), meta.FindStatusCondition(st.Conditions, v1.ConditionNetworkIsolated)
		exposed := isolated != nil && isolated.Status == metav1.ConditionFalse && isolated.Reason != v1.ReasonNotEnforceable
		if p != nil && p.Status == metav1.ConditionTrue && p.Reason == v1.ReasonStopping && !exposed {
			c.Reason, c.Message = p.Reason, p.Message
		}
		if expired(v.sbx, v.now) {
			c.Reason, c.Message = v1.ReasonExpired, "stopped at "+stamp(st.ExpiresAt)+": "+expiryWhy(v.sbx)
		}
	case v.guest.configErr != nil:
		c.Reason, c.Message = v1.ReasonGuestConfigFailed, v.guest.configErr.Error()
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1.ReasonAsSpecified, "the sandbox can be used"
		if v.machine != nil && v.machine.Network.Beyond != "" {
			c.Message += "; its network is less isolated than its mode promises, as NetworkIsolated says"
		}
	}
	return c
}

// phaseOf summarizes the conditions. It is for printing only.
func phaseOf(sbx *v1.Sandbox) v1.SandboxPhase {
	is := func(t string) bool { return meta.IsStatusConditionTrue(sbx.Status.Conditions, t) }
	powered := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionPoweredOn)
	reason := ""
	if powered != nil {
		reason = powered.Reason
	}
	switch {
	case !sbx.DeletionTimestamp.IsZero():
		return v1.SandboxTerminating
	case is(v1.ConditionStalled):
		return v1.SandboxFailed
	case reason == v1.ReasonStopping:
		return v1.SandboxStopping
	case !is(v1.ConditionPoweredOn) && meta.IsStatusConditionFalse(sbx.Status.Conditions, v1.ConditionAdmitted):
		return v1.SandboxPending
	case reason == v1.ReasonSuspended:
		return v1.SandboxSuspended
	case reason == v1.ReasonStopped, reason == v1.ReasonExited, reason == v1.ReasonCrashed:
		return v1.SandboxStopped
	case is(v1.ConditionPoweredOn) && waitingForGuest(sbx):
		return v1.SandboxStarting
	case is(v1.ConditionPoweredOn):
		return v1.SandboxRunning
	case is(v1.ConditionProvisioned):
		return v1.SandboxStarting
	case is(v1.ConditionImageReady):
		return v1.SandboxCreating
	default:
		return v1.SandboxPending
	}
}

// waitingForGuest tells a guest that has not been ready yet from one that was.
func waitingForGuest(sbx *v1.Sandbox) bool {
	c := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionGuestReady)
	return c != nil && c.Status == metav1.ConditionFalse
}

func stamp(t *metav1.Time) string {
	if t == nil {
		return "an unknown time"
	}
	return t.UTC().Format(time.RFC3339)
}
