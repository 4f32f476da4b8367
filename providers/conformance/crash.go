package conformance

import (
	"context"
	"errors"
	"fmt"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testCrashes(t *testing.T) {
	t.Run("a process that ends between any two calls is followed by one that converges", s.testAbandoned)
	t.Run("a process that ends within any call is followed by one that converges", s.testInterrupted)
}

// act is one call in the life of a machine.
type act struct {
	name string
	call func(ctx context.Context, p providers.Provider) error
}

// life is every call that changes something, once.
func (s *suite) life(image providers.ImageSpec, spec providers.MachineSpec) []act {
	id := spec.ID
	changed := spec
	changed.MemoryBytes += 32 << 20
	acts := []act{
		{"ImportImage", func(ctx context.Context, p providers.Provider) error {
			_, err := p.ImportImage(ctx, image, nil)
			return err
		}},
		{"EnsureMachine", func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, spec) }},
		{"Start", func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, id) }},
	}
	if s.has(Suspend) {
		acts = append(acts,
			act{"Suspend", func(ctx context.Context, p providers.Provider) error { return p.Suspend(ctx, id) }},
			act{"Start from saved", func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, id) }})
	}
	return append(acts,
		act{"Stop", func(ctx context.Context, p providers.Provider) error { return p.Stop(ctx, id, providers.StopForce) }},
		act{"Reset", func(ctx context.Context, p providers.Provider) error { return p.Reset(ctx, id) }},
		act{"EnsureMachine anew", func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, changed) }},
		act{"Start anew", func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, id) }},
		act{"DeleteMachine", func(ctx context.Context, p providers.Provider) error { return deleted(ctx, p, id) }},
		act{"DeleteImage", func(ctx context.Context, p providers.Provider) error {
			return s.ignoreNotFound(p.DeleteImage(ctx, image.ImageRef))
		}})
}

// lifeOf is the life of a machine and an image of its own.
func (s *suite) lifeOf(t *testing.T, name string) (providers.ImageSpec, providers.MachineSpec, []act) {
	t.Helper()
	image := s.imageSpec(t.Name()+name, "1")
	spec := s.spec(t, name)
	spec.Image = image.ImageRef
	if s.has(Mode(v1.NetworkNAT)) && s.has(PortForwards) {
		spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{tcp("a", 0, 22)}}
	}
	return image, spec, s.life(image, spec)
}

// converge is what a caller does that finds the world in whatever state: it
// makes the machine run as specified, and then removes everything.
func (s *suite) converge(t *testing.T, image providers.ImageSpec, spec providers.MachineSpec) {
	t.Helper()
	_, err := s.p.ImportImage(s.ctx(t), image, nil)
	must(t, "import", err)
	m, err := s.p.GetMachine(s.ctx(t), spec.ID)
	switch {
	case errors.Is(err, providers.ErrNotFound):
	case err != nil:
		t.Fatalf("get: %v", err)
	case m.Hashes != spec.Hashes() && m.Power != providers.PowerOff:
		s.forceOff(t, spec.ID)
	}
	s.ensure(t, spec)
	s.start(t, spec.ID)
	if m := s.get(t, spec.ID); m.Hashes != spec.Hashes() || !m.Network.Isolated || len(m.PortForwards) != len(spec.Network.PortForwards) {
		t.Errorf("converged to %+v", m)
	}
	s.remove(t, spec.ID)
	must(t, "delete image", s.p.DeleteImage(s.ctx(t), image.ImageRef))
	want(t, "delete image again", s.p.DeleteImage(s.ctx(t), image.ImageRef), providers.ErrNotFound)
	if left := s.resources(t, ownedBy(image.UID)); len(left) > 0 {
		t.Errorf("left of the image: %+v", left)
	}
}

func (s *suite) testAbandoned(t *testing.T) {
	_, _, acts := s.lifeOf(t, "count")
	for n := range acts {
		image, spec, acts := s.lifeOf(t, fmt.Sprintf("life-%d", n))
		for _, a := range acts[:n+1] {
			must(t, a.name, a.call(s.ctx(t), s.p))
		}
		s.reopen(t)
		s.converge(t, image, spec)
		if t.Failed() {
			t.Fatalf("after %s", acts[n].name)
		}
	}
}

// testInterrupted lives the life up to each call, dies at each inner step of
// that one, and converges.
func (s *suite) testInterrupted(t *testing.T) {
	if s.b.Interrupt == nil {
		t.Skip("the backend has no means to cut a call off at its inner steps")
	}
	_, _, acts := s.lifeOf(t, "count")
	for n, dying := range acts {
		steps := 0
		for step := 1; ; step++ {
			image, spec, acts := s.lifeOf(t, fmt.Sprintf("life-%d-%d", n, step))
			for _, a := range acts[:n] {
				must(t, a.name, a.call(s.ctx(t), s.p))
			}
			ctx := s.ctx(t)
			completed := s.b.Interrupt(step, func() {
				if err := acts[n].call(ctx, s.p); err != nil {
					t.Errorf("%s: %v", acts[n].name, err)
				}
			})
			s.reopen(t)
			s.converge(t, image, spec)
			if t.Failed() {
				t.Fatalf("after %s died at its step %d", dying.name, step)
			}
			if completed {
				break
			}
			steps++
		}
		if steps == 0 {
			t.Errorf("%s was never cut off", dying.name)
		}
	}
}
