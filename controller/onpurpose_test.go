package controller_test

import (
	"context"
	"runtime"
	"sync"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

// TestNoRestartIsCounted of a machine that a daemon powers off or resumes on purpose
// and is killed in the middle: it did not end by itself.
func TestNoRestartIsCounted(t *testing.T) {
	nat := func(s *v1.Sandbox) { s.Spec.Network.Mode = v1.NetworkNAT }
	running := func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning }
	for _, tt := range []struct {
		name   string
		before v1.PowerState
		phase  v1.SandboxPhase
		change func(*v1.Sandbox)
		at     fake.Step
	}{
		{"powered off for another network", v1.PowerRunning, v1.SandboxRunning, nat, fake.Step{Verb: "EnsureMachine"}},
		{"started for another network", v1.PowerRunning, v1.SandboxRunning, nat, fake.Step{Verb: "Start", Name: "observe"}},
		{"resumed", v1.PowerSuspended, v1.SandboxSuspended, running, fake.Step{Verb: "Start", Name: "observe"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := host(t, fake.Options{})
			dead := make(chan struct{})
			d.wrap = func(p providers.Provider) providers.Provider {
				return fault.Wrap(p, func(ctx context.Context, _ fault.Point) error {
					select {
					case <-dead:
						<-ctx.Done()
					default:
					}
					return ctx.Err()
				})
			}
			d.start()
			img, sbx := goldenImage("golden"), newSandbox("box")
			d.create(img, sbx)
			until(d, sbx, "ready", ready)
			d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = tt.before })
			until(d, sbx, string(tt.phase), func(s *v1.Sandbox) bool { return s.Status.Phase == tt.phase })

			var once sync.Once
			d.world.OnStep(func(s fake.Step) {
				if s.Verb == tt.at.Verb && (tt.at.Name == "" || s.Name == tt.at.Name) {
					once.Do(func() { close(dead) })
					runtime.Goexit() // in the middle of the call
				}
			})
			d.update(sbx, tt.change)
			<-dead
			d.stop()
			d.world.OnStep(nil)
			d.wrap = nil
			d.start()
			until(d, sbx, "ready again", func(s *v1.Sandbox) bool {
				return ready(s) && s.Status.ObservedGeneration == s.Generation
			})
			if sbx.Status.Restarts != 0 || sbx.Status.StartedAt == nil {
				t.Errorf("%d restarts, started %v", sbx.Status.Restarts, sbx.Status.StartedAt)
			}
		})
	}
}
