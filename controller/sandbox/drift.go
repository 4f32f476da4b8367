package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// How long a machine runs on whose isolation is not seen, without anybody having
// been seen to change it, and how soon it is looked at again. What a provider cannot
// see for a moment, or puts back by itself, is seen again within this time.
const (
	isolationPatience = 30 * time.Second
	isolationRecheck  = 3 * time.Second
)

// repairMemory is after which time without another a repair is the first again.
const repairMemory = 2 * maxRestartDelay

// unfit decides about a machine that is not off and must not be on as it is connected,
// whatever else is to be done with it.
func unfit(d desired, o observed, now time.Time) (step, bool) {
	switch {
	case o.Machine.Hashes.Network != d.Hashes.Network:
		return step{action: actStopForce, why: whyNetwork}, true
	case hasRemedy(o.Machine.Drift, providers.RemedyPowerOff) && !staysSaved(d, o.Machine):
		return step{action: actStopForce, why: whyDrift}, true
	case leaks(o, now):
		return step{action: actStopForce, why: whyUnisolated}, true
	}
	return step{}, false
}

// isolating tells whether a step ends a machine because it must not be on as it is
// connected.
func (s step) isolating() bool {
	return s.action == actStopForce && (s.why == whyNetwork || s.why == whyDrift || s.why == whyUnisolated)
}

// nextDrifted decides what others have changed of a machine that is not off; false
// when that can wait.
func nextDrifted(d desired, o observed) (step, bool) {
	drift := o.Machine.Drift
	if hasRemedy(drift, providers.RemedyEnsure) && !hasRemedy(drift, providers.RemedyNone) && d.Known {
		return step{action: actEnsure, why: whyDrift}, true
	}
	return step{}, false
}

// staysSaved tells whether a machine is saved and is to be, and so does not run.
func staysSaved(d desired, m *providers.Machine) bool {
	return m.Power == providers.PowerSaved && d.Power == v1.PowerSuspended
}

// nextOffDrifted is nextDrifted of a machine that is off: it is not started before it
// is as it was made.
func nextOffDrifted(d desired, m *providers.Machine) (step, bool) {
	switch {
	case len(m.Drift) == 0:
		return step{}, false
	case hasRemedy(m.Drift, providers.RemedyNone):
		return step{action: actWait, why: whyDamaged}, true
	case !d.Known:
		return step{action: actWait, why: whyNoSpec}, true
	default:
		return step{action: actEnsure, why: whyDrift}, true
	}
}

func hasRemedy(all []providers.Drift, r providers.Remedy) bool {
	return slices.ContainsFunc(all, func(d providers.Drift) bool { return d.Remedy == r })
}

// exposed tells whether a guest may run whose isolation is not seen.
func exposed(m *providers.Machine) bool {
	return (m.Power == providers.PowerRunning || m.Power == providers.PowerStopping) && !m.Network.Isolated
}

// leaks tells whether that is so for too long.
func leaks(o observed, now time.Time) bool {
	return exposed(o.Machine) && !o.UnisolatedSince.IsZero() && !now.Before(o.UnisolatedSince.Add(isolationPatience))
}

// recheck has a machine looked at again soon whose isolation is not seen.
func recheck(s step, o observed) step {
	if s.action == actWait && o.Machine != nil && exposed(o.Machine) {
		s.after = sooner(s.after, isolationRecheck)
	}
	return s
}

// afterRepair starts a machine that is off on purpose or for the first time, but not
// soon after it was powered off again and again to be put right.
func afterRepair(o observed, now time.Time) step {
	if !o.RepairedAt.IsZero() {
		if left := o.RepairedAt.Add(restartDelay(o.Repairs - 1)).Sub(now); left > 0 {
			return step{action: actWait, why: whyRepaired, after: left}
		}
	}
	return step{action: actStart}
}

// told is what others have changed, as it is told to people; empty when they have
// not.
type told struct {
	reason string
	// what was seen: the same for the same change.
	what string
	// then is what comes of it.
	then string
}

