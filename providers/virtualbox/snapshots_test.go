package virtualbox_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// taken takes a snapshot of a machine.
func (l *lab) taken(t testing.TB, id types.UID, memory bool) providers.SnapshotRef {
	t.Helper()
	ref := providers.SnapshotRef{Machine: id, ID: newID()}
	_, err := l.p.TakeSnapshot(context.Background(), providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "snapshot", Memory: memory})
	must(t, err)
	return ref
}

// TestUnregisteredWithSnapshots: a machine with snapshots that somebody removes from
// VirtualBox without its files keeps its disk, and VirtualBox knows what that lies on
// after its service has died as well. Its snapshots are gone.
func TestUnregisteredWithSnapshots(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine")
	id := l.made(t, spec)
	refs := []providers.SnapshotRef{l.taken(t, id, false)}
	must(t, l.p.Start(ctx, id))
	refs = append(refs, l.taken(t, id, true))
	must(t, l.p.RevertMachine(ctx, refs[0]))
	refs = append(refs, l.taken(t, id, false))
	layers := func() []string {
		t.Helper()
		disk, err := l.p.OpenDisk(ctx, providers.DiskRef{Machine: id})
		must(t, err)
		defer disk.Close()
		var paths []string
		for _, layer := range disk.Layers {
			paths = append(paths, layer.File.Name())
		}
		return paths
	}
	before := layers()
	manage(t, "unregistervm", string(id))
	must(t, l.p.EnsureMachine(ctx, spec))
	killSVC(t)
	if after := layers(); len(before) != 4 || !slices.Equal(after, before) {
		t.Errorf("it was on the disks %q and is on %q", before, after)
	}
	for _, ref := range refs {
		if _, err := l.p.GetSnapshot(ctx, ref); !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("a snapshot is still there: %v", err)
		}
	}
	must(t, l.p.Start(ctx, id))
	ref := l.taken(t, id, false)
	must(t, l.p.RevertMachine(ctx, ref))
	must(t, l.p.Reset(ctx, id))
	must(t, l.p.Start(ctx, id))
	if m := l.get(t, id); m.Power != providers.PowerRunning || m.Hashes != spec.Hashes() {
		t.Errorf("it is %+v", m)
	}
}

// TestRemnants: a snapshot on whose disk two others lie is not found any more once it
// is deleted, and goes from VirtualBox when it can; what is left of one that was not
// taken to its end is collected.
func TestRemnants(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	id := l.made(t, l.spec("machine"))
	before := len(l.disks(t, id))
	first := l.taken(t, id, false)
	must(t, l.p.Start(ctx, id))
	second := l.taken(t, id, false)
	must(t, l.p.RevertMachine(ctx, first)) // beside the second one
	must(t, l.p.DeleteSnapshot(ctx, first))
	if left := l.snapshots(t); len(left) != 1 || left[0] != string(id)+"/"+string(second.ID) {
		t.Errorf("there are the snapshots %q", left)
	}
	must(t, l.p.DeleteSnapshot(ctx, second))
	if left := l.disks(t, id); len(left) != before {
		t.Errorf("without snapshots the machine has the disks %q", left)
	}
	third := l.taken(t, id, false)
	manage(t, "snapshot", string(id), "edit", "sandboxd-"+string(third.ID), "--name", "sandboxd-remnant-"+string(third.ID))
	for _, r := range l.resources(t) {
		if r.Kind == providers.ResourceSnapshot {
			if !slices.Equal(r.Owners, []types.UID{third.ID}) {
				t.Errorf("a remnant is %+v", r)
			}
			must(t, l.p.RemoveResource(ctx, r))
		}
	}
	if left := l.disks(t, id); len(left) != before {
		t.Errorf("without the remnant the machine has the disks %q", left)
	}
	must(t, l.p.Start(ctx, id))
}

func (l *lab) resources(t testing.TB) []providers.Resource {
	t.Helper()
	all, err := l.p.ListResources(context.Background())
	must(t, err)
	return all
}

