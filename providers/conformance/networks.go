package conformance

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testNetworks(t *testing.T) {
	for _, mode := range []v1.NetworkMode{
		v1.NetworkNone, v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT, v1.NetworkBridged,
	} {
		t.Run("the isolation of mode "+string(mode)+" is observed while the machine is on", func(t *testing.T) {
			s.need(t, Mode(mode))
			s.testObserved(t, mode)
		})
	}
	t.Run("a network that is not as the spec says is not reported as isolated", s.testNotIsolated)
	t.Run("Start does not let the guest run, and powers it off, when its network is not as defined", s.testRefusedStart)
	t.Run("a network that others use stays, and goes with the last of them", s.testSharedNetwork)
	t.Run("a machine that is off is connected anew when its spec changes", s.testReconnected)
}

func (s *suite) network(t *testing.T, name string, mode v1.NetworkMode) providers.MachineSpec {
	t.Helper()
	spec := s.spec(t, name)
	spec.Network.Mode = mode
	if mode == v1.NetworkBridged {
		spec.Network.Bridge = s.b.Bridge
	}
	return spec
}

func (s *suite) testObserved(t *testing.T, mode v1.NetworkMode) {
	spec := s.network(t, "machine", mode)
	id := s.made(t, spec)
	s.start(t, id)
	m := s.get(t, id)
	if !m.Network.Isolated || m.Network.Detail == "" || m.Hashes.Network != spec.Hashes().Network {
		t.Errorf("of the running machine this was observed: %+v", m)
	}
	if mode == v1.NetworkNone && len(m.Addresses) > 0 {
		t.Errorf("without a network it has the addresses %v", m.Addresses)
	}
	s.reopen(t)
	if m := s.get(t, id); !m.Network.Isolated {
		t.Errorf("a new process observes %+v", m.Network)
	}
	s.forceOff(t, id)
	s.start(t, id)
	if m := s.get(t, id); !m.Network.Isolated {
		t.Errorf("started again, this was observed: %+v", m.Network)
	}
}

func (s *suite) testNotIsolated(t *testing.T) {
	s.need(t, BrokenNetwork)
	spec := s.network(t, "machine", s.anyNetwork(t))
	id := s.made(t, spec)
	s.start(t, id)
	before := s.get(t, id).Network
	s.breakNetwork(t, id)
	eventually(t, s.b.Limits.Call, func() string {
		if n := s.get(t, id).Network; n.Isolated || n.Detail == before.Detail {
			return "it is still said: " + n.Detail
		}
		return ""
	})
	s.forceOff(t, id)
}

func (s *suite) testRefusedStart(t *testing.T) {
	s.need(t, BrokenNetwork, Outside)
	spec := s.network(t, "machine", s.anyNetwork(t))
	id := s.made(t, spec)
	s.start(t, id)
	s.b.Pause(t, id)
	s.wantPower(t, id, providers.PowerPaused)
	s.breakNetwork(t, id)
	if err := s.p.Start(s.ctx(t), id); err == nil {
		t.Error("it was started all the same")
	}
	s.wantPower(t, id, providers.PowerOff)
}

func (s *suite) breakNetwork(t *testing.T, id types.UID) {
	t.Helper()
	s.touched.Store(id, true)
	s.b.BreakNetwork(t, id)
}

// networks counts the networks of our own that there are.
func (s *suite) networks(t *testing.T) int {
	t.Helper()
	return len(s.resources(t, func(r providers.Resource) bool { return r.Kind == providers.ResourceNetwork }))
}

// anyNetwork is a mode that needs a network of its own.
func (s *suite) anyNetwork(t *testing.T) v1.NetworkMode {
	t.Helper()
	for _, m := range []v1.NetworkMode{v1.NetworkIntnet, v1.NetworkHostOnly} {
		if s.has(Mode(m)) {
			return m
		}
	}
	s.need(t, Mode(v1.NetworkIntnet))
	return ""
}

func (s *suite) testSharedNetwork(t *testing.T) {
	mode := s.anyNetwork(t)
	before := s.networks(t)
	one, two := s.network(t, "one", mode), s.network(t, "two", mode)
	one.Network.Name, two.Network.Name = "shared", "shared"
	s.made(t, one)
	s.made(t, two)
	s.start(t, one.ID)
	s.start(t, two.ID)
	s.remove(t, one.ID)
	if now := s.networks(t); now != before+1 {
		t.Errorf("there were %d networks, and now that one machine uses another there are %d", before, now)
	}
	if m := s.wantPower(t, two.ID, providers.PowerRunning); !m.Network.Isolated {
		t.Errorf("after the other was deleted: %+v", m.Network)
	}
	s.remove(t, two.ID)
	if after := s.networks(t); after != before {
		t.Errorf("there were %d networks, and now that both are gone there are %d", before, after)
	}
}

func (s *suite) testReconnected(t *testing.T) {
	mode := s.anyNetwork(t)
	before := s.networks(t)
	none, connected := s.network(t, "machine", v1.NetworkNone), s.network(t, "machine", mode)
	connected.Network.Name = "own"
	id := s.made(t, connected)
	s.start(t, id)
	s.ensure(t, none)
	if m := s.wantPower(t, id, providers.PowerRunning); m.Hashes.Network != connected.Hashes().Network {
		t.Errorf("while it runs, the network in effect is said to be %s, not %s", m.Hashes.Network, connected.Hashes().Network)
	}
	s.forceOff(t, id)
	s.ensure(t, none)
	if now := s.networks(t); now != before {
		t.Errorf("there were %d networks, and now that the machine left its own there are %d", before, now)
	}
	s.start(t, id)
	if m := s.get(t, id); !m.Network.Isolated || m.Hashes.Network != none.Hashes().Network {
		t.Errorf("without a network, this was observed: %+v", m)
	}
	s.forceOff(t, id)
	s.ensure(t, connected)
	s.start(t, id)
	if m := s.get(t, id); !m.Network.Isolated || m.Hashes.Network != connected.Hashes().Network {
		t.Errorf("connected again, this was observed: %+v", m)
	}
	s.remove(t, id)
	if after := s.networks(t); after != before {
		t.Errorf("there were %d networks before, and now there are %d", before, after)
	}
}
