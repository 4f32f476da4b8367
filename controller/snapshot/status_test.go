package snapshot

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/conditiontest"
	"sandboxd.dev/sandboxd/providers"
)

// TestStatusSaysWhatItWaitsFor: of every state that is not ready the reason is the
// cause's, and the message names what is waited for or what to do.
func TestStatusSaysWhatItWaitsFor(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	waits := func(why string) func(*state) {
		return func(s *state) { s.last = step{actWait, why} }
	}
	boots := &v1.Sandbox{}
	boots.Status.Conditions = []metav1.Condition{{Type: v1.ConditionGuestReady, Status: metav1.ConditionFalse, Message: "waiting for the guest agent"}}
	failed := func(kind error, reason string) func(*state) {
		return func(s *state) { s.err = providers.Errorf(kind, "snapshot", "the very cause").WithReason(reason) }
	}
	for name, tc := range map[string]struct {
		change      func(*state)
		ready, also string
		says        []string
	}{
		"taken":       {func(s *state) { s.last.action = actSettle; s.held = &providers.Snapshot{} }, "True/AsSpecified", "", []string{"is kept"}},
		"is taken":    {func(s *state) { s.last.action = actTake }, "False/Taking", "", []string{`sandbox "web"`}},
		"no sandbox":  {waits(whyAbsent), "False/SandboxNotFound", "", []string{`sandbox "web"`, "does not exist"}},
		"no machine":  {waits(whyUnmade), "False/SandboxNotReady", "", []string{`sandbox "web" to be made`}},
		"deleted":     {waits(whyDeleting), "False/SandboxNotReady", "", []string{`sandbox "web" is being deleted`}},
		"shuts down":  {waits(whyStopping), "False/SandboxNotReady", "", []string{"waits until it is off"}},
		"boots":       {func(s *state) { waits(whyStarting)(s); s.sandbox = boots }, "False/SandboxNotReady", "", []string{`sandbox "web" to be up`, "waiting for the guest agent"}},
		"off":         {waits(whyOff), "False/SandboxNotReady", "", []string{"start it, or take a snapshot without memory"}},
		"lost":        {failed(providers.ErrInvalid, v1.ReasonLost), "False/Lost", "Stalled=True/Lost", []string{"the very cause"}},
		"no space":    {failed(providers.ErrCapacity, ""), "False/InsufficientCapacity", "", []string{"the very cause"}},
		"unavailable": {failed(providers.ErrUnavailable, ""), "False/ProviderUnavailable", "", []string{"the very cause"}},
		"cannot be seen": {func(s *state) {
			failed(providers.ErrUnavailable, "")(s)
			s.snap.Status.TakenAt = &metav1.Time{Time: now}
		}, "Unknown/ProviderUnavailable", "", []string{"the very cause"}},
		"held by forks": {func(s *state) { s.last.action = actHold; s.forks = []string{"f"} }, "False/InUse", "", []string{"fork f is gone"}},
		"goes along":    {func(s *state) { s.last.action = actFollow }, "False/Deleting", "", []string{`sandbox "web", which is being deleted`}},
		"removed": {
			func(s *state) { s.snap.DeletionTimestamp = &metav1.Time{Time: now}; failed(providers.ErrBusy, "")(s) },
			"False/Deleting", "",
			[]string{"is being removed: ", "the very cause"},
		},
	} {
		s := &state{snap: &v1.SandboxSnapshot{}, now: now}
		s.snap.Spec.Sandbox = "web"
		tc.change(s)
		updateStatus(s)
		ready := conditiontest.Ready(t, name, s.snap.Status.Conditions, tc.ready, tc.also, tc.says)
		if ready.LastTransitionTime.Time != now {
			t.Errorf("%s: since %v", name, ready.LastTransitionTime)
		}
	}
}
