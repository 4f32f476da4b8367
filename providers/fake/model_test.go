package fake

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// model is what a machine must look like from outside, by the state machine in
// the package comment of providers.
type model struct {
	exists  bool
	power   providers.Power
	reason  providers.OffReason
	parts   bool // a disk and the like may be there
	defined providers.Hashes
	running providers.Hashes
}

func (m *model) off(r providers.OffReason) { m.power, m.reason = providers.PowerOff, r }

// machine drives one machine of a world and its model.
type simulated struct {
	w     *World
	p     *Provider
	id    types.UID
	model model
	ctx   context.Context
}

// check compares an error with the kind that the model asks for; nil means
// success.
func (s *simulated) check(t *rapid.T, what string, err, want error) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Fatalf("%s in %+v: got %v, want %v", what, s.model, err, want)
	}
}

func (s *simulated) spec(memory int64) providers.MachineSpec {
	m := spec(1)
	m.ID = s.id
	m.MemoryBytes = memory
	m.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
	return m
}

func (s *simulated) ensure(t *rapid.T) {
	spec := s.spec(rapid.SampledFrom([]int64{64 << 20, 128 << 20}).Draw(t, "memory"))
	s.check(t, "ensure", s.p.EnsureMachine(s.ctx, spec), nil)
	m := &s.model
	if !m.exists {
		m.exists, m.parts = true, true
		m.off(providers.OffNeverStarted)
	}
	if m.power == providers.PowerOff {
		m.defined = spec.Hashes()
	}
}

func (s *simulated) start(t *rapid.T) {
	err := s.p.Start(s.ctx, s.id)
	if !s.model.exists {
		s.check(t, "start", err, providers.ErrNotFound)
		return
	}
	s.check(t, "start", err, nil)
	if s.model.power == providers.PowerOff {
		s.model.running = s.model.defined
	}
	s.model.power = providers.PowerRunning
}

func (s *simulated) stop(t *rapid.T) {
	mode := rapid.SampledFrom([]providers.StopMode{providers.StopGraceful, providers.StopForce}).Draw(t, "mode")
	err := s.p.Stop(s.ctx, s.id, mode)
	m := &s.model
	switch {
	case !m.exists:
		s.check(t, "stop", err, providers.ErrNotFound)
	case m.power == providers.PowerOff:
		s.check(t, "stop", err, nil)
	case mode == providers.StopForce:
		s.check(t, "stop", err, nil)
		m.off(providers.OffDestroyed)
	case m.power != providers.PowerRunning:
		s.check(t, "stop", err, providers.ErrBusy)
	default:
		s.check(t, "stop", err, nil)
		m.off(providers.OffShutdown)
	}
}

func (s *simulated) suspend(t *rapid.T) {
	err := s.p.Suspend(s.ctx, s.id)
	switch {
	case !s.model.exists:
		s.check(t, "suspend", err, providers.ErrNotFound)
	case s.model.power == providers.PowerOff:
		s.check(t, "suspend", err, providers.ErrBusy)
	default:
		s.check(t, "suspend", err, nil)
		s.model.power = providers.PowerSaved
	}
}

func (s *simulated) reset(t *rapid.T) {
	err := s.p.Reset(s.ctx, s.id)
	switch {
	case !s.model.exists:
		s.check(t, "reset", err, providers.ErrNotFound)
	case s.model.power != providers.PowerOff:
		s.check(t, "reset", err, providers.ErrBusy)
	default:
		s.check(t, "reset", err, nil)
	}
}

func (s *simulated) remove(t *rapid.T) {
	err := s.p.DeleteMachine(s.ctx, s.id)
	if s.model.exists || s.model.parts {
		s.check(t, "delete", err, nil)
	} else {
		s.check(t, "delete", err, providers.ErrNotFound)
	}
	s.model = model{}
}

