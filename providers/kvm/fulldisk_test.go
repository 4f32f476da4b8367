//go:build linux

package kvm_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/test/smalldisk"
)

// fullLab is a lab whose data folder is a disk of its own, which a test fills.
type fullLab struct {
	*lab
	disk smalldisk.Disk
}

func newFullLab(t *testing.T, size string) *fullLab {
	t.Helper()
	h := newHost(t)
	instance := providers.Instance(newID())
	must(t, os.Mkdir(h.dataDir(instance), 0o755))
	l := &fullLab{disk: smalldisk.Mount(t, h.dataDir(instance), size)}
	l.lab = &lab{host: h, instance: instance, p: h.open(t, instance), image: providers.ImageRef{UID: newID(), Revision: "1"}}
	t.Cleanup(func() { must(t, l.p.Close()) })
	return l
}

func (l *fullLab) importTiny(t *testing.T) error {
	t.Helper()
	disk := tinySource(t)
	_, err := l.p.ImportImage(context.Background(), providers.ImageSpec{ImageRef: l.image, Name: "tiny", Source: v1.ImageSource{Disk: &disk}}, nil)
	return err
}

// refused wants an error of a full disk, which says where.
func (l *fullLab) full(t *testing.T, what string, err error) {
	t.Helper()
	switch {
	case !errors.Is(err, providers.ErrCapacity):
		t.Errorf("%s on a full disk: %v, want ErrCapacity", what, err)
	case !strings.Contains(err.Error(), l.disk.Dir):
		t.Errorf("%s on a full disk: %q does not name %s", what, err, l.disk.Dir)
	default:
		t.Logf("%s: %v", what, err)
	}
}

