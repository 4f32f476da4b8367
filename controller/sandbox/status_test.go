package sandbox

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/conditiontest"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

// seen is a view of a sandbox that is ready.
func seen(change func(*view)) view {
	img := &v1.GoldenImage{}
	img.Name = "golden"
	img.Status.Conditions = []metav1.Condition{{Type: v1.ConditionReady, Status: metav1.ConditionTrue}}
	img.Status.Revision = "1"
	sbx := &v1.Sandbox{}
	sbx.Namespace, sbx.Name, sbx.Spec.Image = "default", "web", "golden"
	v := view{
		sbx: sbx, img: img, observed: true, now: t0, desired: desired{Power: v1.PowerRunning, Hashes: wanted},
		machine: &providers.Machine{Power: providers.PowerRunning, Hashes: wanted, Network: providers.NetworkObservation{Isolated: true, Detail: "no card"}},
		guest:   guestCheck{status: metav1.ConditionTrue, reason: v1.ReasonAgentConnected, message: "the guest agent answers"},
	}
	change(&v)
	return v
}

func off(v *view, why providers.OffReason, step string) {
	v.machine.Power, v.machine.OffReason, v.last.why = providers.PowerOff, why, step
}

// TestStatusSaysWhatItWaitsFor: of every state that is not ready the reason is the
// cause's, and the message names what is waited for or what to do.
func TestStatusSaysWhatItWaitsFor(t *testing.T) {
	failed := func(kind error) func(*view) {
		return func(v *view) { v.err = providers.Errorf(kind, "machine m", "the very cause") }
	}
	failedWith := func(kind error, reason string) func(*view) {
		return func(v *view) { v.err = providers.Errorf(kind, "machine m", "the very cause").WithReason(reason) }
	}
	for name, tc := range map[string]struct {
		change func(*view)
		// ready, and one condition that tells it in detail, as TYPE=STATUS/REASON.
		ready, also string
		says        []string
	}{
		"ready":               {func(*view) {}, "True/AsSpecified", "GuestReady=True/AgentConnected", []string{"can be used"}},
		"no check asked for":  {func(v *view) { v.guest.reason = v1.ReasonNotChecked }, "True/AsSpecified", "GuestReady=True/NotChecked", nil},
		"a probe passed":      {func(v *view) { v.guest.reason = v1.ReasonProbeSucceeded }, "True/AsSpecified", "GuestReady=True/ProbeSucceeded", nil},
		"isolated":            {func(*view) {}, "True/AsSpecified", "NetworkIsolated=True/Observed", nil},
		"not enforceable":     {func(v *view) { v.machine.Network.Beyond = "the host is reached" }, "True/AsSpecified", "NetworkIsolated=False/NotEnforceable", []string{"less isolated"}},
		"the machine is made": {func(*view) {}, "True/AsSpecified", "Provisioned=True/Created", nil},
		"it runs":             {func(*view) {}, "True/AsSpecified", "PoweredOn=True/Running", nil},

		"no image":      {func(v *view) { v.img, v.machine = nil, nil }, "False/ImageNotFound", "ImageReady=False/ImageNotFound", []string{`GoldenImage "golden"`, "does not exist"}},
		"image, unseen": {func(v *view) { v.img.Status.Conditions, v.machine = nil, nil }, "False/ImageNotReady", "ImageReady=False/ImageNotReady", []string{"its import has not begun"}},
		"image imports": {func(v *view) {
			v.machine = nil
			v.img.Status.Conditions = []metav1.Condition{{Type: v1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1.ReasonImporting, Message: "3%"}}
		}, "False/ImageNotReady", "ImageReady=False/ImageNotReady", []string{"it is being imported"}},
		"image builds": {func(v *view) {
			v.machine = nil
			v.img.Status.Conditions = []metav1.Condition{{Type: v1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1.ReasonProvisioning, Message: "step 2 runs"}}
		}, "False/ImageNotReady", "ImageReady=False/ImageNotReady", []string{"built in a machine", "step 2 runs"}},
		"image being deleted": {func(v *view) {
			v.machine, v.img.DeletionTimestamp = nil, &metav1.Time{Time: t0}
			v.img.Status.Conditions = []metav1.Condition{{Type: v1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1.ReasonInUse}, {Type: v1.ConditionImported, Status: metav1.ConditionTrue}}
		}, "False/Creating", "ImageReady=True/ImageReady", []string{"no machine yet"}},
		"image being deleted, lost": {func(v *view) {
			v.machine, v.img.DeletionTimestamp = nil, &metav1.Time{Time: t0}
			v.img.Status.Conditions = []metav1.Condition{{Type: v1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1.ReasonInUse, Message: "held"}, {Type: v1.ConditionImported, Status: metav1.ConditionFalse}}
		}, "False/ImageNotReady", "ImageReady=False/ImageNotReady", []string{"held"}},
		"image deleted before": {func(v *view) {
			v.machine, v.img.DeletionTimestamp = nil, &metav1.Time{Time: t0}
			v.sbx.CreationTimestamp = metav1.NewTime(t0.Add(time.Second))
			v.img.Status.Conditions = append(v.img.Status.Conditions, metav1.Condition{Type: v1.ConditionImported, Status: metav1.ConditionTrue})
		}, "False/ImageNotReady", "ImageReady=False/ImageNotReady", []string{"waiting for another GoldenImage", "is being deleted"}},
		"image deleted while the clock was set back": {func(v *view) {
			v.machine, v.img.DeletionTimestamp = nil, &metav1.Time{Time: t0}
			v.sbx.CreationTimestamp = metav1.NewTime(t0.Add(time.Hour))
			v.sbx.Status.MachineID, v.sbx.Status.ImageRevision = "m", "1"
			v.img.Status.Conditions = append(v.img.Status.Conditions, metav1.Condition{Type: v1.ConditionImported, Status: metav1.ConditionTrue})
		}, "False/Creating", "ImageReady=True/ImageReady", []string{"no machine yet"}},
		"image ready":                 {func(v *view) { v.machine = nil }, "False/Creating", "ImageReady=True/ImageReady", []string{"no machine yet"}},
		"a fork without its snapshot": {func(v *view) { v.machine, v.unmade = nil, wantedSnapshot{name: "s"}.why("waits for") }, "False/SnapshotNotFound", "Provisioned=False/SnapshotNotFound", []string{`snapshot "s"`}},
		"a fork of a snapshot to be": {func(v *view) {
			v.machine, v.unmade = nil, wantedSnapshot{name: "s", snap: &v1.SandboxSnapshot{}}.why("waits for")
		}, "False/SnapshotNotReady", "Provisioned=False/SnapshotNotReady", []string{`snapshot "s"`, "not been looked at"}},
		"a revert that waits": {func(v *view) { v.unreverted = wantedSnapshot{name: "s"}.why("waits to be reverted to") }, "False/SnapshotNotFound", "PoweredOn=True/Running", []string{`reverted to snapshot "s"`}},

		"to be started":       {func(v *view) { off(v, providers.OffNeverStarted, "") }, "False/Starting", "PoweredOn=False/Starting", []string{"about to be started"}},
		"off, as asked":       {func(v *view) { off(v, providers.OffShutdown, whySettled); v.desired.Power = v1.PowerStopped }, "False/Stopped", "GuestReady=False/PoweredOff", []string{"is off"}},
		"off, not looked at":  {func(v *view) { off(v, providers.OffShutdown, whySettled); v.desired.Power = v1.PowerStopped }, "False/Stopped", "NetworkIsolated=Unknown/NotObserved", nil},
		"left off":            {func(v *view) { off(v, providers.OffShutdown, whyExited) }, "False/Exited", "PoweredOn=False/Exited", []string{"restartPolicy", "set powerState"}},
		"crashed":             {func(v *view) { off(v, providers.OffCrashed, whyExited) }, "False/Crashed", "PoweredOn=False/Crashed", []string{"restartPolicy leaves it off"}},
		"crashes and crashes": {func(v *view) { off(v, providers.OffCrashed, whyCrashLoop); v.last.after = time.Minute }, "False/Crashed", "PoweredOn=False/Crashed", []string{"waits until " + t0.Add(time.Minute).UTC().Format(time.RFC3339)}},
		"shutting down":       {func(v *view) { v.machine.Power = providers.PowerStopping }, "False/Stopping", "PoweredOn=True/Stopping", []string{"shutting down"}},
		"asked to stop, and its agent has": {func(v *view) {
			v.sbx.Status.StoppingSince = &metav1.Time{Time: t0}
			v.machine.Agent = providers.AgentDisconnected
			v.guest = checkAgent(v.sbx, v.img, v.machine)
		}, "False/Stopping", "GuestReady=False/WaitingForAgent", []string{"asked to shut down at"}},
		"asked to stop, and its network is not enforceable": {func(v *view) {
			v.sbx.Status.StoppingSince = &metav1.Time{Time: t0}
			v.machine.Network.Beyond, v.machine.Agent = "the host is reached", providers.AgentDisconnected
			v.guest = checkAgent(v.sbx, v.img, v.machine)
		}, "False/Stopping", "NetworkIsolated=False/NotEnforceable", []string{"asked to shut down at"}},
		"asked to stop":        {func(v *view) { v.sbx.Status.StoppingSince = &metav1.Time{Time: t0} }, "True/AsSpecified", "PoweredOn=True/Stopping", nil},
		"suspended":            {func(v *view) { v.machine.Power = providers.PowerSaved }, "False/Suspended", "PoweredOn=False/Suspended", []string{"saved on disk"}},
		"paused":               {func(v *view) { v.machine.Power = providers.PowerPaused }, "False/Paused", "PoweredOn=False/Paused", []string{"CPUs are halted"}},
		"out of space":         {func(v *view) { v.machine.Power, v.machine.Paused = providers.PowerPaused, providers.PausedNoSpace }, "False/InsufficientCapacity", "PoweredOn=False/InsufficientCapacity", []string{"no space", "make room", "goes on by itself"}},
		"expired":              {func(v *view) { off(v, providers.OffShutdown, whySettled); v.desired.Power = v1.PowerStopped; expire(v) }, "False/Expired", "PoweredOn=False/Stopped", []string{"time to live"}},
		"on another network":   {func(v *view) { v.machine.Hashes.Network = "other" }, "False/NotObserved", "NetworkIsolated=False/NotObserved", []string{"earlier version of the spec"}},
		"not seen as isolated": {func(v *view) { v.machine.Network = providers.NetworkObservation{Detail: "two cards"} }, "False/NotObserved", "NetworkIsolated=False/NotObserved", []string{"two cards"}},
		"to be restarted":      {func(v *view) { v.machine.Hashes.Hardware = "other" }, "True/AsSpecified", "Drifted=True/RestartRequired", nil},

		"no agent yet": {func(v *view) {
			v.machine.Agent = providers.AgentDisconnected
			v.guest = checkAgent(v.sbx, v.img, v.machine)
		}, "False/WaitingForAgent", "GuestReady=False/WaitingForAgent", []string{"waiting for the guest agent, since the start at"}},
		"no agent any more": {func(v *view) {
			v.sbx.Status.Conditions = []metav1.Condition{{Type: v1.ConditionGuestReady, Status: metav1.ConditionTrue}}
			v.guest = checkAgent(v.sbx, v.img, v.machine)
		}, "False/AgentUnknown", "GuestReady=Unknown/AgentUnknown", []string{"answered before and does not now"}},
		"an image without agent": {func(v *view) {
			v.img.Spec.Guest.Agent = v1.GuestAgentNone
			v.guest = checkAgent(v.sbx, v.img, v.machine)
		}, "False/Unsupported", "GuestReady=False/Unsupported", []string{"no guest agent", "set spec.readiness.mode"}},
		"no port yet": {func(v *view) {
			v.sbx.Spec.Readiness.Mode = v1.ReadinessSSH
			v.guest = checkPort(t.Context(), nil, v.sbx, v.machine)
		}, "False/WaitingForProbe", "GuestReady=False/WaitingForProbe", []string{"waiting for an address", "port 22"}},
		"not looked inside": {func(v *view) { v.guest = guestCheck{}; failed(providers.ErrBusy)(v) }, "False/Busy", "GuestReady=Unknown/NotObserved", []string{"the very cause"}},
		"settings failed":   {func(v *view) { v.guest.configErr = providers.Errorf(providers.ErrInvalid, "guest", "no user x") }, "False/GuestConfigFailed", "GuestReady=True/AgentConnected", []string{"no user x"}},

		"invalid":           {failed(providers.ErrInvalid), "False/Invalid", "Stalled=True/Invalid", []string{"the very cause"}},
		"unsupported":       {failed(providers.ErrUnsupported), "False/Unsupported", "Stalled=True/Unsupported", []string{"the very cause"}},
		"unavailable":       {failed(providers.ErrUnavailable), "False/ProviderUnavailable", "PoweredOn=True/Running", []string{"the very cause"}},
		"busy":              {failed(providers.ErrBusy), "False/Busy", "", []string{"the very cause"}},
		"capacity":          {failed(providers.ErrCapacity), "False/InsufficientCapacity", "", []string{"the very cause"}},
		"not found":         {failed(providers.ErrNotFound), "False/NotFound", "", []string{"the very cause"}},
		"exists":            {failed(providers.ErrAlreadyExists), "False/AlreadyExists", "", []string{"the very cause"}},
		"of no kind":        {func(v *view) { v.err = hostpath.ErrForbidden }, "False/Error", "", nil},
		"a forbidden path":  {failedWith(providers.ErrInvalid, v1.ReasonHostPathForbidden), "False/HostPathForbidden", "Stalled=True/HostPathForbidden", []string{"the very cause"}},
		"a path not found":  {failedWith(providers.ErrInvalid, v1.ReasonHostPathNotFound), "False/HostPathNotFound", "Stalled=True/HostPathNotFound", []string{"the very cause"}},
		"no machine, error": {func(v *view) { v.machine = nil; failed(providers.ErrCapacity)(v) }, "False/InsufficientCapacity", "Provisioned=False/InsufficientCapacity", []string{"the very cause"}},
	} {
		v := seen(tc.change)
		updateStatus(v)
		conditiontest.Ready(t, name, v.sbx.Status.Conditions, tc.ready, tc.also, tc.says)
		for _, c := range v.sbx.Status.Conditions {
			if c.Message == "" && c.Reason != v1.ReasonNotChecked && c.Reason != v1.ReasonProbeSucceeded {
				t.Errorf("%s: %s says nothing: %+v", name, c.Type, c)
			}
			if c.LastTransitionTime.Time != t0 && c.Type != v1.ConditionGuestReady {
				t.Errorf("%s: %s is so since %v", name, c.Type, c.LastTransitionTime)
			}
		}
	}
}

