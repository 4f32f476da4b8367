package sandbox

import (
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// action is what a reconciliation does next.
type action string

const (
	// actWait: nothing to do now; step.after tells when to look again.
	actWait action = "Wait"
	// actEnsure: make the machine, or bring its definition to the spec.
	actEnsure action = "Ensure"
	// actStart: start, resume or restore the machine.
	actStart action = "Start"
	// actRestart: start a machine that had powered off or paused by itself.
	actRestart action = "Restart"
	// actStopGraceful: ask the guest to shut down.
	actStopGraceful action = "StopGraceful"
	// actStopForce: take the power away.
	actStopForce action = "StopForce"
	// actSuspend: save memory and devices to disk.
	actSuspend action = "Suspend"
	// actReset: replace the disk by a fresh clone of the image.
	actReset action = "Reset"
	// actRevert: put the machine back to a snapshot.
	actRevert action = "Revert"
)

// reason words that explain a step where the conditions need to know.
const (
	whyImage      = "image"      // no machine, and the image is not ready
	whyExited     = "exited"     // off by itself, and to be left off
	whyCrashLoop  = "crashloop"  // off by itself, and started again later
	whyShutdown   = "shutdown"   // the guest is shutting down
	whySettled    = "settled"    // as the spec says
	whyNoSnapshot = "nosnapshot" // off, and so nothing to suspend
	whyCapacity   = "capacity"   // the host has no room for what is next
	whyNetwork    = "network"    // runs on a network that the spec does not name
	whyDrift      = "drift"      // changed by others, and to be put right
	whyUnisolated = "unisolated" // not seen to be isolated for too long
	whyRepaired   = "repaired"   // powered off often to be put right, and started later
	whyDamaged    = "damaged"    // changed by others, and only people can put it right
	whyNoSpec     = "nospec"     // changed by others, and nobody knows how it was made
	whyNoSpace    = "nospace"    // halted, because the host has no space for its disk
)

// step is a decision: an action, why where it matters, and when to look again
// without being woken (0: only when woken or at the regular resync).
type step struct {
	action action
	why    string
	after  time.Duration
}

// desired is what the spec asks for, as far as the decision needs to know.
type desired struct {
	Power   v1.PowerState
	Restart v1.RestartPolicy
	Hashes  providers.Hashes
	// Known tells whether the spec of the machine is known, and not only its Hashes.
	Known bool
	// Revert is the requested revert, if any that can be carried out.
	Revert *v1.RevertTo
	// ImageReady tells whether a machine can be made.
	ImageReady bool
}

// observed is what was seen of the machine, and what the status remembers.
type observed struct {
	// Machine is nil when there is none.
	Machine *providers.Machine
	// StartedAt is when the current run began; zero when none did since the
	// machine was last off on purpose.
	StartedAt time.Time
	// StoppingSince is when the guest began to shut down, or was asked to.
	StoppingSince time.Time
	Restarts      int32
	// UnisolatedSince is since when its isolation is not seen although it is on; zero
	// when the last look saw it, or saw something else.
	UnisolatedSince time.Time
	// RepairedAt is when it was last powered off because of others, and Repairs how
	// often in a row.
	RepairedAt time.Time
	Repairs    int32
	// Kept: a snapshot of the machine was begun and has not ended, and may have
	// left it standing still.
	Kept bool
	// Due: artifacts are to be copied out of the disk once the machine is off.
	Due bool
	// Reverted is the last revert that was carried out.
	Reverted *v1.RevertTo
}

// next decides. It is total: every combination of arguments has a step.
func next(d desired, o observed, now time.Time) step {
	m := o.Machine
	if m == nil {
		if !d.ImageReady {
			return step{action: actWait, why: whyImage}
		}
		return step{action: actEnsure}
	}
	if m.Power != providers.PowerOff {
		if s, ok := unfit(d, o, now); ok {
			return s
		}
	}
	if revertPending(d.Revert, o.Reverted) {
		golden := d.Revert.Snapshot == v1.SnapshotGolden
		switch {
		case m.Power != providers.PowerOff && (golden || o.Due):
			return step{action: actStopForce}
		case golden:
			return step{action: actReset}
		default:
			return step{action: actRevert}
		}
	}
	if m.Power == providers.PowerOff {
		return nextOff(d, o, now)
	}
	if s, ok := nextDrifted(d, o); ok {
		return s
	}
	return recheck(nextOn(d, o, now), o)
}

// nextOn is of a machine that is not off, and that nobody else has changed.
func nextOn(d desired, o observed, now time.Time) step {
	switch o.Machine.Power {
	case providers.PowerRunning:
		return nextRunning(d, o, now)
	case providers.PowerPaused:
		return nextPaused(d, o, now)
	case providers.PowerSaved:
		return nextSaved(d)
	default: // PowerStopping
		return untilOff(o, now)
	}
}

func nextOff(d desired, o observed, now time.Time) step {
	if s, ok := nextOffDrifted(d, o.Machine); ok {
		return s
	}
	if o.Machine.Hashes != d.Hashes {
		return step{action: actEnsure}
	}
	switch {
	case d.Power == v1.PowerSuspended:
		return step{action: actWait, why: whyNoSnapshot}
	case d.Power == v1.PowerStopped:
		return step{action: actWait, why: whySettled}
	case o.StartedAt.IsZero():
		return afterRepair(o, now)
	case !restarts(d.Restart, o.Machine.OffReason):
		return step{action: actWait, why: whyExited}
	}
	return spaced(o, now, whyCrashLoop)
}

func nextRunning(d desired, o observed, now time.Time) step {
	if o.Machine.Hashes.Forwards != d.Hashes.Forwards {
		return step{action: actEnsure}
	}
	shuttingDown := !o.StoppingSince.IsZero()
	switch {
	case d.Power == v1.PowerStopped && !shuttingDown:
		return step{action: actStopGraceful, after: providers.StopGrace}
	case d.Power == v1.PowerStopped:
		return untilOff(o, now)
	case shuttingDown && now.Before(o.StoppingSince.Add(providers.StopGrace)):
		// Asked to stop before the spec changed its mind: the guest will be
		// off soon, unless it ignores the request.
		return untilOff(o, now)
	case d.Power == v1.PowerSuspended:
		return step{action: actSuspend}
	default:
		return step{action: actWait, why: whySettled}
	}
}

func nextPaused(d desired, o observed, now time.Time) step {
	switch {
	case d.Power == v1.PowerStopped:
		return step{action: actStopForce}
	case d.Power == v1.PowerSuspended:
		return step{action: actSuspend}
	case o.StartedAt.IsZero():
		return step{action: actStart} // a start that was interrupted
	case o.Machine.Paused == providers.PausedNoSpace:
		return untilSpace(o, now)
	case o.Kept:
		s := spaced(o, now, whyCrashLoop)
		if s.action == actRestart {
			s.action = actStart // it did not end by itself
		}
		return s
	default:
		return spaced(o, now, whyCrashLoop) // by hand, or by an I/O error that may recur
	}
}

func nextSaved(d desired) step {
	switch d.Power {
	case v1.PowerStopped:
		return step{action: actStopForce}
	case v1.PowerSuspended:
		return step{action: actWait, why: whySettled}
	default:
		return step{action: actStart}
	}
}

// untilOff waits for a guest that is shutting down, up to the grace period.
func untilOff(o observed, now time.Time) step {
	if o.StoppingSince.IsZero() {
		return step{action: actWait, why: whyShutdown, after: providers.StopGrace}
	}
	left := o.StoppingSince.Add(providers.StopGrace).Sub(now)
	if left <= 0 {
		return step{action: actStopForce}
	}
	return step{action: actWait, why: whyShutdown, after: left}
}

// spaced restarts, but not sooner after the last start than the number of
// restarts allows: a machine that keeps failing is tried ever more rarely, and
// one that had run for long is started again at once.
func spaced(o observed, now time.Time, why string) step {
	if left := o.StartedAt.Add(restartDelay(o.Restarts)).Sub(now); left > 0 {
		return step{action: actWait, why: why, after: left}
	}
	return step{action: actRestart}
}

// spaceInterval is how often a machine that found no space on the host is let run,
// to see whether there is some.
const spaceInterval = 30 * time.Second

// untilSpace lets a machine try again that found no space. It has not ended by
// itself: none of it counts as a restart.
func untilSpace(o observed, now time.Time) step {
	if left := o.StartedAt.Add(spaceInterval).Sub(now); left > 0 {
		return step{action: actWait, why: whyNoSpace, after: left}
	}
	return step{action: actStart, why: whyNoSpace}
}

// The delays between restarts are those of the kubelet: none before the first,
// then 10 s, doubling up to 5 min.
const (
	firstRestartDelay = 10 * time.Second
	maxRestartDelay   = 5 * time.Minute
)

func restartDelay(restarts int32) time.Duration {
	if restarts <= 0 {
		return 0
	}
	delay := firstRestartDelay
	for range restarts - 1 {
		if delay *= 2; delay >= maxRestartDelay {
			return maxRestartDelay
		}
	}
	return delay
}

// restarts tells whether a machine that powered off by itself is started again.
func restarts(p v1.RestartPolicy, why providers.OffReason) bool {
	switch p {
	case v1.RestartNever:
		return false
	case v1.RestartOnFailure:
		return why != providers.OffShutdown
	default:
		return true
	}
}

func revertPending(want, done *v1.RevertTo) bool {
	return want != nil && (done == nil || *want != *done)
}
