package sandbox

import (
	"fmt"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

var (
	t0     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	wanted = providers.Hashes{Hardware: "h", Network: "n", Forwards: "f", Seed: "s"}
	// isolated is what was seen of the network of most machines here.
	isolated = providers.NetworkObservation{Isolated: true}
	revert   = &v1.RevertTo{Snapshot: v1.SnapshotGolden, Request: "1"}
	back     = &v1.RevertTo{Snapshot: "s", Request: "1"}
)

func with(change func(*providers.Hashes)) providers.Hashes {
	h := wanted
	change(&h)
	return h
}

// TestNext names each row of the decision table once.
func TestNext(t *testing.T) {
	running := desired{Power: v1.PowerRunning, Restart: v1.RestartAlways, Hashes: wanted, Known: true, ImageReady: true}
	stopped := desired{Power: v1.PowerStopped, Restart: v1.RestartAlways, Hashes: wanted, Known: true, ImageReady: true}
	suspended := desired{Power: v1.PowerSuspended, Restart: v1.RestartAlways, Hashes: wanted, Known: true, ImageReady: true}
	never, onFailure, reverting, noImage, goingBack := running, running, running, running, running
	goingBack.Revert = back
	never.Restart, onFailure.Restart, reverting.Revert, noImage.ImageReady = v1.RestartNever, v1.RestartOnFailure, revert, false

	is := func(p providers.Power) *providers.Machine {
		return &providers.Machine{Power: p, Hashes: wanted, Network: isolated}
	}
	off := func(r providers.OffReason) *providers.Machine {
		return &providers.Machine{Power: providers.PowerOff, OffReason: r, Hashes: wanted}
	}
	differs := func(p providers.Power, change func(*providers.Hashes)) *providers.Machine {
		return &providers.Machine{Power: p, Hashes: with(change), Network: isolated}
	}
	network := func(h *providers.Hashes) { h.Network = "other" }
	forwards := func(h *providers.Hashes) { h.Forwards = "other" }
	hardware := func(h *providers.Hashes) { h.Hardware = "other" }
	seed := func(h *providers.Hashes) { h.Seed = "other" }
	starved := is(providers.PowerPaused)
	starved.Paused = providers.PausedNoSpace
	ago := func(d time.Duration) time.Time { return t0.Add(-d) }

	tests := []struct {
		name string
		d    desired
		o    observed
		want step
	}{
		{"no machine, image ready", running, observed{}, step{action: actEnsure}},
		{"no machine, image not ready", noImage, observed{}, step{action: actWait, why: whyImage}},
		{"no machine, to be stopped", stopped, observed{}, step{action: actEnsure}},

		{"never started", running, observed{Machine: off(providers.OffNeverStarted)}, step{action: actStart}},
		{"off, to be stopped", stopped, observed{Machine: off(providers.OffShutdown)}, step{action: actWait, why: whySettled}},
		{"off, to be suspended", suspended, observed{Machine: off(providers.OffShutdown)}, step{action: actWait, why: whyNoSnapshot}},
		{"off, definition differs", running, observed{Machine: differs(providers.PowerOff, hardware)}, step{action: actEnsure}},
		{"off and to stay off, definition differs", stopped, observed{Machine: differs(providers.PowerOff, seed)}, step{action: actEnsure}},
		{"image gone, machine off", noImage, observed{Machine: off(providers.OffNeverStarted)}, step{action: actStart}},

		{"shut down by itself, Always", running, observed{Machine: off(providers.OffShutdown), StartedAt: ago(time.Hour)}, step{action: actRestart}},
		{"shut down by itself, OnFailure", onFailure, observed{Machine: off(providers.OffShutdown), StartedAt: ago(time.Hour)}, step{action: actWait, why: whyExited}},
		{"shut down by itself, Never", never, observed{Machine: off(providers.OffShutdown), StartedAt: ago(time.Hour)}, step{action: actWait, why: whyExited}},
		{"crashed, OnFailure", onFailure, observed{Machine: off(providers.OffCrashed), StartedAt: ago(time.Hour)}, step{action: actRestart}},
		{"destroyed, OnFailure", onFailure, observed{Machine: off(providers.OffDestroyed), StartedAt: ago(time.Hour)}, step{action: actRestart}},
		{"gone after a host reboot, OnFailure", onFailure, observed{Machine: off(providers.OffUnknown), StartedAt: ago(time.Hour)}, step{action: actRestart}},
		{"crashed, Never", never, observed{Machine: off(providers.OffCrashed), StartedAt: ago(time.Hour)}, step{action: actWait, why: whyExited}},
		{"stopped on purpose before, Never", never, observed{Machine: off(providers.OffShutdown)}, step{action: actStart}},
		{"crashed at once, first time", running, observed{Machine: off(providers.OffCrashed), StartedAt: t0}, step{action: actRestart}},
		{"crashed at once, second time", running, observed{Machine: off(providers.OffCrashed), StartedAt: ago(3 * time.Second), Restarts: 1}, step{actWait, whyCrashLoop, 7 * time.Second}},
		{"crashed at once, fourth time", running, observed{Machine: off(providers.OffCrashed), StartedAt: t0, Restarts: 3}, step{actWait, whyCrashLoop, 40 * time.Second}},
		{"crashed often", running, observed{Machine: off(providers.OffCrashed), StartedAt: t0, Restarts: 1000}, step{actWait, whyCrashLoop, 5 * time.Minute}},
		{"crashed after a long run", running, observed{Machine: off(providers.OffCrashed), StartedAt: ago(time.Hour), Restarts: 1000}, step{action: actRestart}},

		{"running", running, observed{Machine: is(providers.PowerRunning), StartedAt: ago(time.Hour)}, step{action: actWait, why: whySettled}},
		{"running on another network", running, observed{Machine: differs(providers.PowerRunning, network)}, step{action: actStopForce, why: whyNetwork}},
		{"running with other forwards", running, observed{Machine: differs(providers.PowerRunning, forwards)}, step{action: actEnsure}},
		{"running with other hardware", running, observed{Machine: differs(providers.PowerRunning, hardware)}, step{action: actWait, why: whySettled}},
		{"running with another seed", running, observed{Machine: differs(providers.PowerRunning, seed)}, step{action: actWait, why: whySettled}},
		{"running, to be stopped", stopped, observed{Machine: is(providers.PowerRunning)}, step{action: actStopGraceful, after: providers.StopGrace}},
		{"asked to stop", stopped, observed{Machine: is(providers.PowerRunning), StoppingSince: ago(time.Second)}, step{actWait, whyShutdown, providers.StopGrace - time.Second}},
		{"asked to stop and ignores it", stopped, observed{Machine: is(providers.PowerRunning), StoppingSince: ago(providers.StopGrace)}, step{action: actStopForce}},
		{"asked to stop, then to run", running, observed{Machine: is(providers.PowerRunning), StoppingSince: ago(time.Second)}, step{actWait, whyShutdown, providers.StopGrace - time.Second}},
		{"ignored a stop that is not wanted any more", running, observed{Machine: is(providers.PowerRunning), StoppingSince: ago(time.Hour)}, step{action: actWait, why: whySettled}},
		{"running, to be suspended", suspended, observed{Machine: is(providers.PowerRunning)}, step{action: actSuspend}},
		{"asked to stop, then to be suspended", suspended, observed{Machine: is(providers.PowerRunning), StoppingSince: t0}, step{actWait, whyShutdown, providers.StopGrace}},

		{"shutting down by itself", running, observed{Machine: is(providers.PowerStopping)}, step{actWait, whyShutdown, providers.StopGrace}},
		{"hangs in its shutdown", running, observed{Machine: is(providers.PowerStopping), StoppingSince: ago(time.Hour)}, step{action: actStopForce}},
		{"shutting down, to be stopped", stopped, observed{Machine: is(providers.PowerStopping), StoppingSince: t0}, step{actWait, whyShutdown, providers.StopGrace}},

		{"start was interrupted", running, observed{Machine: is(providers.PowerPaused)}, step{action: actStart}},
		{"paused by hand", running, observed{Machine: is(providers.PowerPaused), StartedAt: ago(time.Hour)}, step{action: actRestart}},
		{"paused again and again", running, observed{Machine: is(providers.PowerPaused), StartedAt: t0, Restarts: 2}, step{actWait, whyCrashLoop, 20 * time.Second}},
		{"no space, first time", running, observed{Machine: starved, StartedAt: ago(time.Hour), Restarts: 3}, step{action: actStart, why: whyNoSpace}},
		{"no space still", running, observed{Machine: starved, StartedAt: ago(10 * time.Second)}, step{actWait, whyNoSpace, 20 * time.Second}},
		{"no space, to be stopped", stopped, observed{Machine: starved, StartedAt: ago(time.Second)}, step{action: actStopForce}},
		{"paused, to be stopped", stopped, observed{Machine: is(providers.PowerPaused)}, step{action: actStopForce}},
		{"paused, to be suspended", suspended, observed{Machine: is(providers.PowerPaused)}, step{action: actSuspend}},
		{"paused on another network", running, observed{Machine: differs(providers.PowerPaused, network)}, step{action: actStopForce, why: whyNetwork}},

		{"saved, to run", running, observed{Machine: is(providers.PowerSaved)}, step{action: actStart}},
		{"saved, to be stopped", stopped, observed{Machine: is(providers.PowerSaved)}, step{action: actStopForce}},
		{"saved, to be suspended", suspended, observed{Machine: is(providers.PowerSaved)}, step{action: actWait, why: whySettled}},
		{"saved on another network", running, observed{Machine: differs(providers.PowerSaved, network)}, step{action: actStopForce, why: whyNetwork}},

		{"revert, running", reverting, observed{Machine: is(providers.PowerRunning)}, step{action: actStopForce}},
		{"revert, saved", reverting, observed{Machine: is(providers.PowerSaved)}, step{action: actStopForce}},
		{"revert, off", reverting, observed{Machine: off(providers.OffDestroyed)}, step{action: actReset}},
		{"reverted", reverting, observed{Machine: off(providers.OffDestroyed), Reverted: revert}, step{action: actStart}},
		{"paused by a snapshot that was cut off", running, observed{Machine: is(providers.PowerPaused), StartedAt: ago(time.Hour), Kept: true}, step{action: actStart}},
		{"paused by a snapshot that was cut off, soon after a restart", running, observed{Machine: is(providers.PowerPaused), StartedAt: t0, Restarts: 2, Kept: true}, step{actWait, whyCrashLoop, 20 * time.Second}},
		{"revert to a snapshot, running", goingBack, observed{Machine: is(providers.PowerRunning)}, step{action: actRevert}},
		{"revert to a snapshot, running, artifacts due", goingBack, observed{Machine: is(providers.PowerRunning), Due: true}, step{action: actStopForce}},
		{"revert to a snapshot, suspended, artifacts due", goingBack, observed{Machine: is(providers.PowerSaved), Due: true}, step{action: actStopForce}},
		{"revert to a snapshot, off, artifacts given up", goingBack, observed{Machine: off(providers.OffCrashed), Due: true}, step{action: actRevert}},
		{"revert to a snapshot, off", goingBack, observed{Machine: off(providers.OffCrashed)}, step{action: actRevert}},
		{"revert to a snapshot, no machine", goingBack, observed{}, step{action: actEnsure}},
		{"reverted to a snapshot with memory", goingBack, observed{Machine: is(providers.PowerSaved), Reverted: back}, step{action: actStart}},
		{"reverted to a snapshot without", goingBack, observed{Machine: off(providers.OffDestroyed), Reverted: back}, step{action: actStart}},
		{"another revert asked for", reverting, observed{Machine: off(providers.OffDestroyed), Reverted: &v1.RevertTo{Snapshot: v1.SnapshotGolden, Request: "0"}}, step{action: actReset}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := next(tt.d, tt.o, t0); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestNextIsSafe goes through every combination of what next looks at.
func TestNextIsSafe(t *testing.T) {
	n := 0
	everything(func(d desired, o observed) {
		n++
		s := next(d, o, t0)
		fail := func(rule string) {
			t.Errorf("%s: %+v\n desired  %+v\n observed %+v machine %+v", rule, s, d, o, o.Machine)
		}
		m := o.Machine
		switch s.action {
		case actEnsure:
			if m == nil && !d.ImageReady {
				fail("makes a machine without an image")
			}
			if m != nil && m.Power != providers.PowerOff && m.Hashes.Forwards == d.Hashes.Forwards && !hasRemedy(m.Drift, providers.RemedyEnsure) {
				fail("redefines a machine that is not off, for more than its forwards")
			}
			if m != nil && m.Hashes == d.Hashes && len(m.Drift) == 0 {
				fail("redefines a machine that is as asked")
			}
			if s.why == whyDrift && (hasRemedy(m.Drift, providers.RemedyNone) || !d.Known) {
				fail("puts back what it cannot")
			}
		case actStart, actRestart:
			switch {
			case d.Power != v1.PowerRunning:
				fail("starts what is not to run")
			case m == nil || m.Power == providers.PowerRunning || m.Power == providers.PowerStopping:
				fail("starts what is absent or on")
			case m.Power == providers.PowerOff && len(m.Drift) > 0, hasRemedy(m.Drift, providers.RemedyPowerOff):
				fail("starts what others changed")
			case m.Power == providers.PowerOff && o.StartedAt.IsZero() && !o.RepairedAt.IsZero():
				fail("starts what was put right again and again a moment ago")
			case m.Hashes.Network != d.Hashes.Network:
				fail("starts on another network than the spec's")
			case m.Power == providers.PowerOff && m.Hashes != d.Hashes:
				fail("starts an outdated definition")
			case s.action == actRestart && m.Power == providers.PowerPaused && o.Kept:
				fail("counts a snapshot as the machine's end")
			case s.action == actRestart && m.Power == providers.PowerOff && d.Restart == v1.RestartNever:
				fail("restarts against the policy")
			}
		case actStopGraceful:
			if m.Power != providers.PowerRunning || d.Power != v1.PowerStopped {
				fail("asks a guest to shut down that should not or cannot")
			}
		case actStopForce:
			if m.Power == providers.PowerOff {
				fail("powers off what is off")
			}
		case actSuspend:
			if d.Power != v1.PowerSuspended || (m.Power != providers.PowerRunning && m.Power != providers.PowerPaused) {
				fail("suspends what should not or cannot be")
			}
		case actReset:
			if m.Power != providers.PowerOff || !revertPending(d.Revert, o.Reverted) {
				fail("resets a disk in use, or unasked")
			}
		case actRevert:
			if m == nil || !revertPending(d.Revert, o.Reverted) || d.Revert.Snapshot == v1.SnapshotGolden {
				fail("reverts what is absent, or unasked")
			}
			if m != nil && m.Power != providers.PowerOff && o.Due {
				fail("loses artifacts")
			}
		case actWait:
			if s.after < 0 || ((s.why == whyShutdown || s.why == whyCrashLoop || s.why == whyRepaired) && s.after == 0) {
				fail("waits for a deadline without one")
			}
			if m != nil && m.Power != providers.PowerOff && m.Hashes.Network != d.Hashes.Network {
				fail("leaves a machine on another network than the spec's")
			}
			if m != nil && m.Power == providers.PowerRunning && hasRemedy(m.Drift, providers.RemedyPowerOff) {
				fail("leaves a machine running whose isolation others broke")
			}
			if m != nil && exposed(m) && (s.after == 0 || s.after > isolationRecheck || leaks(o, t0)) {
				fail("leaves a machine running whose isolation is not seen")
			}
		default:
			fail("unknown action")
		}
	})
	if n < 10000 {
		t.Errorf("only %d combinations", n)
	}
}

// TestNextConverges plays a world in which every action does what it should,
// from every combination, and demands that it comes to rest within the steps
// that one reconciliation may take.
func TestNextConverges(t *testing.T) {
	everything(func(d desired, o observed) {
		trail := ""
		for range maxSteps {
			s := next(d, o, t0)
			trail += fmt.Sprintf(" %s(%s)", s.action, s.why)
			if s.action == actWait || s.action == actStopGraceful {
				return
			}
			play(s.action, d, &o)
		}
		t.Errorf("no rest:%s\n desired %+v", trail, d)
	})
}

// play changes the world as the action would.
func play(a action, d desired, o *observed) {
	if a == actEnsure && o.Machine == nil {
		o.Machine = &providers.Machine{Power: providers.PowerOff, OffReason: providers.OffNeverStarted, Hashes: d.Hashes}
		o.StartedAt = time.Time{}
		return
	}
	m := *o.Machine
	o.Machine = &m
	switch a {
	case actEnsure:
		if m.Power == providers.PowerOff {
			m.Hashes = d.Hashes
		}
		m.Hashes.Forwards = d.Hashes.Forwards
		m.Drift = nil
	case actStart, actRestart:
		m.Power, o.StartedAt, o.StoppingSince, m.Network = providers.PowerRunning, t0, time.Time{}, isolated
		if a == actRestart {
			o.Restarts++
		}
	case actStopForce:
		m.Power, m.OffReason = providers.PowerOff, providers.OffDestroyed
		o.StartedAt, o.StoppingSince = time.Time{}, time.Time{}
	case actSuspend:
		m.Power = providers.PowerSaved
	case actReset:
		o.Reverted, o.StartedAt = d.Revert, time.Time{}
	case actRevert:
		m.Power = providers.PowerSaved
		o.Reverted, o.StartedAt, o.StoppingSince = d.Revert, time.Time{}, time.Time{}
	}
}

// everything calls f with every combination of what next looks at.
func everything(f func(desired, observed)) {
	hashes := []providers.Hashes{
		wanted,
		with(func(h *providers.Hashes) { h.Hardware = "x" }),
		with(func(h *providers.Hashes) { h.Network = "x" }),
		with(func(h *providers.Hashes) { h.Forwards = "x" }),
		with(func(h *providers.Hashes) { h.Seed = "x" }),
		{},
	}
	machines := []*providers.Machine{nil}
	for _, h := range hashes {
		for _, r := range []providers.OffReason{providers.OffNeverStarted, providers.OffShutdown, providers.OffDestroyed, providers.OffCrashed, providers.OffUnknown} {
			machines = append(machines, &providers.Machine{Power: providers.PowerOff, OffReason: r, Hashes: h})
		}
		for _, p := range []providers.Power{providers.PowerRunning, providers.PowerPaused, providers.PowerSaved, providers.PowerStopping} {
			machines = append(machines, &providers.Machine{Power: p, Hashes: h, Network: isolated})
		}
	}
	machines = append(machines, driftedMachines()...)
	times := []time.Time{{}, t0.Add(-time.Second), t0.Add(-time.Hour)}
	for _, power := range []v1.PowerState{v1.PowerRunning, v1.PowerStopped, v1.PowerSuspended} {
		for _, policy := range []v1.RestartPolicy{v1.RestartAlways, v1.RestartOnFailure, v1.RestartNever} {
			for _, rv := range []*v1.RevertTo{nil, revert, back} {
				for _, ready := range []bool{true, false} {
					d := desired{Power: power, Restart: policy, Hashes: wanted, Known: ready, Revert: rv, ImageReady: ready}
					for _, m := range machines {
						for _, started := range times {
							for _, stopping := range times {
								for _, n := range []int32{0, 5} {
									for _, done := range []*v1.RevertTo{nil, revert, back} {
										o := observed{Machine: m, StartedAt: started, StoppingSince: stopping, Restarts: n, Reverted: done, Kept: n > 0, Due: n == 0}
										if m != nil && exposed(m) {
											o.UnisolatedSince = stopping
										}
										if n > 0 && started.IsZero() {
											o.RepairedAt, o.Repairs = t0.Add(-time.Second), n
										}
										f(d, o)
									}
								}
							}
						}
					}
				}
			}
		}
	}
}
