package snapshot

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestNext names each row of the decision table once.
func TestNext(t *testing.T) {
	tests := []struct {
		name string
		o    observed
		want step
	}{
		{"no sandbox", observed{Owner: ownerAbsent}, step{actWait, whyAbsent}},
		{"sandbox without a machine", observed{Owner: ownerUnmade}, step{actWait, whyUnmade}},
		{"machine that disappeared", observed{Owner: ownerPresent}, step{actWait, whyUnmade}},
		{"running", observed{Owner: ownerPresent, Machine: providers.PowerRunning}, step{action: actTake}},
		{"running, with memory", observed{Owner: ownerPresent, Machine: providers.PowerRunning, Memory: true}, step{action: actTake}},
		{"booting", observed{Owner: ownerPresent, Machine: providers.PowerRunning, Rising: true}, step{actWait, whyStarting}},
		{"about to be started", observed{Owner: ownerPresent, Machine: providers.PowerOff, Rising: true}, step{actWait, whyStarting}},
		{"about to be started, with memory", observed{Owner: ownerPresent, Machine: providers.PowerOff, Rising: true, Memory: true}, step{actWait, whyStarting}},
		{"shutting down", observed{Owner: ownerPresent, Machine: providers.PowerStopping}, step{actWait, whyStopping}},
		{"off", observed{Owner: ownerPresent, Machine: providers.PowerOff}, step{action: actTake}},
		{"off, with memory", observed{Owner: ownerPresent, Machine: providers.PowerOff, Memory: true}, step{actWait, whyOff}},
		{"suspended, with memory", observed{Owner: ownerPresent, Machine: providers.PowerSaved, Memory: true}, step{action: actTake}},
		{"paused", observed{Owner: ownerPresent, Machine: providers.PowerPaused}, step{action: actTake}},
		{"held", observed{Owner: ownerPresent, Held: true}, step{action: actSettle}},
		{"held and taken", observed{Owner: ownerPresent, Held: true, Taken: true}, step{action: actSettle}},
		{"held, the sandbox is being deleted", observed{Owner: ownerDeleting, Held: true}, step{action: actSettle}},
		{"lost", observed{Owner: ownerPresent, Taken: true, Machine: providers.PowerRunning}, step{action: actLose}},
		{"not taken, the sandbox is being deleted", observed{Owner: ownerDeleting}, step{actWait, whyDeleting}},
		{"the sandbox is gone", observed{Owner: ownerGone, Held: true, Taken: true}, step{action: actCollect}},
		{"the sandbox is gone before it was taken", observed{Owner: ownerGone}, step{action: actCollect}},
		{"deleted", observed{Deleting: true, Owner: ownerPresent, Taken: true}, step{action: actRemove}},
		{"deleted, never bound", observed{Deleting: true, Owner: ownerAbsent}, step{action: actRemove}},
		{"deleted, with forks", observed{Deleting: true, Owner: ownerPresent, Taken: true, Forks: 2}, step{action: actHold}},
		{"deleted with its sandbox", observed{Deleting: true, Owner: ownerDeleting, Taken: true}, step{action: actFollow}},
		{"deleted with its sandbox, with forks", observed{Deleting: true, Owner: ownerDeleting, Taken: true, Forks: 1}, step{action: actHold}},
		{"deleted after its sandbox", observed{Deleting: true, Owner: ownerGone, Taken: true}, step{action: actRemove}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := next(tt.o); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestNextIsSafe goes through every combination of what next looks at.
func TestNextIsSafe(t *testing.T) {
	bools := []bool{false, true}
	for _, owner := range []owner{ownerAbsent, ownerUnmade, ownerPresent, ownerDeleting, ownerGone} {
		for _, m := range []providers.Power{"", providers.PowerOff, providers.PowerRunning, providers.PowerPaused, providers.PowerSaved, providers.PowerStopping} {
			for bits := range 32 {
				for _, forks := range []int{0, 3} {
					o := observed{
						Owner: owner, Machine: m, Forks: forks,
						Deleting: bools[bits&1], Taken: bools[bits>>1&1], Held: bools[bits>>2&1], Memory: bools[bits>>3&1], Rising: bools[bits>>4&1],
					}
					if rule := broken(o, next(o)); rule != "" {
						t.Errorf("%s: %+v of %+v", rule, next(o), o)
					}
				}
			}
		}
	}
}

// broken names the rule that a step breaks.
func broken(o observed, s step) string {
	switch s.action {
	case actTake:
		switch {
		case o.Taken || o.Held:
			return "takes what was taken"
		case o.Deleting || o.Owner != ownerPresent || o.Machine == "":
			return "takes what goes, or of nothing"
		case o.Machine == providers.PowerStopping || o.Memory && o.Machine == providers.PowerOff:
			return "takes what is refused"
		}
	case actRemove, actHold, actFollow:
		if !o.Deleting {
			return "removes unasked"
		}
		if s.action == actRemove && o.Forks > 0 {
			return "removes what forks need"
		}
	case actCollect:
		if o.Owner != ownerGone {
			return "collects what has a sandbox"
		}
	case actLose:
		if o.Held || !o.Taken {
			return "gives up what is there, or never was"
		}
	case actSettle:
		if !o.Held || o.Deleting {
			return "settles for nothing"
		}
	case actWait:
		if s.why == "" || o.Deleting || o.Held {
			return "waits for nothing"
		}
	default:
		return "unknown action"
	}
	return ""
}

func TestRising(t *testing.T) {
	sandbox := func(powered, reason, guest string) *v1.Sandbox {
		s := &v1.Sandbox{}
		if powered != "" {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1.ConditionPoweredOn, Status: metav1.ConditionStatus(powered), Reason: reason})
		}
		if guest != "" {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: v1.ConditionGuestReady, Status: metav1.ConditionStatus(guest)})
		}
		return s
	}
	tests := []struct {
		name  string
		sbx   *v1.Sandbox
		power providers.Power
		want  bool
	}{
		{"ready", sandbox("True", v1.ReasonRunning, "True"), providers.PowerRunning, false},
		{"agent silent", sandbox("True", v1.ReasonRunning, "Unknown"), providers.PowerRunning, false},
		{"booting", sandbox("True", v1.ReasonRunning, "False"), providers.PowerRunning, true},
		{"the status is behind", sandbox("False", v1.ReasonStarting, "False"), providers.PowerRunning, true},
		{"no status", sandbox("", "", ""), providers.PowerRunning, true},
		{"stopped", sandbox("False", v1.ReasonStopped, "False"), providers.PowerOff, false},
		{"ended", sandbox("False", v1.ReasonExited, "False"), providers.PowerOff, false},
		{"crashed", sandbox("False", v1.ReasonCrashed, "False"), providers.PowerOff, false},
		{"to be started", sandbox("False", v1.ReasonStarting, "False"), providers.PowerOff, true},
		{"just made", sandbox("", "", ""), providers.PowerOff, true},
		{"suspended", sandbox("False", v1.ReasonSuspended, "False"), providers.PowerSaved, false},
		{"paused by hand", sandbox("False", v1.ReasonPaused, "False"), providers.PowerPaused, false},
		{"starting", sandbox("False", v1.ReasonStarting, "False"), providers.PowerPaused, true},
	}
	for _, tt := range tests {
		if got := rising(tt.sbx, tt.power); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestUsedBy(t *testing.T) {
	for want, forks := range map[string]string{
		"its fork a is":                    "a",
		"its 2 forks a, b are":             "a b",
		"its 6 forks a, b, c, d, e, … are": "a b c d e f",
	} {
		if got := UsedBy("its", strings.Fields(forks)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