// outside plays what happens to a machine that exists. What cannot happen in
// its state is refused by the world and changes nothing.
func (s *simulated) outside(t *rapid.T) {
	m := &s.model
	on := m.exists && (m.power == providers.PowerRunning || m.power == providers.PowerPaused)
	running := m.exists && m.power == providers.PowerRunning
	var err error
	var happens bool
	switch rapid.SampledFrom([]string{"crash", "pause", "guest", "undefine", "reboot"}).Draw(t, "play") {
	case "crash":
		if err, happens = s.w.Crash(s.id), on; happens {
			m.off(providers.OffCrashed)
		}
	case "pause":
		if err, happens = s.w.Pause(s.id), running; happens {
			m.power = providers.PowerPaused
		}
	case "guest":
		if err, happens = s.w.ShutDownGuest(s.id), running; happens {
			m.off(providers.OffShutdown)
		}
	case "undefine":
		if err, happens = s.w.Undefine(s.id), m.exists; happens {
			*m = model{parts: true}
		}
	case "reboot":
		s.w.RebootHost()
		if happens = true; on {
			m.off(providers.OffUnknown)
		}
	}
	if (err == nil) != happens {
		t.Fatalf("in %+v the world answers %v", *m, err)
	}
}

// restart is a new daemon, and the end of the old one.
func (s *simulated) restart(t *rapid.T) {
	if err := s.p.Close(); err != nil {
		t.Fatal(err)
	}
	s.p = New(s.w, v1.ProviderKVM, instance)
}

func (s *simulated) verify(t *rapid.T) {
	got, err := s.p.GetMachine(s.ctx, s.id)
	m := s.model
	if !m.exists {
		s.check(t, "get", err, providers.ErrNotFound)
		return
	}
	s.check(t, "get", err, nil)
	want := m.running
	if m.power == providers.PowerOff {
		want = m.defined
	} else {
		m.reason = ""
	}
	if got.Power != m.power || got.OffReason != m.reason || got.Hashes != want ||
		got.Network.Isolated != (m.power == providers.PowerRunning || m.power == providers.PowerPaused) ||
		(got.Agent == providers.AgentConnected) != (m.power == providers.PowerRunning) {
		t.Fatalf("got %+v, want %+v with hashes %+v", got, m, want)
	}
}

func newSimulated(t *rapid.T) *simulated {
	s := &simulated{w: NewWorld(Options{Source: anySource}), id: id(1), ctx: context.Background()}
	s.p = New(s.w, v1.ProviderKVM, instance)
	if _, err := s.p.ImportImage(s.ctx, golden, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// end deletes everything and checks that nothing is left.
func (s *simulated) end(t *rapid.T) {
	for {
		if err := s.p.DeleteMachine(s.ctx, s.id); errors.Is(err, providers.ErrNotFound) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.p.DeleteImage(s.ctx, golden.ImageRef); err != nil {
		t.Fatal(err)
	}
	if left := s.w.Inventory(); len(left) > 0 {
		t.Fatalf("left behind: %q", left)
	}
}

// TestModel makes random calls and lets random things happen, and compares each
// outcome with the model.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulated(t)
		t.Repeat(map[string]func(*rapid.T){
			"ensure": s.ensure, "start": s.start, "stop": s.stop, "suspend": s.suspend, "reset": s.reset,
			"delete": s.remove, "outside": s.outside, "restart": s.restart, "": s.verify,
		})
		s.end(t)
	})
}

// TestInterrupted cuts random calls off at random steps, each by a daemon that
// dies, and then deletes everything: whatever state that left the world in,
// nothing may remain, and a machine can be made to run before.
func TestInterrupted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulated(t)
		dying := func(call func() error) func(*rapid.T) {
			return func(t *rapid.T) {
				s.interrupt(rapid.IntRange(1, 6).Draw(t, "step"), call)
				s.restart(t)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"ensure":  dying(func() error { return s.p.EnsureMachine(s.ctx, s.spec(64<<20)) }),
			"start":   dying(func() error { return s.p.Start(s.ctx, s.id) }),
			"stop":    dying(func() error { return s.p.Stop(s.ctx, s.id, providers.StopForce) }),
			"suspend": dying(func() error { return s.p.Suspend(s.ctx, s.id) }),
			"reset":   dying(func() error { return s.p.Reset(s.ctx, s.id) }),
			"delete":  dying(func() error { return s.p.DeleteMachine(s.ctx, s.id) }),
			"import":  dying(func() error { _, err := s.p.ImportImage(s.ctx, golden, nil); return err }),
			"collect": func(t *rapid.T) { s.collect(t) },
		})
		if err := errors.Join(s.p.EnsureMachine(s.ctx, s.spec(128<<20)), s.p.Start(s.ctx, s.id)); err != nil {
			t.Fatal(err)
		}
		if m, err := s.p.GetMachine(s.ctx, s.id); err != nil || m.Power != providers.PowerRunning {
			t.Fatalf("got %+v, %v", m, err)
		}
		s.end(t)
	})
}

