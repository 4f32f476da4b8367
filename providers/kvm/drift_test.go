//go:build linux

package kvm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// told is what a machine's drift says, one line for each.
func told(m providers.Machine) string {
	var lines []string
	for _, d := range m.Drift {
		line := fmt.Sprintf("%s %s: %s", d.Reason, d.Remedy, d.Detail)
		if d.Remedy == providers.RemedyNone {
			line += " => " + d.Advice
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func (l *lab) untouched(t *testing.T, id types.UID, when string) {
	t.Helper()
	if got := told(l.get(t, id)); got != "" {
		t.Errorf("nobody changed the machine %s, and it says: %s", when, got)
	}
}

// drifted waits for nothing: what others changed is seen by the next look.
func (l *lab) drifted(t *testing.T, id types.UID, reason string, remedy providers.Remedy, part string) {
	t.Helper()
	m := l.get(t, id)
	for _, d := range m.Drift {
		if d.Reason == reason && d.Remedy == remedy && strings.Contains(d.Detail, part) {
			t.Logf("seen: %s", told(m))
			return
		}
	}
	t.Errorf("no drift %s %s that says %q; it says: %q", reason, remedy, part, told(m))
}

func snapshotOf(id types.UID, memory bool) providers.SnapshotSpec {
	return providers.SnapshotSpec{
		SnapshotRef: providers.SnapshotRef{Machine: id, ID: newID()}, Namespace: "default", Name: "snap", Memory: memory,
	}
}

// TestUntouchedMachinesHaveNoDrift goes through what becomes of a machine without
// anybody else.
func TestUntouchedMachinesHaveNoDrift(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "echo", GuestPort: guestPort}}})
	spec.MemoryBytes += 1000 // not whole to libvirt
	dir := l.folder(t)
	spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: dir}}
	id := spec.ID
	t.Cleanup(func() { remove(t, l.p, id) })
	ensure := func() { t.Helper(); must(t, l.p.EnsureMachine(ctx, spec)) }
	ensure()
	l.untouched(t, id, "when it was made")
	must(t, l.p.Start(ctx, id))
	l.untouched(t, id, "when it runs")
	run(t, "virsh", "suspend", string(id))
	l.untouched(t, id, "when it is paused")
	must(t, l.p.Start(ctx, id))
	spec.Network.PortForwards = nil
	ensure()
	l.untouched(t, id, "after a change of its forwards")
	must(t, l.p.Suspend(ctx, id))
	l.untouched(t, id, "when it is saved")
	must(t, l.p.Start(ctx, id))
	l.untouched(t, id, "when it goes on")
	withMemory, err := l.p.TakeSnapshot(ctx, snapshotOf(id, true))
	must(t, err)
	l.untouched(t, id, "after a snapshot with memory")
	l.killLibvirtd(t)
	l.startLibvirtd(t)
	eventually(t, "libvirt is back", func() bool { _, err := l.p.GetMachine(ctx, id); return err == nil })
	l.untouched(t, id, "after libvirt was restarted")
	must(t, l.p.RevertMachine(ctx, withMemory.SnapshotRef))
	l.untouched(t, id, "after it was reverted to a saved state")
	must(t, l.p.Start(ctx, id))
	l.untouched(t, id, "when it goes on from a snapshot")
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	l.untouched(t, id, "when it is off")
	spec.DiskBytes, spec.CPUs, spec.MemoryBytes, spec.SharedFolders = 2<<30, 2, 160<<20, nil
	ensure()
	l.untouched(t, id, "after its spec was changed")
	must(t, l.p.DeleteSnapshot(ctx, withMemory.SnapshotRef))
	disk, err := l.p.TakeSnapshot(ctx, snapshotOf(id, false))
	must(t, err)
	l.untouched(t, id, "after a snapshot")
	fork := l.spec("fork", v1.Network{Mode: v1.NetworkIntnet, Name: "x"})
	fork.Snapshot = &disk.SnapshotRef
	fork.DiscardOnStop = true
	t.Cleanup(func() { remove(t, l.p, fork.ID) })
	must(t, l.p.EnsureMachine(ctx, fork))
	l.untouched(t, fork.ID, "after it was forked")
	must(t, l.p.Start(ctx, fork.ID))
	l.untouched(t, fork.ID, "when it runs as a fork")
	promoted := providers.ImageSpec{ImageRef: providers.ImageRef{UID: newID(), Revision: "1"}, Name: "promoted", From: &providers.DiskRef{Machine: id}}
	_, err = l.p.ImportImage(ctx, promoted, nil)
	must(t, err)
	l.untouched(t, id, "after it was promoted")
	must(t, l.p.DeleteImage(ctx, promoted.ImageRef))
	must(t, l.p.Reset(ctx, id))
	l.untouched(t, id, "after it was reset")
	bridged := l.spec("bridged", v1.Network{Mode: v1.NetworkBridged, Bridge: "driftbr0"})
	run(t, "ip", "link", "add", "driftbr0", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "driftbr0").Run() })
	run(t, "ip", "link", "set", "driftbr0", "up")
	t.Cleanup(func() { remove(t, l.p, bridged.ID) })
	must(t, l.p.EnsureMachine(ctx, bridged))
	must(t, l.p.Start(ctx, bridged.ID))
	l.untouched(t, bridged.ID, "when it runs on a bridge")
}

