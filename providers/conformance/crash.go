package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testCrashes(t *testing.T) {
	brief := s.b.Brief || testing.Short()
	for _, of := range []struct {
		what    string
		life    func(*testing.T, string) life
		skipped bool
	}{
		{"an image", s.lifeOfImage, false},
		{"an image behind an address", s.lifeOfDownload, false},
		{"a machine", s.lifeOfMachine, false},
		{"snapshots", s.lifeOfSnapshots, brief || !s.has(Snapshots)},
		{"a promotion", s.lifeOfPromotion, brief || !s.has(Promotion)},
	} {
		if of.skipped {
			continue
		}
		t.Run("a process that ends between any two calls on "+of.what+" is followed by one that converges", func(t *testing.T) {
			s.testAbandoned(t, of.life)
		})
		t.Run("a process that ends within any call on "+of.what+" is followed by one that converges", func(t *testing.T) {
			s.testInterrupted(t, of.life)
		})
	}
}

// act is one call in a life.
type act struct {
	name string
	call func(ctx context.Context, p providers.Provider) error
}

// life is every call that changes something, once, on an image and a machine of
// it.
type life struct {
	image providers.ImageSpec
	spec  providers.MachineSpec
	acts  []act
	// converge, when set, takes the place of the suite's own.
	converge func(*testing.T)
}

// lifeOfImage is that of an image of its own. Its machine is made only by who
// converges.
func (s *suite) lifeOfImage(t *testing.T, name string) life {
	t.Helper()
	l := life{image: s.image.ImageSpec, spec: s.spec(t, name)}
	l.image.UID = s.id(t, name+" image")
	l.spec.Image = l.image.ImageRef
	l.acts = []act{
		{"ImportImage", func(ctx context.Context, p providers.Provider) error {
			_, err := p.ImportImage(ctx, l.image, nil)
			return err
		}},
		{"DeleteImage", func(ctx context.Context, p providers.Provider) error {
			return s.ignoreNotFound(p.DeleteImage(ctx, l.image.ImageRef))
		}},
	}
	return l
}

// lifeOfDownload is that of an image whose disk is behind an address.
func (s *suite) lifeOfDownload(t *testing.T, name string) life {
	t.Helper()
	s.detail(t)
	l := s.lifeOfImage(t, name)
	path := s.image.Source.Disk.Path
	web := newShelf(t)
	l.image.Source = v1.ImageSource{Disk: &v1.DiskSource{
		SHA256: s.image.Source.Disk.SHA256, Format: s.image.Source.Disk.Format,
		URL: web.serve("/disk", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }),
	}}
	return l
}

// lifeOfPromotion is that of an image made of the disk of a machine.
func (s *suite) lifeOfPromotion(t *testing.T, name string) life {
	t.Helper()
	origin := s.made(t, s.spec(t, name+"-origin"))
	l := life{image: s.promotion(t.Name()+name, providers.DiskRef{Machine: origin}), spec: s.spec(t, name)}
	l.spec.Image = l.image.ImageRef
	l.acts = []act{
		{"ImportImage", func(ctx context.Context, p providers.Provider) error {
			_, err := p.ImportImage(ctx, l.image, nil)
			return err
		}},
		{"DeleteImage", func(ctx context.Context, p providers.Provider) error {
			return s.ignoreNotFound(p.DeleteImage(ctx, l.image.ImageRef))
		}},
	}
	l.converge = func(t *testing.T) {
		t.Helper()
		of := l
		of.converge = nil
		s.converge(t, of)
		s.remove(t, origin)
	}
	return l
}

