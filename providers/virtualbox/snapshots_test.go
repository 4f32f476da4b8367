package virtualbox_test

import (
	"context"
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

// TestUnregisteredWithSnapshots: a machine with snapshots, one of them beside the
// line of the others, which somebody removes from VirtualBox without its files, is
// given back to it with all of them, and VirtualBox knows that after its service has
// died as well.
func TestUnregisteredWithSnapshots(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine")
	id := l.made(t, spec)
	first := l.taken(t, id, false)
	must(t, l.p.Start(ctx, id))
	second := l.taken(t, id, true)
	must(t, l.p.RevertMachine(ctx, first))
	third := l.taken(t, id, false)
	manage(t, "unregistervm", string(id))
	must(t, l.p.EnsureMachine(ctx, spec))
	killSVC(t)
	for ref, power := range map[providers.SnapshotRef]providers.Power{first: providers.PowerOff, second: providers.PowerSaved, third: providers.PowerOff} {
		must(t, l.p.RevertMachine(ctx, ref))
		if m := l.get(t, id); m.Power != power || m.Hashes != spec.Hashes() {
			t.Errorf("reverted to %s it is %+v", ref, m)
		}
		must(t, l.p.Start(ctx, id))
	}
	for _, ref := range []providers.SnapshotRef{first, second, third} {
		must(t, l.p.DeleteSnapshot(ctx, ref))
	}
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	must(t, l.p.Start(ctx, id))
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
// from what it was put back to, and then from its image again.
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
	ref := l.taken(t, id, false)
	must(t, l.p.RevertMachine(ctx, ref))
	for _, want := range []int{golden + 1, golden} {
		must(t, l.p.Start(ctx, id))
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		if got := layers(); got != want {
			t.Errorf("it ran on a disk of %d layers, not %d", got, want)
		}
	}
	must(t, l.p.RevertMachine(ctx, ref))
	must(t, l.p.Reset(ctx, id))
	if got := layers(); got != golden {
		t.Errorf("reset, its disk has %d layers, not %d", got, golden)
	}
}