// tampering is a change by hand and what is told of it.
type tampering struct {
	name   string
	change func(t *testing.T, l *lab, id types.UID)
	reason string
	remedy providers.Remedy
	part   string
}

func virsh(args ...string) func(*testing.T, *lab, types.UID) {
	return func(t *testing.T, _ *lab, id types.UID) {
		t.Helper()
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "ID", string(id))
		}
		run(t, "virsh", args...)
	}
}

func edited(old, changed string) func(*testing.T, *lab, types.UID) {
	return func(t *testing.T, _ *lab, id types.UID) { t.Helper(); redefine(t, id, old, changed) }
}

// otherDisk is a disk of somebody else's.
func (l *lab) otherDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(l.folder(t), "other.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
	return path
}

// definitions are changes of what the next start is made from.
func definitions() []tampering {
	return []tampering{
		{"memory", virsh("setmaxmem", "ID", "192M", "--config"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, "its memory is 192 MiB, and was made as 128 MiB"},
		{"cpus", edited(">1</vcpu>", ">3</vcpu>"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, "its number of CPUs is 3, and was made as 1"},
		{"network card", edited("<interface type='network'>", "<interface type='bridge'><source bridge='virbr9'/></interface><interface type='network'>"), v1.ReasonNetworkChanged, providers.RemedyEnsure, "bridge virbr9"},
		{"network", func(t *testing.T, _ *lab, id types.UID) {
			redefine(t, id, "<source network='"+networkOf(t, id)+"'/>", "<source network='default'/>")
		}, v1.ReasonNetworkChanged, providers.RemedyEnsure, `its network card is on "network default"`},
		{"disk", func(t *testing.T, l *lab, id types.UID) {
			redefine(t, id, l.disk(id), l.otherDisk(t))
		}, v1.ReasonDiskChanged, providers.RemedyEnsure, "its drive vda is"},
		{"no network card", func(t *testing.T, _ *lab, id types.UID) {
			run(t, "virsh", "detach-interface", string(id), "network", "--config")
		}, v1.ReasonNetworkChanged, providers.RemedyEnsure, "its network card is gone"},
		{"sound", edited("<devices>", "<devices><sound model='ac97'/>"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, "a sound card"},
		{"usb", edited("<controller type='usb' index='0' model='none'/>", "<controller type='usb' model='qemu-xhci'/>"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, "a USB controller"},
		{"clipboard", edited("<devices>", "<devices><channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel><graphics type='spice'/>"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, "a display"},
		{"folder", edited("<devices>", "<devices><filesystem type='mount' accessmode='mapped'><source dir='/etc'/><target dir='x'/></filesystem>"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, `it shares "/etc" of the host`},
	}
}

// disk of a machine of the lab's.
func (l *lab) disk(id types.UID) string {
	return filepath.Join(l.dataDir(l.instance), "machines", string(id), "disk.qcow2")
}

// TestChangedDefinitions are put right, of a machine that is off and of one that
// runs on as it was.
func TestChangedDefinitions(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkHostOnly})
	id := spec.ID
	t.Cleanup(func() { remove(t, l.p, id) })
	must(t, l.p.EnsureMachine(ctx, spec))
	before := run(t, "virsh", "dumpxml", "--inactive", string(id))
	try := func(t *testing.T, tc tampering) {
		tc.change(t, l, id)
		l.drifted(t, id, tc.reason, tc.remedy, tc.part)
		must(t, l.p.EnsureMachine(ctx, spec))
		l.untouched(t, id, "after it was ensured")
		if after := run(t, "virsh", "dumpxml", "--inactive", string(id)); after != before {
			t.Errorf("it is defined as\n%s\nand was as\n%s", after, before)
		}
	}
	renamed := tampering{"name", virsh("domrename", "ID", "somebody-elses-name"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, "somebody-elses-name"}
	for _, tc := range append(definitions(), renamed) {
		t.Run("off/"+tc.name, func(t *testing.T) { try(t, tc) })
	}
	must(t, l.p.Start(ctx, id))
	process := pid(t, id)
	for _, tc := range definitions() {
		t.Run("on/"+tc.name, func(t *testing.T) { try(t, tc) })
	}
	undefined := tampering{"undefined", virsh("undefine", "ID"), v1.ReasonDefinitionChanged, providers.RemedyEnsure, "its definition was removed"}
	t.Run("on/"+undefined.name, func(t *testing.T) { try(t, undefined) })
	if pid(t, id) != process || l.get(t, id).Power != providers.PowerRunning {
		t.Error("the machine does not run on")
	}
	must(t, l.p.Suspend(ctx, id))
	for _, tc := range definitions()[:3] {
		t.Run("saved/"+tc.name, func(t *testing.T) { try(t, tc) })
	}
	must(t, l.p.Start(ctx, id))
	l.untouched(t, id, "when it goes on")
}

// TestChangedWhileItRuns: what runs otherwise than it was made is told with its
// remedy, and is right once the machine was off.
func TestChangedWhileItRuns(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkHostOnly})
	id := spec.ID
	t.Cleanup(func() { remove(t, l.p, id) })
	attach := func(xml string) func(*testing.T, *lab, types.UID) {
		return func(t *testing.T, _ *lab, id types.UID) {
			t.Helper()
			file := filepath.Join(t.TempDir(), "device.xml")
			must(t, os.WriteFile(file, []byte(xml), 0o600))
			run(t, "virsh", "attach-device", string(id), file, "--live")
		}
	}
	run(t, "ip", "link", "add", "driftbr1", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "driftbr1").Run() })
	for _, tc := range []tampering{
		{"another network card", attach("<interface type='bridge'><source bridge='driftbr1'/><model type='virtio'/></interface>"), v1.ReasonNetworkChanged, providers.RemedyPowerOff, "bridge driftbr1"},
		{"its link is down", func(t *testing.T, _ *lab, id types.UID) {
			run(t, "virsh", "domif-setlink", string(id), tapOf(t, id), "down")
		}, v1.ReasonNetworkChanged, providers.RemedyOff, "its link down"},
		{"its link is on another bridge", func(t *testing.T, _ *lab, id types.UID) {
			run(t, "ip", "link", "set", tapOf(t, id), "master", "driftbr1")
		}, v1.ReasonNetworkChanged, providers.RemedyPowerOff, "is not a port of bridge"},
		{"its network is destroyed", func(t *testing.T, _ *lab, id types.UID) {
			run(t, "virsh", "net-destroy", networkOf(t, id))
		}, v1.ReasonNetworkChanged, providers.RemedyPowerOff, ""},
		{"its bridge is deleted", func(t *testing.T, _ *lab, id types.UID) {
			run(t, "ip", "link", "del", bridgeOf(t, id))
		}, v1.ReasonNetworkChanged, providers.RemedyPowerOff, "has no bridge"},
		{"its bridge has lost its address", func(t *testing.T, _ *lab, id types.UID) {
			run(t, "ip", "addr", "flush", "dev", bridgeOf(t, id))
		}, v1.ReasonNetworkChanged, providers.RemedyPowerOff, "lacks its address"},
		{"another disk", func(t *testing.T, l *lab, id types.UID) {
			run(t, "virsh", "attach-disk", string(id), l.otherDisk(t), "vdc", "--live")
		}, v1.ReasonDefinitionChanged, providers.RemedyPowerOff, "it has the drive \"vdc\""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			must(t, l.p.EnsureMachine(ctx, spec))
			must(t, l.p.Start(ctx, id))
			eventually(t, "it is isolated", func() bool { return l.get(t, id).Network.Isolated })
			l.untouched(t, id, "when it runs")
			tc.change(t, l, id)
			if tc.remedy == providers.RemedyPowerOff { // one look at the host serves for a moment
				eventually(t, "it is told that it must not run on", func() bool {
					worst, ok := providers.Worst(l.get(t, id).Drift)
					return ok && worst.Remedy == providers.RemedyPowerOff
				})
			}
			l.drifted(t, id, tc.reason, tc.remedy, tc.part)
			must(t, l.p.Stop(ctx, id, providers.StopForce))
			must(t, l.p.EnsureMachine(ctx, spec))
			l.untouched(t, id, "after it was off")
		})
	}
}