// lifeOfMachine is that of a machine of the shared image.
func (s *suite) lifeOfMachine(t *testing.T, name string) life {
	t.Helper()
	l := life{image: s.image.ImageSpec, spec: s.spec(t, name)}
	if s.has(Mode(v1.NetworkNAT)) && s.has(PortForwards) {
		l.spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{tcp("a", 0, 22)}}
	}
	id, changed := l.spec.ID, l.spec
	changed.MemoryBytes += 32 << 20
	l.acts = []act{
		{"EnsureMachine", func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, l.spec) }},
		{"Start", func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, id) }},
	}
	if s.has(Suspend) {
		l.acts = append(l.acts,
			act{"Suspend", func(ctx context.Context, p providers.Provider) error { return p.Suspend(ctx, id) }},
			act{"Start from saved", func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, id) }})
	}
	l.acts = append(l.acts,
		act{"Stop", func(ctx context.Context, p providers.Provider) error { return p.Stop(ctx, id, providers.StopForce) }},
		act{"Reset", func(ctx context.Context, p providers.Provider) error { return p.Reset(ctx, id) }},
		act{"EnsureMachine anew", func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, changed) }},
		act{"Start anew", func(ctx context.Context, p providers.Provider) error { return p.Start(ctx, id) }},
		act{"DeleteMachine", func(ctx context.Context, p providers.Provider) error { return deleted(ctx, p, id) }})
	return l
}

// converge is what a caller does that finds the world in whatever state: it
// makes the machine run as specified, and then removes it with an image of its
// own.
func (s *suite) converge(t *testing.T, l life) {
	t.Helper()
	if l.converge != nil {
		l.converge(t)
		return
	}
	_, err := s.p.ImportImage(s.ctx(t), l.image, nil)
	must(t, "import", err)
	m, err := s.p.GetMachine(s.ctx(t), l.spec.ID)
	switch {
	case errors.Is(err, providers.ErrNotFound):
	case err != nil:
		t.Fatalf("get: %v", err)
	case m.Hashes != l.spec.Hashes() && m.Power != providers.PowerOff:
		s.forceOff(t, l.spec.ID)
	}
	s.ensure(t, l.spec)
	s.start(t, l.spec.ID)
	if m := s.get(t, l.spec.ID); m.Hashes != l.spec.Hashes() || !m.Network.Isolated || len(m.PortForwards) != len(l.spec.Network.PortForwards) {
		t.Errorf("converged to %+v", m)
	}
	s.remove(t, l.spec.ID)
	if l.image.ImageRef == s.image.ImageRef {
		return
	}
	must(t, "delete image", s.p.DeleteImage(s.ctx(t), l.image.ImageRef))
	want(t, "delete image again", s.p.DeleteImage(s.ctx(t), l.image.ImageRef), providers.ErrNotFound)
	if left := s.resources(t, ownedBy(l.image.UID)); len(left) > 0 {
		t.Errorf("left of the image: %+v", left)
	}
}

func (s *suite) testAbandoned(t *testing.T, lifeOf func(*testing.T, string) life) {
	for n := range lifeOf(t, "count").acts {
		l := lifeOf(t, fmt.Sprintf("life-%d", n))
		for _, a := range l.acts[:n+1] {
			must(t, a.name, a.call(s.ctx(t), s.p))
		}
		s.reopen(t)
		s.converge(t, l)
		if t.Failed() {
			t.Fatalf("after %s", l.acts[n].name)
		}
	}
}

// testInterrupted lives a life up to each call, dies at each inner step of that
// one, and converges. A call that came to its end instead is followed by the
// next in the same life.
func (s *suite) testInterrupted(t *testing.T, lifeOf func(*testing.T, string) life) {
	if s.b.Interrupt == nil {
		t.Skip("the backend has no means to cut a call off at its inner steps")
	}
	l := lifeOf(t, "life")
	for n := range l.acts {
		steps := 0
		for !s.dies(t, l, n, steps+1) {
			steps++
			s.reopen(t)
			s.converge(t, l)
			if t.Failed() {
				t.Fatalf("after %s died at its step %d", l.acts[n].name, steps)
			}
			l = lifeOf(t, fmt.Sprintf("life-%d-%d", n, steps))
			for _, a := range l.acts[:n] {
				must(t, a.name, a.call(s.ctx(t), s.p))
			}
		}
		if steps == 0 {
			t.Errorf("%s was never cut off", l.acts[n].name)
		}
	}
	s.converge(t, l)
}

// dies makes one call of a life, cut off at a step; completed tells that it had
// fewer.
func (s *suite) dies(t *testing.T, l life, n, step int) (completed bool) {
	t.Helper()
	ctx := s.ctx(t)
	return s.b.Interrupt(step, func() {
		if err := l.acts[n].call(ctx, s.p); err != nil {
			t.Errorf("%s: %v", l.acts[n].name, err)
		}
	})
}
