package controller_test

import (
	"fmt"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

// TestDriftKilledAnywhere kills the daemon at calls of a provider while it puts a
// machine right and while it reverts it, for both of which it forces it off. The next
// one goes on, and does not take what the last one did for somebody else's doing: with
// a restart policy of Never the machine would stay off.
func TestDriftKilledAnywhere(t *testing.T) {
	count := fault.NewDeath(0)
	driftedLife(t, count)
	points := count.Points()
	if points < 15 {
		t.Fatalf("only %d points", points)
	}
	step := int64(1)
	if testing.Short() || raced {
		step = 5
	}
	for n := int64(1); n <= points; n += step {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			driftedLife(t, fault.NewDeath(n))
		})
	}
}

func driftedLife(t *testing.T, death *fault.Death) {
	d := host(t, fake.Options{})
	d.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(p, death.Hook) }
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) {
		s.Spec.RestartPolicy = v1.RestartNever
		s.Spec.Network = v1.Network{Mode: v1.NetworkIntnet}
	})
	dead := false
	become := func(what string, ok func(*v1.Sandbox) bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			err := d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx)
			if err == nil && ok(sbx) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %v\n%s", what, err, show(sbx))
			}
			select {
			case <-death.Died():
				if !dead {
					dead = true
					d.wrap = nil
					d.stop()
					d.start()
				}
			default:
			}
		}
	}
	d.create(goldenImage("golden"), sbx)
	become("ready", ready)
	must(t, d.world.MoveCard(sbx.UID, "eth0"))
	become("put right", func(s *v1.Sandbox) bool { return asWanted(s) && s.Status.Repairs > 0 })
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: v1.SnapshotGolden, Request: "1"} })
	become("reverted", func(s *v1.Sandbox) bool { return asWanted(s) && s.Status.Revert != nil })
	if sbx.Status.Restarts != 0 {
		t.Errorf("%d restarts", sbx.Status.Restarts)
	}
	if n := d.events(sbx, "Drifted", "forced the machine off"); n > 0 {
		t.Errorf("our own doing was taken for somebody else's: %d events", n)
	}
}

// TestDriftBesideAnError: a sandbox whose spec cannot be met is powered off all the same
// when others connect it elsewhere.
func TestDriftBesideAnError(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) { s.Spec.Network = v1.Network{Mode: v1.NetworkIntnet} })
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: "/etc"}} })
	until(d, sbx, "stalled", because(v1.ConditionStalled, v1.ReasonHostPathForbidden))
	must(t, d.world.MoveCard(sbx.UID, "eth0"))
	d.eventually("powered off", func() error {
		m, err := d.provider().GetMachine(t.Context(), sbx.UID)
		must(t, err)
		if m.Power != providers.PowerOff {
			return fmt.Errorf("it is %s", m.Power)
		}
		return nil
	})
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.SharedFolders = nil })
	until(d, sbx, "put right", asWanted)
	d.told(sbx, 1, "Drifted", "eth0")
}