// TestStartedWithWhatReachesOutside: what was put into a definition by which its guest
// would reach outside keeps a machine from running, whoever looked at it before.
func TestStartedWithWhatReachesOutside(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNone})
	id := spec.ID
	t.Cleanup(func() { remove(t, l.p, id) })
	must(t, l.p.EnsureMachine(ctx, spec))
	for name, change := range map[string]func(*testing.T, *lab, types.UID){
		"folder": edited("<devices>", "<devices><filesystem type='mount' accessmode='mapped'><source dir='"+l.folder(t)+"'/><target dir='x'/></filesystem>"),
		"disk":   edited("<devices>", "<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='"+l.otherDisk(t)+"'/><target dev='vdz' bus='virtio'/></disk>"),
	} {
		change(t, l, id)
		err := l.p.Start(ctx, id)
		if !errors.Is(err, providers.ErrUnavailable) || providers.ReasonOf(err) != v1.ReasonDefinitionChanged {
			t.Errorf("started with a %s that it was not given: %v", name, err)
		}
		if m := l.get(t, id); m.Power != providers.PowerOff {
			t.Errorf("with a %s that it was not given it is %s", name, m.Power)
		}
		must(t, l.p.EnsureMachine(ctx, spec))
		l.untouched(t, id, "after it was ensured")
	}
	must(t, l.p.Start(ctx, id))
	l.untouched(t, id, "when it runs")
}