// leftNothing wants the files that were there before.
func (l *fullLab) leftNothing(t *testing.T, what string, before []string) {
	t.Helper()
	if after := l.disk.Names(); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("%s on a full disk left:\n%s\nwhere there was:\n%s", what, strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// TestFullDisk: what finds no space says so, leaves nothing half done, and works as
// soon as there is space, without a restart.
func TestFullDisk(t *testing.T) {
	l := newFullLab(t, "600m")
	ctx := context.Background()

	// An image.
	before := l.disk.Names()
	l.disk.Fill(20 << 20)
	l.full(t, "import", l.importTiny(t))
	l.leftNothing(t, "import", before)
	l.disk.Empty()
	must(t, l.importTiny(t))

	// A machine.
	id := newID()
	spec := providers.MachineSpec{
		ID: id, Namespace: "default", Name: "full", Image: l.image, CPUs: 1, MemoryBytes: 128 << 20, Firmware: v1.FirmwareBIOS,
		Network: v1.Network{Mode: v1.NetworkNone},
	}
	l.disk.Fill(0)
	l.full(t, "create", l.p.EnsureMachine(ctx, spec))
	if _, err := l.p.GetMachine(ctx, id); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("after create on a full disk: %v", err)
	}
	l.disk.Empty()
	must(t, l.p.EnsureMachine(ctx, spec))
	t.Cleanup(func() { remove(t, l.p, id); must(t, l.p.DeleteImage(ctx, l.image)) })
	must(t, l.p.Start(ctx, id))
	l.ready(t, id)
	boot := l.sh(t, id, "cat /proc/sys/kernel/random/boot_id")

	// A snapshot with memory, and suspending: the guest goes on.
	before = l.disk.Names()
	l.disk.Fill(4 << 20)
	snapshot := providers.SnapshotSpec{SnapshotRef: providers.SnapshotRef{Machine: id, ID: newID()}, Namespace: "default", Name: "full", Memory: true}
	_, err := l.p.TakeSnapshot(ctx, snapshot)
	l.full(t, "snapshot", err)
	l.leftNothing(t, "snapshot", before)
	l.goesOn(t, id, boot)
	l.disk.Fill(0)
	diskOnly := snapshot
	diskOnly.ID, diskOnly.Memory = newID(), false
	_, err = l.p.TakeSnapshot(ctx, diskOnly)
	l.full(t, "snapshot without memory", err)
	l.leftNothing(t, "snapshot without memory", before)
	l.goesOn(t, id, boot)
	l.disk.Empty()
	_, err = l.p.TakeSnapshot(ctx, snapshot)
	must(t, err)
	l.goesOn(t, id, boot)

	// Suspending, into libvirt's folder.
	const saved = "/var/lib/libvirt/qemu/save"
	must(t, os.MkdirAll(saved, 0o755))
	small := smalldisk.Mount(t, saved, "4m")
	err = l.p.Suspend(ctx, id)
	if !errors.Is(err, providers.ErrCapacity) || !strings.Contains(err.Error(), saved) || len(small.Names()) > 0 {
		t.Errorf("suspend on a full disk: %v, left %q", err, small.Names())
	}
	t.Logf("suspend: %v", err)
	l.goesOn(t, id, boot)
	must(t, unix.Unmount(saved, 0))
	must(t, l.p.Suspend(ctx, id))
	must(t, l.p.Start(ctx, id))
	l.goesOn(t, id, boot)

	// A revert, a copy of the disk, and an image of it.
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	before = l.disk.Names()
	l.disk.Fill(0)
	l.full(t, "revert", l.p.RevertMachine(ctx, snapshot.SnapshotRef))
	promoted := providers.ImageSpec{ImageRef: providers.ImageRef{UID: newID(), Revision: "1"}, Name: "promoted", From: &providers.DiskRef{Machine: id}}
	_, err = l.p.ImportImage(ctx, promoted, nil)
	l.full(t, "promote", err)
	l.leftNothing(t, "promote", before)
	l.disk.Empty()
	must(t, l.p.RevertMachine(ctx, snapshot.SnapshotRef))
	must(t, l.p.Start(ctx, id))
	l.goesOn(t, id, boot)
}

// goesOn wants a guest that runs, is the one that was booted, and may write.
func (l *fullLab) goesOn(t *testing.T, id types.UID, boot string) {
	t.Helper()
	eventually(t, "the agent", func() bool { return l.get(t, id).Agent == providers.AgentConnected })
	if got := l.sh(t, id, "cat /proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("the guest has the boot ID %q, before %q", got, boot)
	}
}

// TestGuestFillsTheDisk: a guest that finds no space for what it writes is halted,
// which is told, and goes on where it was once there is space.
func TestGuestFillsTheDisk(t *testing.T) {
	l := newFullLab(t, "400m")
	ctx := context.Background()
	must(t, l.importTiny(t))
	t.Cleanup(func() { must(t, l.p.DeleteImage(ctx, l.image)) })
	id := l.boot(t, "writer", v1.Network{Mode: v1.NetworkNone})
	l.ready(t, id)
	boot := l.sh(t, id, "cat /proc/sys/kernel/random/boot_id")
	l.disk.Fill(8 << 20)
	// It begins when the command that begins it is over: nothing is in a guest that is halted.
	l.sh(t, id, "(sleep 5; dd if=/dev/urandom of=/root/big bs=1M count=24; sync; md5sum /root/big >/root/sum; echo $? >/root/done) </dev/null >/dev/null 2>&1 &")
	eventually(t, "the machine is halted", func() bool { return l.get(t, id).Power == providers.PowerPaused })
	if m := l.get(t, id); m.Paused != providers.PausedNoSpace {
		t.Errorf("it is paused because of %q", m.Paused)
	}
	must(t, l.p.Start(ctx, id)) // there is no space still
	eventually(t, "the machine is halted again", func() bool {
		m := l.get(t, id)
		return m.Power == providers.PowerPaused && m.Paused == providers.PausedNoSpace
	})
	l.disk.Empty()
	must(t, l.p.Start(ctx, id))
	eventually(t, "it is done", func() bool {
		m := l.get(t, id)
		if m.Power != providers.PowerRunning {
			t.Fatalf("with space again it is %s (%s)", m.Power, m.Paused)
		}
		return m.Agent == providers.AgentConnected && l.sh(t, id, "cat /root/done 2>/dev/null; true") != ""
	})
	if got := l.sh(t, id, "cat /proc/sys/kernel/random/boot_id; cat /root/done; sync; echo 3 >/proc/sys/vm/drop_caches; md5sum -c /root/sum"); got != boot+"\n0\n/root/big: OK" {
		t.Errorf("in the end: %q", got)
	}
}
