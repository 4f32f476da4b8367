//go:build linux

package kvm_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// took logs how long something takes.
func took(t *testing.T, what string, do func() error) {
	t.Helper()
	begun := time.Now()
	must(t, do())
	t.Logf("TIME %s: %v", what, time.Since(begun).Round(time.Millisecond))
}

// TestSnapshotOfARunningGuest: what ran when a snapshot with memory was taken goes on
// after a revert, also in a network, and what was written since is gone.
func TestSnapshotOfARunningGuest(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "echo", GuestPort: guestPort}}})
	l.ready(t, id)
	l.sh(t, id, `echo before >/root/state; sync; (n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.1; done) </dev/null >/dev/null 2>&1 & echo $! >/tmp/pid`)
	withMemory := providers.SnapshotSpec{SnapshotRef: providers.SnapshotRef{Machine: id, ID: newID()}, Namespace: "default", Name: "memory", Memory: true}
	var s providers.Snapshot
	took(t, "take with memory, running", func() (err error) { s, err = l.p.TakeSnapshot(ctx, withMemory); return err })
	if !s.Memory || !s.Frozen || s.Size < 1<<20 {
		t.Errorf("%+v", s)
	}
	if m := l.get(t, id); m.Power != providers.PowerRunning {
		t.Errorf("it is %s after the snapshot", m.Power)
	}
	l.wantIsolated(t, id)
	l.sh(t, id, "echo after >/root/state; echo more >/root/more; sync; kill $(cat /tmp/pid)")
	diskOnly := withMemory
	diskOnly.ID, diskOnly.Memory = newID(), false
	command := make(chan string)
	go func() { command <- l.sh(t, id, "touch /tmp/begun; sleep 5; echo done") }()
	eventually(t, "the command runs", func() bool { return l.sh(t, id, "ls /tmp/begun 2>/dev/null; true") != "" })
	took(t, "take without memory, running", func() error { _, err := l.p.TakeSnapshot(ctx, diskOnly); return err })
	if got := <-command; got != "done" {
		t.Errorf("a command that ran meanwhile says %q", got)
	}

	took(t, "revert with memory", func() error { return l.p.RevertMachine(ctx, s.SnapshotRef) })
	if m := l.get(t, id); m.Power != providers.PowerSaved {
		t.Fatalf("after the revert it is %+v", m)
	}
	took(t, "start after it", func() error { return l.p.Start(ctx, id) })
	l.wantIsolated(t, id)
	eventually(t, "the agent", func() bool { return l.get(t, id).Agent == providers.AgentConnected })
	if got := l.sh(t, id, "cat /root/state; ls /root/more 2>/dev/null; kill -0 $(cat /tmp/pid) && echo alive; touch /root/writable && sync && echo ok"); got != "before\nalive\nok" {
		t.Errorf("after the revert: %q", got)
	}
	was := l.sh(t, id, "cat /tmp/count")
	eventually(t, "the process counts on", func() bool { return l.sh(t, id, "cat /tmp/count") != was })

	took(t, "revert without memory", func() error { return l.p.RevertMachine(ctx, diskOnly.SnapshotRef) })
	if m := l.get(t, id); m.Power != providers.PowerOff {
		t.Fatalf("after the revert it is %+v", m)
	}
	must(t, l.p.Start(ctx, id))
	eventually(t, "the agent", func() bool { return l.get(t, id).Agent == providers.AgentConnected })
	if got := l.sh(t, id, "cat /root/state /root/more"); got != "after\nmore" {
		t.Errorf("after the other revert: %q", got)
	}
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	off := diskOnly
	off.ID = newID()
	took(t, "take, off", func() error { _, err := l.p.TakeSnapshot(ctx, off); return err })
	took(t, "delete, off", func() error { return l.p.DeleteSnapshot(ctx, off.SnapshotRef) })
	for _, ref := range []providers.SnapshotRef{s.SnapshotRef, diskOnly.SnapshotRef} {
		took(t, "delete, off", func() error { return l.p.DeleteSnapshot(ctx, ref) })
		if err := l.p.DeleteSnapshot(ctx, ref); !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("deleted again: %v", err)
		}
	}
	if left := run(t, "find", l.root); strings.Contains(left, "/layers") || strings.Contains(left, "/snapshots") {
		t.Errorf("left: %s", left)
	}
	must(t, l.p.Start(ctx, id))
	eventually(t, "the agent", func() bool { return l.get(t, id).Agent == providers.AgentConnected })
	if got := l.sh(t, id, "cat /root/state /root/more"); got != "after\nmore" {
		t.Errorf("after all snapshots were deleted: %q", got)
	}
}

