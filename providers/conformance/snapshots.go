package conformance

import (
	"context"
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// testSnapshots covers snapshots of machines whose guests are not waited for.
func (s *suite) testSnapshots(t *testing.T) {
	s.need(t, Snapshots)
	t.Run("each method may be called twice on a machine that is off", s.testSnapshotTwice)
	t.Run("what is not there is ErrNotFound", s.testNoSnapshot)
	t.Run("memory is ErrBusy of a machine that is off, and a snapshot stays of its kind", s.testSnapshotKind)
	t.Run("a revert goes on from any power state", s.testRevertPower)
	t.Run("memory comes back saved, and is left out where it does not fit", s.testRevertMemory)
	t.Run("snapshots are deleted in any order", s.testDeleteOrder)
	t.Run("DeleteMachine takes the snapshots of a machine along", s.testDeleteWithSnapshots)
	t.Run("Reset and a growing disk leave snapshots alone", s.testResetWithSnapshots)
	t.Run("a machine of others has no snapshots", s.testForeignSnapshots)
}

// snap names a snapshot of a test's machine: always the same one.
func (s *suite) snap(t testing.TB, machine types.UID, name string, memory bool) providers.SnapshotSpec {
	return providers.SnapshotSpec{
		SnapshotRef: providers.SnapshotRef{Machine: machine, ID: s.id(t, "snapshot "+name)},
		Namespace:   "conformance", Name: name, Memory: memory,
	}
}

// take takes a snapshot and checks that it makes sense.
func (s *suite) take(t testing.TB, spec providers.SnapshotSpec) providers.SnapshotRef {
	t.Helper()
	before := s.get(t, spec.Machine)
	got, err := s.p.TakeSnapshot(s.ctx(t), spec)
	must(t, "take snapshot "+spec.Name, err)
	if got.SnapshotRef != spec.SnapshotRef || got.Memory != spec.Memory || got.TakenAt.IsZero() || got.Size < 0 ||
		got.Image.Revision != before.ImageRevision || before.Power == providers.PowerOff && !got.Frozen {
		t.Errorf("of a machine that was %s a snapshot was taken that is %+v", before.Power, got)
	}
	if after := s.wantPower(t, spec.Machine, before.Power); after.Hashes != before.Hashes {
		t.Errorf("the machine was %+v, and after its snapshot is %+v", before, after)
	}
	s.wantSnapshot(t, got)
	return got.SnapshotRef
}

func (s *suite) wantSnapshot(t testing.TB, want providers.Snapshot) {
	t.Helper()
	got, err := s.p.GetSnapshot(s.ctx(t), want.SnapshotRef)
	must(t, "get snapshot", err)
	if !got.TakenAt.Equal(want.TakenAt) || got.Image != want.Image || got.Memory != want.Memory || got.Frozen != want.Frozen {
		t.Errorf("the snapshot is %+v, and was %+v", got, want)
	}
}

func (s *suite) revert(t testing.TB, ref providers.SnapshotRef, power providers.Power) {
	t.Helper()
	must(t, "revert", s.p.RevertMachine(s.ctx(t), ref))
	s.wantPower(t, ref.Machine, power)
}

// drop deletes a snapshot, for good.
func (s *suite) drop(t testing.TB, ref providers.SnapshotRef) {
	t.Helper()
	must(t, "delete snapshot", s.p.DeleteSnapshot(s.ctx(t), ref))
	s.wantNoSnapshot(t, ref)
}

func (s *suite) wantNoSnapshot(t testing.TB, ref providers.SnapshotRef) {
	t.Helper()
	_, err := s.p.GetSnapshot(s.ctx(t), ref)
	want(t, "get snapshot", err, providers.ErrNotFound)
	want(t, "delete snapshot", s.p.DeleteSnapshot(s.ctx(t), ref), providers.ErrNotFound)
	want(t, "revert to it", s.p.RevertMachine(s.ctx(t), ref), providers.ErrNotFound)
	if left := s.resources(t, func(r providers.Resource) bool {
		return r.Kind == providers.ResourceSnapshot && ownedBy(ref.ID)(r)
	}); len(left) > 0 {
		t.Errorf("left of the snapshot: %+v", left)
	}
}

func (s *suite) testSnapshotTwice(t *testing.T) {
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	first, err := s.p.TakeSnapshot(s.ctx(t), s.snap(t, id, "one", false))
	must(t, "take", err)
	again, err := s.p.TakeSnapshot(s.ctx(t), s.snap(t, id, "one", false))
	must(t, "take again", err)
	if !again.TakenAt.Equal(first.TakenAt) || !again.Frozen || again.Image != spec.Image {
		t.Errorf("taken twice it is %+v and %+v", first, again)
	}
	s.reopen(t)
	s.wantSnapshot(t, first)
	s.revert(t, first.SnapshotRef, providers.PowerOff)
	s.revert(t, first.SnapshotRef, providers.PowerOff)
	if m := s.get(t, id); m.Hashes != spec.Hashes() {
		t.Errorf("reverted it is %+v", m)
	}
	for _, r := range s.resources(t, ownedBy(id)) {
		if r.Ownership != providers.Ours {
			t.Errorf("the machine with a snapshot has %+v", r)
		}
	}
	s.drop(t, first.SnapshotRef)
	s.start(t, id)
}

func (s *suite) testNoSnapshot(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	s.wantNoSnapshot(t, s.snap(t, id, "never", false).SnapshotRef)
	absent := s.snap(t, s.id(t, "absent"), "never", false)
	_, err := s.p.TakeSnapshot(s.ctx(t), absent)
	want(t, "take one of a machine that never was", err, providers.ErrNotFound)
	s.wantNoSnapshot(t, absent.SnapshotRef)
	wrong := s.snap(t, id, "wrong", false)
	wrong.ID = "../../etc/passwd"
	_, err = s.p.TakeSnapshot(s.ctx(t), wrong)
	want(t, "take one whose ID is a path", err, providers.ErrInvalid)
	_, err = s.p.GetSnapshot(s.ctx(t), wrong.SnapshotRef)
	want(t, "get one whose ID is a path", err, providers.ErrNotFound)
}

func (s *suite) testSnapshotKind(t *testing.T) {
	s.need(t, MemorySnapshots)
	id := s.made(t, s.spec(t, "machine"))
	_, err := s.p.TakeSnapshot(s.ctx(t), s.snap(t, id, "memory", true))
	want(t, "keep the memory of a machine that is off", err, providers.ErrBusy)
	s.wantNoSnapshot(t, s.snap(t, id, "memory", true).SnapshotRef)
	s.take(t, s.snap(t, id, "disk", false))
	_, err = s.p.TakeSnapshot(s.ctx(t), s.snap(t, id, "disk", true))
	want(t, "take one with memory that is there without", err, providers.ErrInvalid)
}

func (s *suite) testRevertPower(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	off := s.take(t, s.snap(t, id, "off", false))
	s.start(t, id)
	running := s.take(t, s.snap(t, id, "running", false))
	s.revert(t, off, providers.PowerOff)
	s.start(t, id)
	s.revert(t, running, providers.PowerOff)
	if s.has(Outside) {
		s.start(t, id)
		s.b.Pause(t, id)
		s.revert(t, off, providers.PowerOff)
	}
	if s.has(Suspend) {
		s.start(t, id)
		s.suspend(t, id)
		s.take(t, s.snap(t, id, "saved", false))
		s.revert(t, running, providers.PowerOff)
		if left := s.resources(t, func(r providers.Resource) bool {
			return r.Kind == providers.ResourceState && ownedBy(id)(r)
		}); len(left) > 0 {
			t.Errorf("the saved state is still there: %+v", left)
		}
	}
	s.start(t, id)
}

func (s *suite) testRevertMemory(t *testing.T) {
	s.need(t, MemorySnapshots)
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	s.start(t, id)
	disk := s.take(t, s.snap(t, id, "disk", false))
	memory := s.take(t, s.snap(t, id, "memory", true))
	for range 2 { // from running, and from saved
		s.revert(t, memory, providers.PowerSaved)
	}
	if m := s.get(t, id); m.Hashes != spec.Hashes() {
		t.Errorf("reverted it is %+v", m)
	}
	s.reopen(t)
	s.start(t, id)
	if m := s.get(t, id); m.Hashes != spec.Hashes() || !m.Network.Isolated {
		t.Errorf("going on it is %+v", m)
	}
	if s.has(Suspend) {
		s.suspend(t, id)
		s.take(t, s.snap(t, id, "saved", true))
		s.start(t, id)
	}
	s.revert(t, disk, providers.PowerOff)
	s.revert(t, memory, providers.PowerSaved)
	s.forceOff(t, id)
	changed := spec
	changed.MemoryBytes += 32 << 20
	s.ensure(t, changed)
	s.revert(t, memory, providers.PowerOff)
	if m := s.get(t, id); m.Hashes != changed.Hashes() {
		t.Errorf("a revert changed the hardware: %+v", m)
	}
	s.start(t, id)
}

func (s *suite) testDeleteOrder(t *testing.T) {
	s.detail(t)
	for _, order := range [][]int{{1, 0, 2}, {2, 1, 0}, {0, 1, 2}} {
		id := s.made(t, s.spec(t, "machine"))
		var refs []providers.SnapshotRef
		for _, name := range []string{"one", "two", "three"} {
			refs = append(refs, s.take(t, s.snap(t, id, name, false)))
			s.start(t, id)
			s.forceOff(t, id)
		}
		s.revert(t, refs[0], providers.PowerOff)
		s.revert(t, refs[2], providers.PowerOff)
		for n, i := range order {
			s.drop(t, refs[i])
			for _, left := range order[n+1:] {
				s.revert(t, refs[left], providers.PowerOff)
			}
			s.start(t, id)
			s.forceOff(t, id)
		}
		s.remove(t, id)
	}
}

func (s *suite) testDeleteWithSnapshots(t *testing.T) {
	id := s.made(t, s.spec(t, "machine"))
	refs := []providers.SnapshotRef{s.take(t, s.snap(t, id, "off", false))}
	s.start(t, id)
	refs = append(refs, s.take(t, s.snap(t, id, "running", false)))
	// Some hypervisors need the machine to be off for it.
	if err := s.p.DeleteSnapshot(s.ctx(t), refs[0]); err != nil {
		want(t, "delete a snapshot of a machine that runs", err, providers.ErrBusy)
		_, err = s.p.GetSnapshot(s.ctx(t), refs[0])
		must(t, "get what could not be deleted", err)
	}
	s.wantPower(t, id, providers.PowerRunning)
	s.remove(t, id)
	for _, ref := range refs {
		s.wantNoSnapshot(t, ref)
	}
	s.ensure(t, s.spec(t, "machine")) // made anew, it has none
	for _, ref := range refs {
		s.wantNoSnapshot(t, ref)
	}
}

func (s *suite) testResetWithSnapshots(t *testing.T) {
	spec := s.spec(t, "machine")
	id := s.made(t, spec)
	ref := s.take(t, s.snap(t, id, "before", false))
	must(t, "reset", s.p.Reset(s.ctx(t), id))
	grown := spec
	grown.DiskBytes = s.grownSize(t, s.image)
	s.ensure(t, grown)
	larger := s.take(t, s.snap(t, id, "larger", false))
	s.revert(t, ref, providers.PowerOff)
	s.ensure(t, grown)
	if m := s.get(t, id); m.Hashes != grown.Hashes() {
		t.Errorf("reverted and ensured it is %+v", m)
	}
	s.start(t, id)
	s.revert(t, larger, providers.PowerOff)
	must(t, "reset", s.p.Reset(s.ctx(t), id))
	s.start(t, id)
	s.forceOff(t, id)
	s.drop(t, ref)
	s.drop(t, larger)
	s.start(t, id)
}

func (s *suite) testForeignSnapshots(t *testing.T) {
	id := s.id(t, "machine")
	describe := s.b.Foreign(t, id)
	before := describe()
	spec := s.snap(t, id, "ours", false)
	_, err := s.p.TakeSnapshot(s.ctx(t), spec)
	want(t, "take", err, providers.ErrNotFound)
	s.wantNoSnapshot(t, spec.SnapshotRef)
	_, err = s.p.OpenDisk(s.ctx(t), providers.DiskRef{Machine: id})
	want(t, "open its disk", err, providers.ErrNotFound)
	if after := describe(); after != before {
		t.Errorf("the machine of others was\n%s\nand is now\n%s", before, after)
	}
}

// lifeOfSnapshots is that of a machine with snapshots, and a fork.
func (s *suite) lifeOfSnapshots(t *testing.T, name string) life {
	t.Helper()
	l := life{image: s.image.ImageSpec, spec: s.spec(t, name)}
	id := l.spec.ID
	off, on := s.snap(t, id, name+" off", false), s.snap(t, id, name+" on", s.has(MemorySnapshots))
	fork := s.spec(t, name+"-fork")
	fork.Snapshot = &off.SnapshotRef
	take := func(spec providers.SnapshotSpec) func(context.Context, providers.Provider) error {
		return func(ctx context.Context, p providers.Provider) error {
			_, err := p.TakeSnapshot(ctx, spec)
			return err
		}
	}
	l.acts = []act{
		{"EnsureMachine", func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, l.spec) }},
		{"TakeSnapshot", take(off)},
		{"Start", func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, id) }},
		{"TakeSnapshot of what runs", take(on)},
		{"RevertMachine to the older", func(ctx context.Context, p providers.Provider) error {
			return p.RevertMachine(ctx, off.SnapshotRef)
		}},
		{"RevertMachine to the newer", func(ctx context.Context, p providers.Provider) error {
			return p.RevertMachine(ctx, on.SnapshotRef)
		}},
		{"EnsureMachine of a fork", func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, fork) }},
		{"DeleteMachine of the fork", func(ctx context.Context, p providers.Provider) error { return deleted(ctx, p, fork.ID) }},
		{"Stop", func(ctx context.Context, p providers.Provider) error { return p.Stop(ctx, id, providers.StopForce) }},
		{"DeleteSnapshot", func(ctx context.Context, p providers.Provider) error {
			return s.ignoreNotFound(p.DeleteSnapshot(ctx, off.SnapshotRef))
		}},
		{"DeleteMachine", func(ctx context.Context, p providers.Provider) error { return deleted(ctx, p, id) }},
	}
	l.converge = func(t *testing.T) {
		t.Helper()
		s.remove(t, fork.ID)
		s.ensure(t, l.spec)
		for _, spec := range []providers.SnapshotSpec{off, on} {
			// What is found was taken whole; what is not is not in the way.
			_, err := s.p.GetSnapshot(s.ctx(t), spec.SnapshotRef)
			if err == nil {
				must(t, "revert to "+spec.Name, s.p.RevertMachine(s.ctx(t), spec.SnapshotRef))
			} else {
				want(t, "get snapshot", err, providers.ErrNotFound)
			}
			s.start(t, id)
			_, err = s.p.TakeSnapshot(s.ctx(t), spec)
			must(t, "take "+spec.Name, err)
		}
		s.wantPower(t, id, providers.PowerRunning)
		must(t, "revert", s.p.RevertMachine(s.ctx(t), off.SnapshotRef))
		s.ensure(t, fork)
		s.start(t, fork.ID)
		s.remove(t, fork.ID)
		s.start(t, id)
		s.forceOff(t, id)
		if err := s.p.DeleteSnapshot(s.ctx(t), on.SnapshotRef); err != nil && !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("delete snapshot: %v", err)
		}
		s.remove(t, id)
		if left := s.resources(t, func(r providers.Resource) bool {
			return ownedBy(off.ID)(r) || ownedBy(on.ID)(r)
		}); len(left) > 0 {
			t.Errorf("left of the snapshots: %+v", left)
		}
	}
	return l
}
