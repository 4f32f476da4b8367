package controller_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

// TestCrashIsCounted of a machine that ran and ended by itself, whatever lay between:
// the daemon was about to power it off itself, and could not, or was killed at that; the
// hypervisor was away meanwhile, or was gone in the middle of a reconciliation.
func TestCrashIsCounted(t *testing.T) {
	moved := func(d *daemon, sbx *v1.Sandbox) { must(d.t, d.world.MoveCard(sbx.UID, "eth0")) }
	forward := func(d *daemon, sbx *v1.Sandbox) {
		d.update(sbx, func(s *v1.Sandbox) {
			s.Spec.Network.PortForwards = []v1.PortForward{{Name: "ssh", GuestPort: 22}}
		})
	}
	for _, tt := range []struct {
		name   string
		change func(*daemon, *v1.Sandbox)
		// verb is the call of which before or after the machine crashes.
		verb string
		when fault.When
		err  error
		die  bool
	}{
		{"powered off in vain", moved, "Stop", fault.Before, providers.ErrUnavailable, false},
		{"powered off with the hypervisor", moved, "Stop", fault.Before, providers.ErrDown, false},
		{"powered off, and killed", moved, "Stop", fault.Before, context.Canceled, true},
		{"looked at after a change", forward, "EnsureMachine", fault.After, nil, false},
		{"looked at after a change in vain", forward, "EnsureMachine", fault.After, providers.ErrUnavailable, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := host(t, fake.Options{})
			var armed atomic.Bool
			var id types.UID
			var once sync.Once
			crashed := make(chan struct{})
			d.wrap = func(p providers.Provider) providers.Provider {
				return fault.Wrap(p, func(ctx context.Context, at fault.Point) error {
					if !armed.Load() {
						return nil
					}
					var err error
					if at.Verb == tt.verb && at.When == tt.when {
						once.Do(func() {
							must(t, d.world.Crash(id))
							err = tt.err
							close(crashed)
						})
					}
					if tt.die {
						select {
						case <-crashed:
							<-ctx.Done()
							return ctx.Err()
						default:
						}
					}
					if errors.Is(err, providers.ErrDown) || errors.Is(err, providers.ErrUnavailable) {
						return providers.Errorf(err, "machine", "it is away")
					}
					return err
				})
			}
			d.start()
			sbx := newSandbox("box", func(s *v1.Sandbox) { s.Spec.Network.Mode = v1.NetworkNAT })
			d.create(goldenImage("golden"), sbx)
			until(d, sbx, "ready", ready)
			id = sbx.UID
			armed.Store(true)
			tt.change(d, sbx)
			<-crashed
			if tt.die {
				d.stop()
				d.wrap = nil
				d.start()
			}
			until(d, sbx, "restarted", func(s *v1.Sandbox) bool { return asWanted(s) && s.Status.Restarts > 0 })
			if sbx.Status.Restarts != 1 {
				t.Errorf("%d restarts", sbx.Status.Restarts)
			}
			d.eventually("told", func() error {
				if d.events(sbx, "Restarted", "ended by itself", "Crashed") == 0 {
					return errors.New("no event tells that it crashed and was restarted")
				}
				return nil
			})
		})
	}
}

// TestNotSeenAnyMore: what a reconciliation saw before it could not look again is not
// told as if there were no machine.
func TestNotSeenAnyMore(t *testing.T) {
	d := host(t, fake.Options{})
	var away, changed atomic.Bool
	d.wrap = func(p providers.Provider) providers.Provider {
		return fault.Wrap(p, func(_ context.Context, at fault.Point) error {
			if at.Verb == "EnsureMachine" && at.When == fault.After && changed.Load() {
				away.Store(true)
			}
			if at.Verb == "GetMachine" && at.When == fault.Before && away.Load() {
				return providers.Errorf(providers.ErrUnavailable, "machine", "it cannot be looked at")
			}
			return nil
		})
	}
	d.start()
	sbx := newSandbox("box", func(s *v1.Sandbox) { s.Spec.Network.Mode = v1.NetworkNAT })
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	changed.Store(true)
	d.update(sbx, func(s *v1.Sandbox) {
		s.Spec.Network.PortForwards = []v1.PortForward{{Name: "ssh", GuestPort: 22}}
	})
	until(d, sbx, "not looked at", because(v1.ConditionReady, v1.ReasonUnavailable))
	for _, seen := range []string{v1.ConditionProvisioned, v1.ConditionPoweredOn} {
		if c := condition(sbx, seen); c.Status != "True" {
			t.Errorf("it was seen and is now %s", fmt.Sprintf("%+v", c))
		}
	}
	changed.Store(false)
	away.Store(false)
	until(d, sbx, "ready again", asWanted)
	if sbx.Status.Restarts != 0 {
		t.Errorf("%d restarts", sbx.Status.Restarts)
	}
}

// TestRestartIsNotReady: while a machine that ended by itself is started again, its
// status does not tell of the restart and of the readiness before it at once.
func TestRestartIsNotReady(t *testing.T) {
	d := host(t, fake.Options{})
	var armed atomic.Bool
	starting, goOn := make(chan struct{}), make(chan struct{})
	d.wrap = func(p providers.Provider) providers.Provider {
		return fault.Wrap(p, func(ctx context.Context, at fault.Point) error {
			if at.Verb == "Start" && at.When == fault.Before && armed.CompareAndSwap(true, false) {
				close(starting)
				select {
				case <-goOn:
				case <-ctx.Done():
				}
			}
			return ctx.Err()
		})
	}
	d.start()
	sbx := newSandbox("box")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	armed.Store(true)
	must(t, d.world.Crash(sbx.UID))
	<-starting
	until(d, sbx, "counted", func(s *v1.Sandbox) bool { return s.Status.Restarts == 1 })
	if c := condition(sbx, v1.ConditionReady); ready(sbx) || c.Reason != condition(sbx, v1.ConditionPoweredOn).Reason {
		t.Errorf("about to be restarted, it is said to be %s: %s", c.Reason, c.Message)
	}
	close(goOn)
	until(d, sbx, "restarted", ready)
}