// collect removes what belongs to a machine that does not exist, as the
// collector of garbage does.
func (s *simulated) collect(t *rapid.T) {
	if _, err := s.p.GetMachine(s.ctx, s.id); err == nil {
		return
	}
	all, err := s.p.ListResources(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Kind == providers.ResourceImage {
			continue
		}
		if err := s.p.RemoveResource(s.ctx, r); err != nil {
			t.Fatalf("remove %+v: %v", r, err)
		}
	}
}

// interrupt runs a call on a goroutine that ends at the n-th step.
func (s *simulated) interrupt(n int, call func() error) {
	steps := 0
	s.w.OnStep(func(Step) {
		if steps++; steps == n {
			runtime.Goexit()
		}
	})
	defer s.w.OnStep(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = call() // it may well be refused in this state
	}()
	<-done
}

// TestPorts resolves the forwards of random machines and checks that no two
// share a port, and that a port stays once it was chosen.
func TestPorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newPortTable()
		have := map[types.UID][]v1.PortForward{}
		t.Repeat(map[string]func(*rapid.T){
			"resolve": func(t *rapid.T) {
				id := types.UID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "machine"))
				want := rapid.SliceOfNDistinct(genForward(), 0, 4, func(f v1.PortForward) string { return f.Name }).Draw(t, "forwards")
				got, err := table.resolve(id, want, have[id])
				if err != nil {
					if !errors.Is(err, providers.ErrBusy) && !errors.Is(err, providers.ErrInvalid) {
						t.Fatal(err)
					}
					return
				}
				for i, f := range got {
					// One that another forward asks for has to be given up.
					wasChosen := want[i].HostPort == 0 && !slices.ContainsFunc(want, func(o v1.PortForward) bool {
						return o.Protocol == f.Protocol && o.HostPort == firstPort
					})
					for _, old := range have[id] {
						if wasChosen && old.Name == f.Name && old.Protocol == f.Protocol && old.HostAddress == f.HostAddress &&
							old.HostPort != f.HostPort && old.HostPort >= firstPort {
							t.Fatalf("forward %+v was moved to port %d", old, f.HostPort)
						}
					}
				}
				have[id] = got
			},
			"release": func(t *rapid.T) {
				id := types.UID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "machine"))
				table.release(id)
				delete(have, id)
			},
			"": func(t *rapid.T) {
				total, taken := 0, map[string]string{}
				for id, forwards := range have {
					for _, f := range forwards {
						total++
						// Of the addresses of the generator one is contained in the other.
						key := fmt.Sprint(f.Protocol, f.HostPort)
						if other, ok := taken[key]; ok {
							t.Fatalf("%s of %s and %s share %s", f.Name, id, other, key)
						}
						taken[key] = f.Name + " of " + string(id)
					}
				}
				if n := len(table.list()); n != total {
					t.Fatalf("%d ports are held, %d forwards exist", n, total)
				}
			},
		})
	})
}

func genForward() *rapid.Generator[v1.PortForward] {
	return rapid.Custom(func(t *rapid.T) v1.PortForward {
		return v1.PortForward{
			Name:        rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name"),
			Protocol:    rapid.SampledFrom([]v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP}).Draw(t, "protocol"),
			HostAddress: rapid.SampledFrom([]string{"127.0.0.1", "0.0.0.0"}).Draw(t, "address"),
			HostPort:    rapid.SampledFrom([]int32{0, 0, 80, 443, firstPort}).Draw(t, "port"),
			GuestPort:   22,
		}
	})
}
