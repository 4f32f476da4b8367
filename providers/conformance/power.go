package conformance

import (
	"io"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// testPower covers machines that run without their guests being waited for.
func (s *suite) testPower(t *testing.T) {
	t.Run("Start and Stop may be repeated, and Stop by force takes the power away", s.testStartStop)
	t.Run("Start brings a machine that is paused to running", s.testPaused)
	t.Run("Suspend and Start may be repeated, and Stop by force discards the saved state", s.testSuspendStop)
	t.Run("the methods of guests are ErrBusy while the machine does not run", s.testGuestMethodsOff)
	t.Run("Reset is ErrBusy while the machine is not off", s.testResetBusy)
	t.Run("a machine that crashed is off because it crashed", s.testCrashed)
	t.Run("of a machine that runs EnsureMachine changes nothing but the forwards", s.testEnsureRunning)
	t.Run("TypeAtConsole waits for a machine that does not read, and holds up nobody else", s.testDeaf)
	t.Run("DeleteMachine removes a machine that runs, and ends those who follow its console, as Close does", s.testDeleteRunning)
}

func (s *suite) testStartStop(t *testing.T) {
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	must(t, "stop what is off", s.p.Stop(s.ctx(t), id, providers.StopForce))
	must(t, "stop what is off, gracefully", s.p.Stop(s.ctx(t), id, providers.StopGraceful))
	s.reports(t, providers.EventMachine, id, func() { s.start(t, id) })
	s.start(t, id)
	info, err := s.p.Probe(s.ctx(t))
	must(t, "probe", err)
	if m := s.get(t, id); m.Accelerator != info.Accelerator || m.Hashes != spec.Hashes() || m.ImageRevision != spec.Image.Revision {
		t.Errorf("the running machine is %+v; new ones were to run with %q", m, info.Accelerator)
	}
	s.reopen(t)
	s.wantPower(t, id, providers.PowerRunning)
	s.reports(t, providers.EventMachine, id, func() { s.forceOff(t, id) })
	if m := s.get(t, id); m.OffReason != providers.OffDestroyed {
		t.Errorf("it is off by %s, not %s", m.OffReason, providers.OffDestroyed)
	}
	s.forceOff(t, id)
	s.start(t, id)
}

func (s *suite) testPaused(t *testing.T) {
	s.need(t, Outside)
	id := s.made(t, s.spec(t, "machine"))
	s.start(t, id)
	s.b.Pause(t, id)
	s.wantPower(t, id, providers.PowerPaused)
	s.start(t, id)
	s.b.Pause(t, id)
	s.wantPower(t, id, providers.PowerPaused)
	s.forceOff(t, id)
}

func (s *suite) testSuspendStop(t *testing.T) {
	s.need(t, Suspend)
	id := s.made(t, s.spec(t, "machine"))
	want(t, "suspend what is off", s.p.Suspend(s.ctx(t), id), providers.ErrBusy)
	s.start(t, id)
	s.reports(t, providers.EventMachine, id, func() { s.suspend(t, id) })
	s.suspend(t, id)
	want(t, "ask a saved guest to shut down", s.p.Stop(s.ctx(t), id, providers.StopGraceful), providers.ErrBusy)
	s.ensure(t, s.spec(t, "machine"))
	s.reopen(t)
	s.wantPower(t, id, providers.PowerSaved)
	s.start(t, id)
	s.suspend(t, id)
	s.forceOff(t, id)
	if left := s.resources(t, func(r providers.Resource) bool {
		return r.Kind == providers.ResourceState && ownedBy(id)(r)
	}); len(left) > 0 {
		t.Errorf("the saved state is still there: %+v", left)
	}
	s.start(t, id)
	s.suspend(t, id)
	s.remove(t, id)
}

func (s *suite) testGuestMethodsOff(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	states := []struct {
		power providers.Power
		reach func()
	}{{providers.PowerOff, func() {}}}
	if s.has(Outside) {
		states = append(states, struct {
			power providers.Power
			reach func()
		}{providers.PowerPaused, func() { s.start(t, id); s.b.Pause(t, id) }})
	}
	if s.has(Suspend) {
		states = append(states, struct {
			power providers.Power
			reach func()
		}{providers.PowerSaved, func() { s.start(t, id); s.suspend(t, id) }})
	}
	for _, state := range states {
		state.reach()
		s.wantPower(t, id, state.power)
		for name, err := range s.onGuest(t, id) {
			want(t, name+" of a machine that is "+string(state.power), err, providers.ErrBusy)
		}
	}
}

// onGuest calls every method that reaches into a guest.
func (s *suite) onGuest(t *testing.T, id types.UID) map[string]error {
	ctx := s.ctx(t)
	_, exec := s.p.Exec(ctx, id, providers.ExecRequest{Command: []string{"true"}})
	_, read := s.p.ReadFile(ctx, id, "/etc/hostname", &bounded{})
	return map[string]error{
		"Exec":           exec,
		"WriteFile":      s.p.WriteFile(ctx, id, "/tmp/x", 0o600, &zeros{left: 1}),
		"ReadFile":       read,
		"ConfigureGuest": s.p.ConfigureGuest(ctx, id, providers.GuestConfig{User: s.b.User}),
	}
}

func (s *suite) testResetBusy(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	must(t, "reset what is off", s.p.Reset(s.ctx(t), id))
	s.start(t, id)
	want(t, "reset what runs", s.p.Reset(s.ctx(t), id), providers.ErrBusy)
	s.wantPower(t, id, providers.PowerRunning)
	if s.has(Suspend) {
		s.suspend(t, id)
		want(t, "reset what is saved", s.p.Reset(s.ctx(t), id), providers.ErrBusy)
		s.wantPower(t, id, providers.PowerSaved)
	}
	s.forceOff(t, id)
	must(t, "reset what is off again", s.p.Reset(s.ctx(t), id))
	must(t, "reset twice", s.p.Reset(s.ctx(t), id))
	s.start(t, id)
}

func (s *suite) testCrashed(t *testing.T) {
	s.need(t, Outside)
	id := s.made(t, s.spec(t, "machine"))
	s.start(t, id)
	s.reports(t, providers.EventMachine, id, func() { s.b.Crash(t, id) })
	if m := s.waitPower(t, id, providers.PowerOff); m.OffReason != providers.OffCrashed {
		t.Errorf("it is off by %s, not %s", m.OffReason, providers.OffCrashed)
	}
	s.start(t, id)
}

func (s *suite) testEnsureRunning(t *testing.T) {
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	s.start(t, id)
	changed := spec
	changed.MemoryBytes += 32 << 20
	changed.Seed.Hostname = "other"
	s.ensure(t, changed)
	if m := s.wantPower(t, id, providers.PowerRunning); m.Hashes != spec.Hashes() {
		t.Errorf("what is in effect has the hashes %+v, want still %+v", m.Hashes, spec.Hashes())
	}
	s.forceOff(t, id)
	s.ensure(t, changed)
	if m := s.get(t, id); m.Hashes != changed.Hashes() {
		t.Errorf("off and ensured it has the hashes %+v, want %+v", m.Hashes, changed.Hashes())
	}
}

func (s *suite) testDeleteRunning(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	s.start(t, id)
	left, ended := s.followed(t, id)
	time.Sleep(200 * time.Millisecond) // until it waits
	must(t, "close", left.Close())
	if err := s.ends(t, ended); err == nil {
		t.Error("a console that was closed has come to its end")
	}
	_, ended = s.followed(t, id)
	s.remove(t, id)
	must(t, "the console of a machine that was deleted", s.ends(t, ended))
}

// followed reads a console on and on.
func (s *suite) followed(t *testing.T, id types.UID) (io.Closer, <-chan error) {
	t.Helper()
	console, err := s.p.Console(within(t, s.b.Limits.Boot), id, providers.ConsoleOptions{Follow: true, TailBytes: -1})
	must(t, "console", err)
	t.Cleanup(func() { _ = console.Close() })
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, console)
		ended <- err
	}()
	return console, ended
}
