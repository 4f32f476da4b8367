//go:build linux

package kvm_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// reboot does what a reboot of the host does, with the daemon, up to its start.
func (l *lab) reboot(t *testing.T) {
	t.Helper()
	must(t, l.p.Close())
	run(t, os.Getenv("SANDBOXD_LIBVIRTD_REBOOT"))
	l.startLibvirtd(t)
	l.p = l.open(t, l.instance)
}

// TestHostReboots: after a reboot, machines are off and nobody knows why, or saved
// as they were; networks are gone, and nobody is blamed for that.
func TestHostReboots(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	forward := []v1.PortForward{{Name: "echo", GuestPort: guestPort}}
	ran := l.boot(t, "ran", v1.Network{Mode: v1.NetworkNAT, PortForwards: forward})
	host := l.boot(t, "host", v1.Network{Mode: v1.NetworkHostOnly})
	saved := l.boot(t, "saved", v1.Network{Mode: v1.NetworkIntnet, Name: "x"})
	stopped := l.boot(t, "stopped", v1.Network{Mode: v1.NetworkNAT})
	never := l.spec("never", v1.Network{Mode: v1.NetworkNone})
	t.Cleanup(func() { remove(t, l.p, never.ID) })
	must(t, l.p.EnsureMachine(ctx, never))
	l.ready(t, ran, saved)
	l.sh(t, ran, "echo kept > /mark; sync")
	l.sh(t, saved, "echo still here > /run/mark")
	must(t, l.p.Suspend(ctx, saved))
	snap, err := l.p.TakeSnapshot(ctx, snapshotOf(saved, true))
	must(t, err)
	must(t, l.p.Stop(ctx, stopped, providers.StopForce))
	port := l.get(t, ran).PortForwards[0].HostPort

	l.reboot(t)

	for id, want := range map[string]struct {
		power providers.Power
		off   providers.OffReason
	}{
		string(ran): {providers.PowerOff, providers.OffUnknown}, string(host): {providers.PowerOff, providers.OffUnknown},
		string(saved): {providers.PowerSaved, ""}, string(stopped): {providers.PowerOff, providers.OffUnknown},
		string(never.ID): {providers.PowerOff, providers.OffNeverStarted},
	} {
		m := l.get(t, types.UID(id))
		if m.Power != want.power || m.OffReason != want.off || m.Network.Isolated || len(m.Drift) > 0 {
			t.Errorf("after the reboot machine %s is %+v, want %+v", id, m, want)
		}
	}
	if left := strings.Fields(run(t, "virsh", "net-list", "--all", "--name")); len(left) > 0 {
		t.Errorf("networks are there already: %q", left)
	}
	if _, err := l.p.GetSnapshot(ctx, snap.SnapshotRef); err != nil {
		t.Error(err)
	}
	for _, id := range []string{string(ran), string(host), string(saved), string(stopped), string(never.ID)} {
		must(t, l.p.Start(ctx, types.UID(id)))
		l.untouched(t, types.UID(id), "when it runs after a reboot")
		l.wantIsolated(t, types.UID(id))
	}
	l.ready(t, ran, saved)
	if got := l.sh(t, ran, "cat /mark"); got != "kept" {
		t.Errorf("its disk has %q", got)
	}
	if got := l.sh(t, saved, "cat /run/mark"); got != "still here" {
		t.Errorf("its memory has %q", got)
	}
	if now := l.get(t, ran).PortForwards; len(now) != 1 || now[0].HostPort != port {
		t.Errorf("its port was %d, and is %+v", port, now)
	}
	answers(t, "127.0.0.1", int(port), "GUEST")
}
