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
	took(t, "take without memory, running", func() error { _, err := l.p.TakeSnapshot(ctx, diskOnly); return err })

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