// snapshots lists the snapshots in the inventory, by their IDs.
func (l *lab) snapshots(t testing.TB) []string {
	t.Helper()
	var ids []string
	for _, r := range l.resources(t) {
		if r.Kind == providers.ResourceSnapshot {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// TestDiscardAfterRevert: a machine that discards its disk at each start begins once
// from what it was put back to, also when its memory is discarded before it runs, and then
// from its image again.
func TestDiscardAfterRevert(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine")
	spec.DiscardOnStop = true
	id := l.made(t, spec)
	layers := func() int {
		t.Helper()
		disk, err := l.p.OpenDisk(ctx, providers.DiskRef{Machine: id})
		must(t, err)
		defer disk.Close()
		return len(disk.Layers)
	}
	golden := layers()
	must(t, l.p.Start(ctx, id))
	ref := l.taken(t, id, true)
	must(t, l.p.RevertMachine(ctx, ref))
	must(t, l.p.Stop(ctx, id, providers.StopForce)) // as when it cannot go on with its memory
	for _, want := range []int{golden + 1, golden} {
		must(t, l.p.Start(ctx, id))
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		if got := layers(); got != want {
			t.Errorf("it ran on a disk of %d layers, not %d", got, want)
		}
	}
	must(t, l.p.RevertMachine(ctx, ref))
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	must(t, l.p.Reset(ctx, id))
	if got := layers(); got != golden {
		t.Errorf("reset, its disk has %d layers, not %d", got, golden)
	}
}

// TestSnapshotsCutOff: whatever is done with snapshots and forks, cut off at each of
// its steps it leaves what the next call brings to its end, and no more disks than
// there ought to be.
func TestSnapshotsCutOff(t *testing.T) {
	if testing.Short() {
		t.Skip("cutting calls off at each of their steps takes minutes")
	}
	l := newLab(t)
	ctx := context.Background()
	id := l.made(t, l.spec("machine"))
	must(t, l.p.Start(ctx, id))
	kept := l.taken(t, id, true)
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	disks := len(l.disks(t, id))
	ref := providers.SnapshotRef{Machine: id, ID: newID()}
	take := func() error {
		_, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "cut-off"})
		return err
	}
	there := func() bool {
		_, err := l.p.GetSnapshot(ctx, ref)
		if err != nil && !errors.Is(err, providers.ErrNotFound) {
			t.Error(err)
		}
		return err == nil
	}
	gone := func() {
		if err := l.p.DeleteSnapshot(ctx, ref); err != nil && !errors.Is(err, providers.ErrNotFound) {
			t.Error(err)
		}
	}
	fork := l.spec("fork")
	fork.Snapshot = &kept
	for _, act := range []struct {
		name   string
		before func()
		call   func() error
		cut    func() // after it was cut off
	}{
		{"TakeSnapshot", gone, take, func() {
			if there() {
				t.Error("a snapshot is found that was not taken to its end")
			}
		}},
		{"RevertMachine", func() { must(t, l.p.Stop(ctx, id, providers.StopForce)) }, func() error { return l.p.RevertMachine(ctx, kept) }, func() {
			if m := l.get(t, id); m.Power != providers.PowerOff {
				t.Errorf("it is %s", m.Power)
			}
		}},
		{"DeleteSnapshot", func() { must(t, take()) }, func() error { gone(); return nil }, func() {}},
		{"EnsureMachine of a fork", func() { remove(t, l.p, fork.ID) }, func() error { return l.p.EnsureMachine(ctx, fork) }, func() {}},
		{"DeleteMachine of a fork", func() { must(t, l.p.EnsureMachine(ctx, fork)) }, func() error { return l.p.DeleteMachine(ctx, fork.ID) }, func() {}},
	} {
		for steps := 1; ; steps++ {
			act.before()
			var err error
			done := interrupt(l.p.Provider, steps, func() { err = act.call() })
			must(t, err)
			if done {
				if steps < 3 {
					t.Errorf("%s was cut off at %d steps only", act.name, steps-1)
				}
				break
			}
			act.cut()
			if err := act.call(); err != nil && !errors.Is(err, providers.ErrNotFound) || t.Failed() {
				t.Fatalf("%s, cut off at step %d: %v", act.name, steps, err)
			}
		}
		remove(t, l.p, fork.ID)
		gone()
		must(t, l.p.RevertMachine(ctx, kept))
		if now := l.disks(t, id); len(now) != disks {
			t.Errorf("after %s there are the disks %q, not %d", act.name, now, disks)
		}
		must(t, l.p.Start(ctx, id))
		must(t, l.p.Stop(ctx, id, providers.StopForce))
	}
}
