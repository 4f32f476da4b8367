package virtualbox_test

import (
	"context"
	"slices"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestHostReboot: VirtualBox and all machines' processes are gone at once, and so is
// sandboxd. The next one finds what ran to be off and not by its guest, what was saved
// saved, nothing changed by others, and starts it all.
func TestHostReboot(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	specs := map[string]providers.MachineSpec{}
	for _, name := range []string{"running", "paused", "saved", "off", "new"} {
		spec := l.spec(name)
		if name != "new" { // of which one has a port to find free again
			spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
		}
		specs[name] = spec
		t.Cleanup(func() { remove(t, l.p, spec.ID) })
		must(t, l.p.EnsureMachine(ctx, spec))
		if name != "new" {
			must(t, l.p.Start(ctx, spec.ID))
		}
	}
	manage(t, "controlvm", string(specs["paused"].ID), "pause")
	must(t, l.p.Suspend(ctx, specs["saved"].ID))
	must(t, l.p.Stop(ctx, specs["off"].ID, providers.StopForce))
	had := l.get(t, specs["running"].ID).PortForwards
	must(t, l.p.Close())

	// At once: they notice each other's end, and then end by themselves.
	machines := pids("VBoxHeadless")
	if len(machines) != 2 {
		t.Errorf("%d machines run", len(machines))
	}
	end(t, slices.Concat(pids("VBoxSVC"), machines, pids("VBoxXPCOMIPCD")))
	eventually(t, "they are gone", func() bool {
		return len(pids("VBoxSVC"))+len(pids("VBoxHeadless"))+len(pids("VBoxXPCOMIPCD")) == 0
	})

	l.p = patient{l.open(t, "lab"), t}
	for name, want := range map[string]struct {
		power   providers.Power
		reasons []providers.OffReason
	}{
		"running": {providers.PowerOff, []providers.OffReason{providers.OffUnknown, providers.OffCrashed}},
		"paused":  {providers.PowerOff, []providers.OffReason{providers.OffUnknown, providers.OffCrashed}},
		"saved":   {providers.PowerSaved, []providers.OffReason{""}},
		"off":     {providers.PowerOff, []providers.OffReason{providers.OffDestroyed}},
		"new":     {providers.PowerOff, []providers.OffReason{providers.OffNeverStarted}},
	} {
		spec := specs[name]
		m := l.get(t, spec.ID)
		if m.Power != want.power || !slices.Contains(want.reasons, m.OffReason) || len(m.Drift) > 0 || m.Hashes != spec.Hashes() {
			t.Errorf("%s: after the reboot it is %+v", name, m)
		}
		t.Logf("%s: %s %s", name, m.Power, m.OffReason)
		l.converges(t, name+" runs", func() error { return l.p.Start(ctx, spec.ID) })
		l.wantNone(t, name, spec, providers.PowerRunning)
	}
	if now := l.get(t, specs["running"].ID).PortForwards; len(now) != 1 || now[0] != had[0] {
		t.Errorf("its ports were %v and are %v", had, now)
	}
}