// TestForeignSnapshots: what others keep of a machine is not destroyed, and what
// they can do is true.
func TestForeignSnapshots(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNone})
	id := spec.ID
	t.Cleanup(func() { remove(t, l.p, id) })
	must(t, l.p.EnsureMachine(ctx, spec))
	refused := func(t *testing.T) {
		t.Helper()
		before := run(t, "virsh", "dumpxml", "--inactive", string(id))
		err := l.p.EnsureMachine(ctx, spec)
		if !errors.Is(err, providers.ErrInvalid) || providers.ReasonOf(err) != v1.ReasonForeignSnapshots {
			t.Errorf("ensured: %v", err)
		}
		if _, err := l.p.TakeSnapshot(ctx, snapshotOf(id, false)); providers.ReasonOf(err) != v1.ReasonForeignSnapshots {
			t.Errorf("a snapshot: %v", err)
		}
		if after := run(t, "virsh", "dumpxml", "--inactive", string(id)); after != before {
			t.Errorf("it was changed to %s", after)
		}
	}
	t.Run("internal", func(t *testing.T) {
		run(t, "virsh", "snapshot-create-as", string(id), "by-hand")
		l.drifted(t, id, v1.ReasonForeignSnapshots, providers.RemedyNone, "snapshots that others took: 1")
		refused(t)
		run(t, "virsh", "snapshot-delete", string(id), "by-hand")
		l.untouched(t, id, "after its snapshot was deleted")
	})
	must(t, l.p.Start(ctx, id))
	t.Run("overlay", func(t *testing.T) {
		run(t, "virsh", "snapshot-create-as", string(id), "by-hand", "--disk-only", "--diskspec", "vda,snapshot=external", "--diskspec", "vdb,snapshot=no")
		l.drifted(t, id, v1.ReasonForeignSnapshots, providers.RemedyNone, "upon its disk")
		refused(t)
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		l.drifted(t, id, v1.ReasonForeignSnapshots, providers.RemedyNone, "upon its disk")
		refused(t)
		must(t, l.p.Start(ctx, id))
		l.drifted(t, id, v1.ReasonForeignSnapshots, providers.RemedyNone, "upon its disk")
		run(t, "virsh", "blockcommit", string(id), "vda", "--base", l.disk(id), "--active", "--pivot")
		l.untouched(t, id, "after what others took was merged")
		must(t, l.p.EnsureMachine(ctx, spec))
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		must(t, l.p.EnsureMachine(ctx, spec))
		l.untouched(t, id, "after it was ensured")
		run(t, "virsh", "domrename", string(id), "somebody-elses-name")
		must(t, l.p.EnsureMachine(ctx, spec)) // with notes of a snapshot
		l.untouched(t, id, "after it was renamed")
	})
	must(t, l.p.Start(ctx, id))
	run(t, "virsh", "snapshot-create-as", string(id), "again", "--disk-only", "--diskspec", "vda,snapshot=external", "--diskspec", "vdb,snapshot=no")
	remove(t, l.p, id)
	if out := run(t, "virsh", "list", "--all", "--uuid"); strings.Contains(out, string(id)) {
		t.Error("it was not removed")
	}
}

