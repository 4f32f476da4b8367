package controller_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fault"
)

// line is a host on which a runs, b waits for more than is free, and c waits behind b for
// what is. What hook says of the calls of the next daemon is not asked before; it gets
// copies, because the tests go on reading b and c.
func line(t *testing.T, hook func(b, c *v1.Sandbox) fault.Hook) (d *daemon, a, b, c *v1.Sandbox) {
	t.Helper()
	d = simulated(t)
	d.capacity = roomFor(4)
	needs := func(n int64) func(*v1.Sandbox) {
		return func(s *v1.Sandbox) { s.Spec.Memory = resource.NewQuantity(n*unit, resource.BinarySI) }
	}
	a, b, c = newSandbox("a", needs(3)), newSandbox("b", needs(2)), newSandbox("c", needs(1))
	d.start()
	d.create(goldenImage("golden"), a)
	until(d, a, "ready", ready)
	d.create(b)
	d.says(b, v1.ReasonCapacity, "needs 512Mi memory, 256Mi of 1Gi free")
	d.create(c)
	d.says(c, v1.ReasonWaitingInLine, "needs 256Mi memory, and waits behind default/b")
	d.stop()
	d.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(p, hook(b.DeepCopy(), c.DeepCopy())) }
	return d, a, b, c
}

// looks tells whether a machine is about to be looked at.
func looks(at fault.Point, s *v1.Sandbox) bool {
	return at.When == fault.Before && at.Verb == "GetMachine" && at.ID == string(s.UID)
}

// untouched wants it to wait still.
func (d *daemon) untouched(s *v1.Sandbox) {
	d.t.Helper()
	must(d.t, d.client.Get(d.t.Context(), client.ObjectKeyFromObject(s), s))
	if s.Status.MachineID != "" || s.Status.Reserved != nil {
		d.t.Fatalf("%s went past one before it in line: %s", s.Name, show(s))
	}
}

// inOrder lets b and c have what they wait for.
func (d *daemon) inOrder(a, b, c *v1.Sandbox) {
	d.t.Helper()
	until(d, a, "looked at", ready)
	d.says(b, v1.ReasonCapacity, "needs 512Mi memory, 256Mi of 1Gi free")
	d.says(c, v1.ReasonWaitingInLine, "needs 256Mi memory, and waits behind default/b")
	d.untouched(c)
	d.power(a, v1.PowerStopped)
	until(d, b, "ready", ready)
	until(d, c, "ready", ready)
}

// TestPlaceInLineSurvivesAFailure: after a restart the first look at the first one in
// line fails. It does not lose its place by that.
func TestPlaceInLineSurvivesAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := atomic.Bool{}
		d, a, b, c := line(t, func(b, _ *v1.Sandbox) fault.Hook {
			return func(_ context.Context, at fault.Point) error {
				if looks(at, b) && failed.CompareAndSwap(false, true) {
					return providers.Errorf(providers.ErrUnavailable, "machine b", "cannot be looked at")
				}
				return nil
			}
		})
		d.start()
		defer d.stop()
		until(d, b, "told", func(*v1.Sandbox) bool { return failed.Load() })
		time.Sleep(time.Second)
		d.inOrder(a, b, c)
	})
}

// TestPlaceInLineSurvivesAnOutage: the hypervisor does not answer after a restart, and
// when it does, who is first in line is looked at last.
func TestPlaceInLineSurvivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answers, second atomic.Bool
		d, a, b, c := line(t, func(b, c *v1.Sandbox) fault.Hook {
			return func(ctx context.Context, at fault.Point) error {
				for answers.Load() && looks(at, b) && !second.Load() && ctx.Err() == nil {
					time.Sleep(time.Second)
				}
				if looks(at, c) && answers.Load() {
					second.Store(true)
				}
				return nil
			}
		})
		d.world.LoseHypervisor()
		d.start()
		defer d.stop()
		for _, s := range []*v1.Sandbox{a, b, c} {
			until(d, s, "told", because(v1.ConditionReady, v1.ReasonUnavailable))
		}
		answers.Store(true)
		d.world.RestoreHypervisor()
		d.inOrder(a, b, c)
	})
}
