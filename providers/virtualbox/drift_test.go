package virtualbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
)

// wantDrift demands that the one drift of a machine is told with a remedy.
func (l *lab) wantDrift(t testing.TB, id types.UID, what, reason string, remedy providers.Remedy, says string) {
	t.Helper()
	var m providers.Machine
	eventually(t, what+" is told", func() bool { // a look that was just made serves once
		m = l.get(t, id)
		return len(m.Drift) > 0
	})
	if len(m.Drift) != 1 || m.Drift[0].Reason != reason || m.Drift[0].Remedy != remedy || !strings.Contains(m.Drift[0].Detail, says) {
		t.Errorf("%s, %s: %+v", what, m.Power, m.Drift)
	}
	t.Logf("%s, %s: %+v", what, m.Power, m.Drift)
}

// wantNone demands that a machine is as it was made.
func (l *lab) wantNone(t testing.TB, when string, spec providers.MachineSpec, power providers.Power) {
	t.Helper()
	m := l.get(t, spec.ID)
	if len(m.Drift) > 0 || m.Power != power || m.Hashes != spec.Hashes() || power == providers.PowerRunning && !m.Network.Isolated {
		t.Errorf("%s: %+v", when, m)
	}
}

// TestNothingDrifts: what sandboxd does itself is no drift, nor is what VirtualBox makes
// of it, in any state.
func TestNothingDrifts(t *testing.T) {
	if testing.Short() {
		t.Skip("in the brief form the conformance suite looks for drift wherever it observes a machine")
	}
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
	spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: t.TempDir()}}
	spec.DiskBytes = 64 << 20
	id := l.made(t, spec)
	l.wantNone(t, "made", spec, providers.PowerOff)
	must(t, l.p.Start(ctx, id))
	l.wantNone(t, "started", spec, providers.PowerRunning)
	taken := providers.SnapshotSpec{SnapshotRef: providers.SnapshotRef{Machine: id, ID: newID()}, Namespace: "default", Name: "one", Memory: true}
	_, err := l.p.TakeSnapshot(ctx, taken)
	must(t, err)
	l.wantNone(t, "with a snapshot", spec, providers.PowerRunning)
	spec.Network.PortForwards = append(spec.Network.PortForwards, v1.PortForward{Name: "more", GuestPort: 80})
	must(t, l.p.EnsureMachine(ctx, spec))
	l.wantNone(t, "with a forward more", spec, providers.PowerRunning)
	must(t, l.p.Suspend(ctx, id))
	killSVC(t)
	l.wantNone(t, "suspended, and VBoxSVC started anew", spec, providers.PowerSaved)
	must(t, l.p.RevertMachine(ctx, taken.SnapshotRef))
	l.wantNone(t, "put back to the snapshot", spec, providers.PowerSaved)
	must(t, l.p.Start(ctx, id))
	l.wantNone(t, "gone on from there", spec, providers.PowerRunning)
	fork := l.spec("fork")
	fork.Snapshot = &taken.SnapshotRef
	l.made(t, fork)
	l.wantNone(t, "a fork", fork, providers.PowerOff)
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	spec.DiskBytes, spec.MemoryBytes = 96<<20, 48<<20
	must(t, l.p.EnsureMachine(ctx, spec))
	l.wantNone(t, "grown", spec, providers.PowerOff)
	must(t, l.p.Reset(ctx, id))
	killSVC(t)
	l.wantNone(t, "reset, and VBoxSVC started anew", spec, providers.PowerOff)
	remove(t, l.p, fork.ID)
}