// expire lets the time to live of a sandbox be over.
func expire(v *view) {
	v.sbx.CreationTimestamp = metav1.NewTime(t0.Add(-time.Hour))
	v.sbx.Spec.Lifecycle.TTL = &metav1.Duration{Duration: time.Minute}
	v.sbx.Status.ExpiresAt, _ = expiry(v.sbx)
}

// TestSinceIsKept: since when a condition is as it is does not change with its words,
// nor with a look that finds it the same, and does with its status.
func TestSinceIsKept(t *testing.T) {
	v := seen(func(v *view) { off(v, providers.OffNeverStarted, "") })
	since := func(kind string) time.Time {
		return meta.FindStatusCondition(v.sbx.Status.Conditions, kind).LastTransitionTime.Time
	}
	look := func(after time.Duration, change func(*view)) {
		v.now = t0.Add(after)
		change(&v)
		updateStatus(v)
	}
	look(0, func(*view) {})
	look(time.Minute, func(v *view) { v.err = providers.Errorf(providers.ErrCapacity, "machine", "no memory") })
	look(2*time.Minute, func(v *view) { v.sbx.Generation++ })
	if got := since(v1.ConditionReady); got != t0 {
		t.Errorf("not ready since %v, and it was never ready", got)
	}
	look(3*time.Minute, func(v *view) { v.err, v.machine.Power = nil, providers.PowerRunning })
	look(4*time.Minute, func(*view) {})
	if got := since(v1.ConditionReady); got != t0.Add(3*time.Minute) {
		t.Errorf("ready since %v", got)
	}
	if got := since(v1.ConditionImageReady); got != t0 {
		t.Errorf("the image is ready since %v", got)
	}
}

