package controller_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

// refusing makes one verb fail and notes when.
type refusing struct {
	verb string

	mu    sync.Mutex
	tries []time.Time
	over  bool
}

func (r *refusing) hook(_ context.Context, at fault.Point) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.Verb != r.verb || at.When != fault.Before || r.over {
		return nil
	}
	r.tries = append(r.tries, time.Now())
	return providers.Errorf(providers.ErrBusy, at.Verb+" "+at.ID, "not now")
}

// pauses between the tries so far, which are forgotten.
func (r *refusing) pauses() (list []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.tries[:max(len(r.tries)-1, 0)] {
		list = append(list, r.tries[i+1].Sub(r.tries[i]))
	}
	r.tries = nil
	return list
}

// simulated is a daemon in simulated time, at its usual pace.
func simulated(t *testing.T, hooks ...fault.Hook) *daemon {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm") // where a sync takes no time
	}
	d := host(t, fake.Options{Latency: fake.Latency{Step: 10 * time.Millisecond, Boot: time.Second}})
	d.sweep, d.resync = time.Hour, time.Hour
	d.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(p, fault.Chain(hooks...)) }
	return d
}

// backsOff checks that pauses are those of the backoff, from its beginning.
func backsOff(t *testing.T, pauses []time.Duration, least int) {
	t.Helper()
	// What is heard of in the beginning, such as the making of the machine, makes for
	// another try at once, or two or three. They count.
	const heard = 3
	want := func(n int) time.Duration {
		return min(500*time.Millisecond<<max(0, min(n, 20)), time.Minute)
	}
	for i, got := range pauses {
		least, most := want(i-heard)/2, want(i+heard)*3/2+2*time.Second // what a try takes comes on top
		if i < heard {
			least = 0
		}
		if got < least || got > most {
			t.Errorf("pause %d is %v, want %v to %v; all: %v", i, got, least, most, pauses)
			break
		}
	}
	if len(pauses) < least {
		t.Errorf("%d pauses, want %d at least: %v", len(pauses), least, pauses)
	}
}

// TestBackoffIsAsDesigned has things that cannot be done for a while: exactly so often
// is that tried as the backoff says, until the spec changes.
func TestBackoffIsAsDesigned(t *testing.T) {
	for name, verb := range map[string]string{"a machine": "EnsureMachine", "a start": "Start", "an import": "ImportImage", "a snapshot": "TakeSnapshot"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused := &refusing{verb: verb}
				d := simulated(t, refused.hook)
				d.start()
				defer d.stop()
				img, sbx, snap := goldenImage("golden"), newSandbox("web"), newSnapshot("s", "web", false)
				d.create(img, sbx)
				if verb == "TakeSnapshot" {
					d.create(snap)
				}
				time.Sleep(20 * time.Minute)
				backsOff(t, refused.pauses(), 18)
				told(t, d, sbx, verb)

				var changed client.Object = sbx
				switch verb {
				case "TakeSnapshot": // whose spec cannot change
					return
				case "ImportImage":
					before := img.DeepCopy()
					img.Spec.Source.Disk.Path = "other-golden.qcow2"
					must(t, d.client.Patch(t.Context(), img, client.MergeFrom(before)))
				default:
					d.update(sbx, func(s *v1.Sandbox) { s.Spec.CPUs = 3 })
				}
				time.Sleep(time.Minute)
				if pauses := refused.pauses(); len(pauses) < 4 {
					t.Errorf("%s changed and was not tried anew: %v", changed.GetName(), pauses)
				} else {
					backsOff(t, pauses, 4)
				}
				refused.mu.Lock()
				refused.over = true
				refused.mu.Unlock()
				time.Sleep(2 * time.Minute)
				until(d, sbx, "ready", ready)
			})
		})
	}
}

// told checks that the status of a sandbox that fails says when it is tried again.
func told(t *testing.T, d *daemon, sbx *v1.Sandbox, verb string) {
	t.Helper()
	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
	at := sbx.Status.NextTryAt
	if fails := verb == "EnsureMachine" || verb == "Start"; fails != (at != nil) ||
		fails && (time.Until(at.Time) < -time.Second || time.Until(at.Time) > 90*time.Second) {
		t.Errorf("at %v the next try is said to be at %v", time.Now(), at)
	}
}

// TestFailuresDoNotWakeThemselves has a machine whose start ends in its power-off
// again and again, of which the host tells each time.
func TestFailuresDoNotWakeThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		tries := 0
		d := simulated(t, func(_ context.Context, at fault.Point) error {
			mu.Lock()
			defer mu.Unlock()
			if at.Verb == "Start" && at.When == fault.After {
				tries++
			}
			return nil
		})
		d.start()
		defer d.stop()
		sbx := newSandbox("web", func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
		d.create(goldenImage("golden"), sbx)
		until(d, sbx, "stopped", because(v1.ConditionReady, v1.ReasonStopped))
		must(t, d.world.SetNetworkFault(sbx.UID, "somebody was here"))
		d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning })
		time.Sleep(20 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		// 13 to 40 pauses of a minute, more or less half of that, and the short ones.
		if tries < 13 || tries > 52 {
			t.Errorf("the machine was started %d times in 20 minutes", tries)
		}
	})
}