// TestDriftWhileOn: what somebody changes of a machine that runs, or of one that is
// saved, is told. It is put back at once where that leaks nothing, and else once the
// machine is off.
func TestDriftWhileOn(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
	id := l.made(t, spec)
	vm := string(id)
	must(t, l.p.Start(ctx, id))
	for what, args := range map[string][]string{
		"clipboard": {"clipboard", "mode", "bidirectional"}, "draganddrop": {"draganddrop", "bidirectional"}, "vrde": {"vrde", "on"},
		"cable": {"setlinkstate1", "off"}, "x,tcp,127.0.0.1,": {"natpf1", "x,tcp,127.0.0.1,0,,23"},
	} {
		reason := v1.ReasonDefinitionChanged
		if what == "cable" || strings.HasPrefix(what, "x,") {
			reason = v1.ReasonNetworkChanged
		}
		manage(t, append([]string{"controlvm", vm}, args...)...)
		l.wantDrift(t, id, what, reason, providers.RemedyEnsure, what)
		must(t, l.p.EnsureMachine(ctx, spec))
		l.wantNone(t, what+" was put back", spec, providers.PowerRunning)
	}
	folder := t.TempDir()
	for what, args := range map[string][]string{
		"network card": {"controlvm", vm, "nic1", "null"}, "serial port": {"controlvm", vm, "changeuartmode1", "file", filepath.Join(folder, "log")},
		"mine": {"sharedfolder", "add", vm, "--name", "mine", "--hostpath", folder, "--transient"},
	} {
		reason := v1.ReasonDefinitionChanged
		if what == "network card" {
			reason = v1.ReasonNetworkChanged
		}
		manage(t, args...)
		l.wantDrift(t, id, what, reason, providers.RemedyPowerOff, what)
		must(t, l.p.EnsureMachine(ctx, spec))
		l.wantDrift(t, id, what+" ensured", reason, providers.RemedyPowerOff, what)
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		must(t, l.run(ctx, spec))
		l.wantNone(t, what+" was put back", spec, providers.PowerRunning)
	}

	// Saved, with a clipboard that only a running machine lets anybody change.
	manage(t, "controlvm", vm, "clipboard", "mode", "bidirectional")
	must(t, l.p.Suspend(ctx, id))
	l.wantDrift(t, id, "saved with a clipboard", v1.ReasonDefinitionChanged, providers.RemedyOff, "clipboard")
	must(t, l.p.Start(ctx, id))
	l.wantNone(t, "gone on", spec, providers.PowerRunning)
	must(t, l.p.Suspend(ctx, id))
	for what, args := range map[string][]string{"vrde": {"--vrde", "on"}, "cable": {"--cable-connected1", "off"}} {
		asSomebody(t, append([]string{"modifyvm", vm}, args...)...)
		if m := l.get(t, id); len(m.Drift) != 1 || m.Drift[0].Remedy != providers.RemedyEnsure {
			t.Errorf("saved, %s: %+v", what, m.Drift)
		}
		must(t, l.p.EnsureMachine(ctx, spec))
		l.wantNone(t, what+" was put back", spec, providers.PowerSaved)
	}
	ref := providers.SnapshotRef{Machine: id, ID: newID()}
	_, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "one"})
	must(t, err)
	asSomebody(t, "modifyvm", vm, "--name", "mine")
	l.wantDrift(t, id, "renamed", v1.ReasonDefinitionChanged, providers.RemedyOff, `"mine"`)
	if _, err := l.p.GetSnapshot(ctx, ref); err != nil {
		t.Errorf("a snapshot of the renamed machine: %v", err)
	}
	must(t, l.p.Start(ctx, id))
	l.wantDrift(t, id, "renamed", v1.ReasonDefinitionChanged, providers.RemedyOff, `"mine"`)
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	if m := l.get(t, id); m.OffReason != providers.OffDestroyed {
		t.Errorf("renamed and off: %+v", m)
	}
	must(t, l.p.EnsureMachine(ctx, spec))
	l.wantNone(t, "named again", spec, providers.PowerOff)
	if disk := diskOf(t, id); !strings.Contains(disk, "/default.machine."+vm[:8]+"/") {
		t.Errorf("its disk is now %s", disk)
	}
}

// TestDisksByOthers: a machine's own disk is put back, and what somebody has put into
// its drives is taken out and stays.
func TestDisksByOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("in the brief form the conformance suite swaps a disk")
	}
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	id := l.made(t, spec)
	vm, at, own := string(id), placeOf(t, id), diskOf(t, id)
	attach := func(port, kind, medium string) {
		t.Helper()
		asSomebody(t, "storageattach", vm, "--storagectl", at[0], "--port", port, "--device", at[2], "--type", kind, "--medium", medium)
	}
	ref := providers.SnapshotRef{Machine: id, ID: newID()}
	for n, change := range []func(){
		func() { attach(at[1], "hdd", "none") },
		func() { attach(at[1], "hdd", otherDisk(t)) },
		func() { attach("2", "hdd", otherDisk(t)) },
		func() { attach("2", "dvddrive", otherCD(t)) },
		func() { attach(at[1], "hdd", otherDisk(t)); attach("2", "hdd", own) }, // as well as anywhere
		func() {
			attach(at[1], "hdd", "none")
			killSVC(t) // which forgets disks that no machine has
		},
	} {
		change()
		if m := l.get(t, id); len(m.Drift) == 0 || m.Drift[0].Remedy != providers.RemedyOff {
			t.Errorf("change %d: %+v", n, m.Drift)
		}
		must(t, l.p.EnsureMachine(ctx, spec))
		l.wantNone(t, "put back", spec, providers.PowerOff)
		if now := diskOf(t, id); now != own {
			t.Errorf("change %d: its disk is %s, and was %s", n, now, own)
		}
		if n == 4 { // with a disk on its own from here on
			attach("2", "hdd", "none")
			must(t, l.p.EnsureMachine(ctx, spec))
			_, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "one"})
			must(t, err)
			at, own = placeOf(t, id), diskOf(t, id)
		}
	}
	must(t, l.run(ctx, spec))
	l.wantNone(t, "started", spec, providers.PowerRunning)
}