// drifted says in which way a machine differs from the spec because of others.
func drifted(v *view) told {
	m := v.machine
	switch {
	case m == nil:
		return toldLost(v)
	case len(m.Drift) > 0:
		return toldDrift(v)
	case leaks(observedOf(v), v.now):
		return told{
			v1.ReasonNetworkChanged, "its network was not seen to be isolated for " + isolationPatience.String() + ": " + m.Network.Detail,
			"powered off, to be started again once it is seen to be isolated",
		}
	default:
		return toldPower(v)
	}
}

func toldLost(v *view) told {
	if v.sbx.Status.MachineID == "" {
		return told{}
	}
	return told{v1.ReasonMachineLost, "the hypervisor had machine " + v.sbx.Status.MachineID + " no more, " + v.lost, "made again"}
}

func toldDrift(v *view) told {
	drift := v.machine.Drift
	worst, _ := providers.Worst(drift)
	t := told{reason: worst.Reason, what: providers.Details(drift)}
	off := v.machine.Power == providers.PowerOff
	switch {
	case hasRemedy(drift, providers.RemedyPowerOff) && staysSaved(v.desired, v.machine):
		t.then = "put back once the machine is off: to run, it is powered off and started anew, without its saved memory"
	case hasRemedy(drift, providers.RemedyPowerOff) && !off:
		t.then = "powered off to be put back"
	case hasRemedy(drift, providers.RemedyNone):
		t.then = adviceOn(drift)
	case !v.desired.Known:
		t.then = "it cannot be put back as long as what the sandbox was made of is missing"
	case off || hasRemedy(drift, providers.RemedyEnsure):
		t.then = "being put back"
	case v.machine.Power == providers.PowerSaved:
		t.then = "put back when the machine goes on, or else once it is off"
	default:
		t.then = "put back once the machine is off: stop and start the sandbox to have that now"
	}
	return t
}

// adviceOn is what people can do about the first drift that only they can mend.
func adviceOn(drift []providers.Drift) string {
	i := slices.IndexFunc(drift, func(d providers.Drift) bool { return d.Remedy == providers.RemedyNone })
	return drift[i].Advice
}

// toldPower is of a machine that others powered off, paused or started.
func toldPower(v *view) told {
	m, st := v.machine, &v.sbx.Status
	on := m.Power == providers.PowerRunning || m.Power == providers.PowerPaused || m.Power == providers.PowerStopping
	switch wanted := v.desired.Power; {
	case wanted == v1.PowerRunning && m.Power == providers.PowerOff && m.OffReason == providers.OffDestroyed && st.StartedAt != nil:
		t := told{v1.ReasonPowerChanged, "somebody else forced the machine off", "to be started again"}
		if v.desired.Restart == v1.RestartNever {
			t.then = "left off, as spec.restartPolicy says: stop and start the sandbox to start it"
		}
		return t
	case wanted == v1.PowerRunning && m.Power == providers.PowerPaused && st.StartedAt != nil && !v.kept && m.Paused != providers.PausedNoSpace:
		return told{v1.ReasonPowerChanged, "the machine was paused, by somebody else or for an error of its disk", "to run on"}
	case wanted != v1.PowerRunning && on && (wasDown(st) || startedByHand(st)):
		return told{v1.ReasonPowerChanged, startedWhat, "put back to " + string(wanted)}
	}
	return told{}
}

const startedWhat = "somebody else started the machine"

// wasDown tells whether the last look found the machine as a spec wanted it that did
// not want it to run.
func wasDown(st *v1.SandboxStatus) bool {
	c := meta.FindStatusCondition(st.Conditions, v1.ConditionPoweredOn)
	return c != nil && (c.Reason == v1.ReasonStopped || c.Reason == v1.ReasonSuspended)
}

// startedByHand tells whether that is what was told, and is not over.
func startedByHand(st *v1.SandboxStatus) bool {
	c := meta.FindStatusCondition(st.Conditions, v1.ConditionDrifted)
	return c != nil && strings.HasPrefix(c.Message, startedWhat)
}

// seenAt parts what was seen from what comes of it, in the message of a condition.
const seenAt = " (seen at "