// TestLostDisk: a disk whose file is gone is not made anew in silence.
func TestLostDisk(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNone})
	id := spec.ID
	t.Cleanup(func() { remove(t, l.p, id) })
	must(t, l.p.EnsureMachine(ctx, spec))
	snap, err := l.p.TakeSnapshot(ctx, snapshotOf(id, false))
	must(t, err)
	for _, on := range []bool{false, true} {
		if on {
			must(t, l.p.Start(ctx, id))
		}
		must(t, os.Rename(l.disk(id), l.disk(id)+".away"))
		l.drifted(t, id, v1.ReasonDiskLost, providers.RemedyNone, "is gone")
		if err := l.p.EnsureMachine(ctx, spec); !errors.Is(err, providers.ErrInvalid) || providers.ReasonOf(err) != v1.ReasonDiskLost {
			t.Errorf("ensured: %v", err)
		}
		must(t, os.Rename(l.disk(id)+".away", l.disk(id)))
		l.untouched(t, id, "after its disk was put back")
	}
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	must(t, os.Remove(l.disk(id)))
	must(t, l.p.RevertMachine(ctx, snap.SnapshotRef))
	l.untouched(t, id, "after it was reverted")
	must(t, os.WriteFile(l.disk(id), []byte("nothing of a disk"), 0o600))
	l.drifted(t, id, v1.ReasonDiskChanged, providers.RemedyNone, "cannot be read")
	if err := l.p.Start(ctx, id); !errors.Is(err, providers.ErrInvalid) || providers.ReasonOf(err) != v1.ReasonDiskChanged {
		t.Errorf("started: %v", err)
	}
	must(t, l.p.Reset(ctx, id))
	l.untouched(t, id, "after it was reset")
	must(t, l.p.Start(ctx, id))

	discards := l.spec("discards", v1.Network{Mode: v1.NetworkNone})
	discards.DiscardOnStop = true
	t.Cleanup(func() { remove(t, l.p, discards.ID) })
	must(t, l.p.EnsureMachine(ctx, discards))
	must(t, os.Remove(l.disk(discards.ID)))
	l.drifted(t, discards.ID, v1.ReasonDiskLost, providers.RemedyEnsure, "is gone")
	must(t, l.p.EnsureMachine(ctx, discards))
	l.untouched(t, discards.ID, "after it was ensured")
	must(t, os.WriteFile(l.disk(discards.ID), []byte("nothing of a disk"), 0o600))
	l.drifted(t, discards.ID, v1.ReasonDiskChanged, providers.RemedyEnsure, "cannot be read")
	must(t, l.p.EnsureMachine(ctx, discards))
	l.untouched(t, discards.ID, "after its damaged disk was ensured")
	must(t, l.p.Start(ctx, discards.ID))
}
