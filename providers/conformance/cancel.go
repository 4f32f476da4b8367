package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testCancellation(t *testing.T) {
	t.Run("a method that is called with a context that has ended does nothing", s.testEnded)
	t.Run("a call that is cancelled midway is finished or undone by the next one", s.testMidway)
}

func (s *suite) testEnded(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	spec, other := s.spec(t, "machine"), s.spec(t, "other")
	id := s.made(t, spec)
	t.Cleanup(func() { s.remove(t, other.ID) })
	image := s.imageSpec(t.Name())
	before := s.resources(t, func(providers.Resource) bool { return true })

	_, probe := s.p.Probe(ended)
	_, importing := s.p.ImportImage(ended, image, nil)
	_, getImage := s.p.GetImage(ended, s.image.ImageRef)
	_, get := s.p.GetMachine(ended, id)
	_, exec := s.p.Exec(ended, id, providers.ExecRequest{Command: []string{"true"}})
	_, read := s.p.ReadFile(ended, id, "/etc/hostname", &bounded{})
	_, list := s.p.ListResources(ended)
	_, console := s.p.Console(ended, id, providers.ConsoleOptions{})
	_, typing := s.p.TypeAtConsole(ended, id)
	snap := s.snap(t, id, "ended", false)
	_, take := s.p.TakeSnapshot(ended, snap)
	_, getSnapshot := s.p.GetSnapshot(ended, snap.SnapshotRef)
	_, open := s.p.OpenDisk(ended, providers.DiskRef{Machine: id})
	disk := s.one(t, providers.ResourceDisk, id)
	for name, err := range map[string]error{
		"Probe": probe, "ImportImage": importing, "GetImage": getImage, "GetMachine": get, "Exec": exec,
		"ReadFile": read, "ListResources": list, "Console": console, "TypeAtConsole": typing,
		"TakeSnapshot": take, "GetSnapshot": getSnapshot, "OpenDisk": open,
		"RevertMachine":  s.p.RevertMachine(ended, snap.SnapshotRef),
		"DeleteSnapshot": s.p.DeleteSnapshot(ended, snap.SnapshotRef),
		"CheckSource":    s.p.CheckSource(ended, image),
		"DeleteImage":    s.p.DeleteImage(ended, s.image.ImageRef),
		"EnsureMachine":  s.p.EnsureMachine(ended, other),
		"Start":          s.p.Start(ended, id),
		"Stop":           s.p.Stop(ended, id, providers.StopForce),
		"Suspend":        s.p.Suspend(ended, id),
		"Reset":          s.p.Reset(ended, id),
		"DeleteMachine":  s.p.DeleteMachine(ended, id),
		"WriteFile":      s.p.WriteFile(ended, id, "/tmp/x", 0o600, &zeros{left: 1}),
		"ConfigureGuest": s.p.ConfigureGuest(ended, id, providers.GuestConfig{User: s.b.User}),
		"RemoveResource": s.p.RemoveResource(ended, disk),
	} {
		want(t, name, err, context.Canceled)
	}
	if m := s.get(t, id); m.Power != providers.PowerOff || m.OffReason != providers.OffNeverStarted {
		t.Errorf("the machine is now %+v", m)
	}
	after := s.resources(t, func(providers.Resource) bool { return true })
	if len(after) != len(before) {
		t.Errorf("there was %+v, and now there is %+v", before, after)
	}
	s.wantNoImage(t, image.ImageRef)
}

// cancelled runs a call whose context ends after a while.
func (s *suite) cancelled(t *testing.T, what string, after time.Duration, call func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(s.ctx(t))
	defer cancel()
	timer := time.AfterFunc(after, cancel)
	defer timer.Stop()
	if err := call(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%s, cancelled after %s: %v", what, after, err)
	}
}

// testMidway cancels each call of a machine's life after different times, and
// makes it again. A call that was faster than that has just succeeded twice.
func (s *suite) testMidway(t *testing.T) {
	for _, after := range []time.Duration{
		0, time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond,
	} {
		spec := s.spec(t, "machine-"+after.String())
		id := spec.ID
		t.Cleanup(func() { s.remove(t, id) })
		s.cancelled(t, "ensure", after, func(ctx context.Context) error { return s.p.EnsureMachine(ctx, spec) })
		s.ensure(t, spec)
		s.cancelled(t, "reset", after, func(ctx context.Context) error { return s.p.Reset(ctx, id) })
		must(t, "reset", s.p.Reset(s.ctx(t), id))
		s.cancelled(t, "start", after, func(ctx context.Context) error { return s.p.Start(ctx, id) })
		s.start(t, id)
		if s.has(Suspend) {
			s.cancelled(t, "suspend", after, func(ctx context.Context) error { return s.p.Suspend(ctx, id) })
			// A save that was cut off may have left the machine on, or off the
			// way; where it is, a start brings it back.
			s.start(t, id)
			s.suspend(t, id)
			s.cancelled(t, "start from saved", after, func(ctx context.Context) error { return s.p.Start(ctx, id) })
			s.start(t, id)
		}
		s.cancelled(t, "stop", after, func(ctx context.Context) error { return s.p.Stop(ctx, id, providers.StopForce) })
		s.forceOff(t, id)
		s.start(t, id)
		if m := s.get(t, id); m.Hashes != spec.Hashes() || !m.Network.Isolated {
			t.Errorf("after all that the machine is %+v", m)
		}
		s.cancelled(t, "delete", after, func(ctx context.Context) error { return s.ignoreNotFound(s.p.DeleteMachine(ctx, id)) })
		s.remove(t, id)
	}
}

func (s *suite) ignoreNotFound(err error) error {
	if errors.Is(err, providers.ErrNotFound) {
		return nil
	}
	return err
}

// deleted deletes a machine until it is gone, as a caller does.
func deleted(ctx context.Context, p providers.Provider, id types.UID) error {
	for {
		if err := p.DeleteMachine(ctx, id); err != nil {
			if errors.Is(err, providers.ErrNotFound) {
				return nil
			}
			return err
		}
	}
}