// same tells whether a condition tells this already.
func (t told) same(c *metav1.Condition) bool {
	return c != nil && c.Reason == t.reason && strings.HasPrefix(c.Message, t.what+seenAt)
}

// since is what was told before of a change that looks another way now that the machine
// was powered off because of it.
func (t told) since(v *view) told {
	c := meta.FindStatusCondition(v.sbx.Status.Conditions, v1.ConditionDrifted)
	off := v.machine != nil && v.machine.Power == providers.PowerOff
	if off && t.what != "" && c != nil && c.Reason == t.reason && counted(&v.sbx.Status, c) {
		t.what = whatOf(c)
	}
	return t
}

// counted tells whether the machine was powered off because of what a condition tells.
func counted(st *v1.SandboxStatus, c *metav1.Condition) bool {
	return st.RepairedAt != nil && !st.RepairedAt.Before(&c.LastTransitionTime)
}

// whatOf is what a condition told; empty when it told of nobody else's change.
func whatOf(c *metav1.Condition) string {
	if c == nil || c.Reason == v1.ReasonRestartRequired {
		return ""
	}
	what, _, _ := strings.Cut(c.Message, seenAt)
	return what
}

// setDrifted puts the condition into the status while it is true, with the time since
// when it is.
func setDrifted(v view) {
	st := &v.sbx.Status
	had := meta.FindStatusCondition(st.Conditions, v1.ConditionDrifted)
	c := metav1.Condition{
		Type: v1.ConditionDrifted, Status: metav1.ConditionTrue,
		ObservedGeneration: v.sbx.Generation, LastTransitionTime: metav1.NewTime(v.now),
	}
	switch t := v.told; {
	case t.what != "":
		if had != nil && !t.same(had) {
			meta.RemoveStatusCondition(&st.Conditions, v1.ConditionDrifted) // another one, seen now
		} else if had != nil {
			c.LastTransitionTime = had.LastTransitionTime
		}
		c.Reason = t.reason
		c.Message = fmt.Sprintf("%s%s%s): %s", t.what, seenAt, stamp(&c.LastTransitionTime), t.then)
	case whatOf(had) != "" && mending(v):
		return
	case v.machine != nil && v.machine.Power != providers.PowerOff && v.machine.Hashes.Hardware != v.desired.Hashes.Hardware:
		c.Reason = v1.ReasonRestartRequired
		c.Message = "cpus, memory, disk or shared folders were changed: stop and start the sandbox for the change to take effect"
		if whatOf(had) != "" {
			meta.RemoveStatusCondition(&st.Conditions, v1.ConditionDrifted)
		}
	default:
		meta.RemoveStatusCondition(&st.Conditions, v1.ConditionDrifted)
		return
	}
	meta.SetStatusCondition(&st.Conditions, c)
}

// mending tells whether a machine that is as it was made again has not come back
// to where it was.
func mending(v view) bool {
	return v.last.why == whyRepaired || v.last.why == whyCapacity ||
		v.err != nil && v.desired.Power == v1.PowerRunning && (v.machine == nil || v.machine.Power != providers.PowerRunning)
}

// ended says how a machine came to be off or paused that was to run.
func ended(m *providers.Machine) string {
	switch {
	case m.Power == providers.PowerPaused:
		return "the machine was paused"
	case m.OffReason == providers.OffDestroyed:
		return "somebody else forced the machine off"
	default:
		return "the machine ended by itself"
	}
}

// restarted says why a machine is started again, with what the hypervisor said of its end.
func restarted(m *providers.Machine) string {
	if m.OffReason == "" || m.Power == providers.PowerPaused {
		return ended(m)
	}
	return fmt.Sprintf("%s (%s)", ended(m), m.OffReason)
}

// unisolatedSince is since when the isolation of a machine that is on is not seen, as
// far as the last look told.
func unisolatedSince(st *v1.SandboxStatus) time.Time {
	c := meta.FindStatusCondition(st.Conditions, v1.ConditionNetworkIsolated)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != v1.ReasonNotObserved {
		return time.Time{}
	}
	return c.LastTransitionTime.Time
}
