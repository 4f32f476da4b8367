package controller_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/usage"
)

// jumpingClock is a wall clock beside a monotonic one that nothing moves. A host that
// slept wakes up with a wall clock that went on and timers that did not.
type jumpingClock struct {
	clock.RealClock
	ahead atomic.Int64
}

func (c *jumpingClock) Now() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.ahead.Load()))
}
func (c *jumpingClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
func (c *jumpingClock) jump(d time.Duration)            { c.ahead.Add(int64(d)) }

// jumping is a daemon in simulated time whose wall clock jumps.
func jumping(t *testing.T) (*daemon, *jumpingClock) {
	d, c := simulated(t), &jumpingClock{}
	d.clock, d.resync, d.usage = c, time.Minute, usage.New(c)
	d.start()
	return d, c
}

// TestCrashLoopAfterTheClockWasSetBack has a machine that crashes, restarted in a time
// that has not come.
func TestCrashLoopAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, c := jumping(t)
		defer d.stop()
		sbx := newSandbox("web")
		d.create(goldenImage("golden"), sbx)
		until(d, sbx, "ready", ready)
		for n := range int32(3) { // within a minute, so that the next waits
			must(t, d.world.Crash(sbx.UID))
			time.Sleep(time.Minute)
			until(d, sbx, "restarted", func(s *v1.Sandbox) bool { return ready(s) && s.Status.Restarts == n+1 })
		}
		c.jump(-24 * time.Hour)
		must(t, d.world.Crash(sbx.UID))
		time.Sleep(time.Minute)
		must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
		if !ready(sbx) || sbx.Status.Restarts != 4 || sbx.Status.StartedAt.After(c.Now()) {
			t.Errorf("a minute after the crash: %s", show(sbx))
		}
	})
}

// TestStopAfterTheClockWasSetBack has a guest that ignores that it is asked to shut
// down.
func TestStopAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, c := jumping(t)
		defer d.stop()
		sbx := newSandbox("web")
		d.create(goldenImage("golden"), sbx)
		until(d, sbx, "ready", ready)
		must(t, d.world.SetIgnoresShutdown(sbx.UID, true))
		d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
		until(d, sbx, "stopping", because(v1.ConditionPoweredOn, v1.ReasonStopping))
		c.jump(-24 * time.Hour)
		time.Sleep(5 * time.Minute)
		must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
		if got := condition(sbx, v1.ConditionPoweredOn).Reason; got != v1.ReasonStopped {
			t.Errorf("five minutes later it is %s", show(sbx))
		}
	})
}

// TestTimesByTheWallClock has sandboxes that end in time after the host has slept, or
// after somebody has set its clock.
func TestTimesByTheWallClock(t *testing.T) {
	ttl := func(s *v1.Sandbox) { s.Spec.Lifecycle.TTL = &metav1.Duration{Duration: time.Hour} }
	idle := func(s *v1.Sandbox) { s.Spec.Lifecycle.IdleTimeout = &metav1.Duration{Duration: time.Hour} }
	for name, tc := range map[string]struct {
		limit func(*v1.Sandbox)
		jump  time.Duration
		// kept and gone are when, after the jump, it is still there and is not.
		kept, gone time.Duration
	}{
		"ttl, the host sleeps":             {ttl, 8 * time.Hour, 0, 2 * time.Minute},
		"ttl, a little forward":            {ttl, 30 * time.Minute, 18 * time.Minute, 23 * time.Minute},
		"ttl, back":                        {ttl, -2 * time.Hour, 160 * time.Minute, 173 * time.Minute},
		"idle timeout, the host sleeps":    {idle, 8 * time.Hour, 0, 2 * time.Minute},
		"idle timeout, back and used then": {idle, -5 * time.Minute, 50 * time.Minute, 68 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, c := jumping(t)
				defer d.stop()
				sbx := newSandbox("web", tc.limit)
				d.create(goldenImage("golden"), sbx)
				until(d, sbx, "ready", ready)
				time.Sleep(10 * time.Minute)
				d.usage.Begin(sbx.UID)()
				time.Sleep(time.Minute)
				c.jump(tc.jump)
				there := func() bool {
					return d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx) == nil && sbx.DeletionTimestamp.IsZero()
				}
				time.Sleep(tc.kept)
				if !there() {
					t.Errorf("it is gone after %v", tc.kept)
				}
				time.Sleep(tc.gone - tc.kept)
				if there() {
					t.Errorf("it is there after %v: %s", tc.gone, show(sbx))
				}
			})
		})
	}
}