// TestSnapshotCutOff: whenever the taking of a snapshot of a running guest is cut off,
// the next process brings the guest back, and its file systems are not frozen.
func TestSnapshotCutOff(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNone})
	l.ready(t, id)
	boot := l.sh(t, id, "cat /proc/sys/kernel/random/boot_id")
	spec := providers.SnapshotSpec{SnapshotRef: providers.SnapshotRef{Machine: id, ID: newID()}, Namespace: "default", Name: "cut", Memory: true}
	for n := 1; ; n++ {
		if n > 100 {
			t.Fatal("it does not come to its end")
		}
		completed := interrupt(l.p, n, func() {
			if _, err := l.p.TakeSnapshot(ctx, spec); err != nil {
				t.Errorf("cut off at step %d: %v", n, err)
			}
		})
		if completed {
			t.Logf("%d steps", n-1)
			break
		}
		must(t, l.p.Close())
		l.p = l.open(t, l.instance)
		_, err := l.p.GetSnapshot(ctx, spec.SnapshotRef)
		if err != nil && !errors.Is(err, providers.ErrNotFound) {
			t.Fatal(err)
		}
		taken := err == nil
		must(t, l.p.Start(ctx, id))
		eventually(t, "the agent", func() bool { return l.get(t, id).Agent == providers.AgentConnected })
		if got := l.sh(t, id, "echo x >/root/writable && sync && cat /proc/sys/kernel/random/boot_id"); got != boot {
			t.Errorf("after step %d: %q, before %q", n, got, boot)
		}
		if taken {
			must(t, l.p.DeleteSnapshot(ctx, spec.SnapshotRef))
		}
	}
	if got := l.sh(t, id, "echo x >/root/writable && sync && cat /proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("after all: %q, before %q", got, boot)
	}
}

// TestSnapshotsOneUponTheOther: their number is bounded, and those that were deleted
// do not count, also while the machine runs.
func TestSnapshotsOneUponTheOther(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNone})
	must(t, l.p.Stop(ctx, id, providers.StopForce))
	var refs []providers.SnapshotRef
	take := func() error {
		ref := providers.SnapshotRef{Machine: id, ID: newID()}
		_, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "one-more"})
		if err == nil {
			refs = append(refs, ref)
		}
		return err
	}
	begun := time.Now()
	for range 16 {
		must(t, take())
	}
	t.Logf("TIME 16 snapshots of a machine that is off: %v", time.Since(begun))
	if err := take(); !errors.Is(err, providers.ErrCapacity) {
		t.Errorf("one too many: %v", err)
	}
	must(t, l.p.Start(ctx, id))
	if err := take(); !errors.Is(err, providers.ErrCapacity) || l.get(t, id).Power != providers.PowerRunning {
		t.Errorf("one too many: %v", err)
	}
	for _, ref := range refs[3:14] {
		must(t, l.p.DeleteSnapshot(ctx, ref))
	}
	must(t, take()) // the layers are merged now, while it is saved
	if m := l.get(t, id); m.Power != providers.PowerRunning {
		t.Errorf("it is %s", m.Power)
	}
	must(t, l.p.RevertMachine(ctx, refs[1]))
	must(t, l.p.Start(ctx, id))
}

// TestRevertOfWhatDiscards: a machine that begins anew at each start begins once with
// the snapshot that it was put back to, also when its memory is discarded before it runs.
func TestRevertOfWhatDiscards(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNone}, func(s *providers.MachineSpec) { s.DiscardOnStop = true })
	again := func() {
		t.Helper()
		must(t, l.p.Start(ctx, id))
		eventually(t, "the agent", func() bool { return l.get(t, id).Agent == providers.AgentConnected })
	}
	again()
	l.sh(t, id, "echo mark >/root/mark; sync")
	ref := providers.SnapshotRef{Machine: id, ID: newID()}
	_, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "mark", Memory: true})
	must(t, err)
	must(t, l.p.RevertMachine(ctx, ref))
	if m := l.get(t, id); m.Power != providers.PowerSaved {
		t.Errorf("put back to a snapshot with memory it is %s", m.Power)
	}
	must(t, l.p.Stop(ctx, id, providers.StopForce)) // as when it cannot go on with its memory
	for _, want := range []string{"mark", ""} {
		again()
		if got := l.sh(t, id, "cat /root/mark 2>/dev/null; true"); got != want {
			t.Errorf("the file has %q, want %q", got, want)
		}
		must(t, l.p.Stop(ctx, id, providers.StopForce))
	}
}

// TestSnapshotWithMountedFolders says what to do, and leaves the guest as it was.
func TestSnapshotWithMountedFolders(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	dir := l.folder(t)
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNone}, func(s *providers.MachineSpec) {
		s.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: dir}}
	})
	eventually(t, "the agent", func() bool { return l.get(t, id).Agent == providers.AgentConnected })
	must(t, l.p.ConfigureGuest(ctx, id, providers.GuestConfig{Mounts: []v1.SharedFolder{{Name: "in", HostPath: dir}}}))
	ref := providers.SnapshotRef{Machine: id, ID: newID()}
	_, err := l.p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "mounted"})
	if !errors.Is(err, providers.ErrUnsupported) || !strings.Contains(err.Error(), "unmount") {
		t.Errorf("got %v", err)
	}
	if got := l.sh(t, id, "echo x >/root/writable && sync && echo ok"); got != "ok" {
		t.Errorf("afterwards: %q", got)
	}
}