// TestUnseenIsNotClaimed: while a hypervisor does not answer, its sandboxes are not
// said to be isolated or ready inside; a guest that was ready before is not taken for
// one that has never been.
func TestUnseenIsNotClaimed(t *testing.T) {
	v := seen(func(*view) {})
	updateStatus(v)
	v.now, v.observed, v.machine = t0.Add(time.Minute), false, nil
	v.err = providers.Errorf(providers.ErrUnavailable, "libvirt", "it does not answer")
	updateStatus(v)
	for _, kind := range []string{v1.ConditionNetworkIsolated, v1.ConditionGuestReady} {
		c := meta.FindStatusCondition(v.sbx.Status.Conditions, kind)
		if c.Status != metav1.ConditionUnknown || c.Reason != v1.ReasonUnavailable || !strings.Contains(c.Message, "does not answer") || c.LastTransitionTime.Time != v.now {
			t.Errorf("%s is %+v", kind, c)
		}
	}
	if ready := meta.FindStatusCondition(v.sbx.Status.Conditions, v1.ConditionReady); ready.Status != metav1.ConditionFalse {
		t.Errorf("ready is %+v", ready)
	}
	silent := &providers.Machine{Power: providers.PowerRunning, Agent: providers.AgentDisconnected}
	if got := checkAgent(v.sbx, v.img, silent); got.status != metav1.ConditionUnknown || got.reason != v1.ReasonAgentUnknown {
		t.Errorf("the guest is then %+v", got)
	}
}