// TestDiskLost: a machine whose disk is gone is left alone, and Reset or the file makes
// it whole again.
func TestDiskLost(t *testing.T) {
	if testing.Short() {
		t.Skip("in the brief form the conformance suite removes a disk's file")
	}
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	id := l.made(t, spec)
	for n, change := range []func(disk string){
		func(disk string) { must(t, os.Remove(disk)) },
		func(disk string) { must(t, os.Remove(disk)); killSVC(t) },
		func(disk string) {
			at := placeOf(t, id)
			asSomebody(t, "storageattach", string(id), "--storagectl", at[0], "--port", at[1], "--device", at[2], "--medium", "none")
			must(t, os.Remove(disk))
		},
	} {
		disk := diskOf(t, id)
		content, err := os.ReadFile(disk)
		must(t, err)
		change(disk)
		l.wantDrift(t, id, "lost", v1.ReasonDiskLost, providers.RemedyNone, "gone")
		if err := l.p.EnsureMachine(ctx, spec); !errors.Is(err, providers.ErrInvalid) || providers.ReasonOf(err) != v1.ReasonDiskLost {
			t.Errorf("%d: it is ensured: %v", n, err)
		}
		if err := l.p.Start(ctx, id); err == nil || providers.KindOf(err) == nil {
			t.Errorf("%d: it starts: %v", n, err)
		} else {
			t.Log(err)
		}
		must(t, os.WriteFile(disk, content, 0o600))
		if n < 2 {
			l.wantNone(t, "with its file again", spec, providers.PowerOff)
		}
		must(t, os.Remove(disk))
		l.converges(t, "it is reset", func() error { return l.p.Reset(ctx, id) })
		l.wantNone(t, "reset", spec, providers.PowerOff)
		must(t, l.run(ctx, spec))
		l.wantNone(t, "started", spec, providers.PowerRunning)
		must(t, l.p.Stop(ctx, id, providers.StopForce))
	}
}

// TestDeleteDrifted: a machine is deleted whatever somebody has done to it, with all
// that is ours and with nothing of theirs.
func TestDeleteDrifted(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	insert := func(id types.UID, port, kind, medium string) {
		t.Helper()
		at := placeOf(t, id)
		asSomebody(t, "storageattach", string(id), "--storagectl", at[0], "--port", port, "--device", "0", "--type", kind, "--medium", medium)
	}
	for what, change := range map[string]func(id types.UID){
		"CD":   func(id types.UID) { insert(id, "2", "dvddrive", otherCD(t)) },
		"disk": func(id types.UID) { insert(id, "2", "hdd", otherDisk(t)) },
		"CD in the place of the seed, while it runs": func(id types.UID) {
			must(t, l.p.Start(ctx, id))
			manage(t, "storageattach", string(id), "--storagectl", placeOf(t, id)[0], "--port", "1", "--device", "0", "--type", "dvddrive", "--medium", otherCD(t), "--forceunmount")
		},
		"CD and disk of a snapshot": func(id types.UID) {
			insert(id, "2", "hdd", otherDisk(t))
			insert(id, "3", "dvddrive", otherCD(t))
			tamper(t, id, conformance.TamperSnapshot)
			insert(id, "2", "hdd", "none")
			insert(id, "3", "dvddrive", "none")
		},
		"no disk": func(id types.UID) { insert(id, "0", "hdd", "none") },
		"another name, and snapshots": func(id types.UID) {
			tamper(t, id, conformance.TamperSnapshot)
			tamper(t, id, conformance.TamperSnapshot)
			tamper(t, id, conformance.TamperName)
		},
	} {
		before := l.added(t)
		spec := l.spec("machine")
		id := l.made(t, spec)
		change(id)
		t.Logf("%s: %+v", what, l.get(t, id).Drift)
		remove(t, l.p, id)
		theirs := func(s string) bool { return slices.Contains(before, s) || strings.Contains(s, "/mine") }
		eventually(t, what+": nothing is left", func() bool { return len(slices.DeleteFunc(l.added(t), theirs)) == 0 })
	}
}

// TestPlainFiles: files where folders are expected keep nobody from anything.
func TestPlainFiles(t *testing.T) {
	l := newLab(t)
	data := filepath.Join(l.root, "data-lab")
	for _, path := range []string{filepath.Join("images", string(newID())), filepath.Join("machines", string(newID())), "images/x", "machines/x"} {
		path = filepath.Join(data, path)
		must(t, os.WriteFile(path, nil, 0o600))
		t.Cleanup(func() { must(t, os.Remove(path)) })
	}
	resources, err := l.p.ListResources(t.Context())
	must(t, err)
	seen := 0
	for _, r := range resources {
		if r.Ownership == providers.Ambiguous {
			seen++
		}
	}
	if seen != 4 {
		t.Errorf("%d of 4 are reported: %+v", seen, resources)
	}
	id := l.made(t, l.spec("machine"))
	must(t, l.p.Start(t.Context(), id))
	remove(t, l.p, id)
	if err := l.p.DeleteImage(t.Context(), l.image); err != nil {
		t.Errorf("delete image: %v", err)
	}
}
