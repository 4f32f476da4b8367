package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testForwards(t *testing.T) {
	s.need(t, PortForwards, Mode(v1.NetworkNAT))
	t.Run("a host port of 0 is resolved to a free one, and kept", s.testResolved)
	t.Run("a host port that another machine has is ErrBusy and named", s.testPortConflict)
	t.Run("a host port that another program has is ErrBusy and named", s.testOccupied)
	t.Run("a host port is given back by a spec without it and by deletion", s.testPortReleased)
	t.Run("the forwards of a machine that runs are changed", s.testChangedForwards)
	t.Run("a forward leads into the guest, over new processes, until it is dropped", s.testReachable)
}

// forwarding is a machine with forwards.
func (s *suite) forwarding(t *testing.T, name string, forwards ...v1.PortForward) providers.MachineSpec {
	t.Helper()
	spec := s.network(t, name, v1.NetworkNAT)
	spec.Network.PortForwards = forwards
	return spec
}

func tcp(name string, hostPort, guestPort int32) v1.PortForward {
	return v1.PortForward{
		Name: name, Protocol: v1.ProtocolTCP, HostAddress: "127.0.0.1", HostPort: hostPort, GuestPort: guestPort,
	}
}

func udp(name string, hostPort, guestPort int32) v1.PortForward {
	f := tcp(name, hostPort, guestPort)
	f.Protocol = v1.ProtocolUDP
	return f
}

// wantForwards checks the forwards of a machine but for the ports that were
// chosen, and returns them.
func (s *suite) wantForwards(t *testing.T, spec providers.MachineSpec) []v1.PortForward {
	t.Helper()
	got := slices.Clone(s.get(t, spec.ID).PortForwards)
	slices.SortFunc(got, func(a, b v1.PortForward) int { return strings.Compare(a.Name, b.Name) })
	want := slices.Clone(spec.Network.PortForwards)
	slices.SortFunc(want, func(a, b v1.PortForward) int { return strings.Compare(a.Name, b.Name) })
	for i := range want {
		if want[i].HostPort == 0 && i < len(got) {
			want[i].HostPort = got[i].HostPort
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("the forwards are %+v, want %+v", got, want)
	}
	return got
}

func (s *suite) testResolved(t *testing.T) {
	spec := s.forwarding(t, "machine", tcp("a", 0, 22), tcp("b", 0, 80), udp("c", 0, 53))
	id := s.made(t, spec)
	first := s.wantForwards(t, spec)
	if first[0].HostPort == first[1].HostPort {
		t.Errorf("two forwards got one port: %+v", first)
	}
	same := func(after string) {
		t.Helper()
		if now := s.wantForwards(t, spec); !slices.Equal(now, first) {
			t.Errorf("after %s the forwards are %+v, before %+v", after, now, first)
		}
	}
	s.ensure(t, spec)
	same("a second call")
	s.start(t, id)
	same("a start")
	s.reopen(t)
	same("a new process")
	s.ensure(t, spec)
	same("a call while it runs")
	s.forceOff(t, id)
	same("a stop")
	s.ensure(t, spec)
	same("a call while it is off")
}

// wantBusyPort checks that a port is refused, and which.
func (s *suite) wantBusyPort(t *testing.T, err error, port int32) {
	t.Helper()
	want(t, "a port that is taken", err, providers.ErrBusy)
	if err != nil && !strings.Contains(err.Error(), strconv.Itoa(int(port))) {
		t.Errorf("the error %q does not name port %d", err, port)
	}
}

func (s *suite) testPortConflict(t *testing.T) {
	one := s.forwarding(t, "one", tcp("a", 0, 22))
	s.made(t, one)
	port := s.wantForwards(t, one)[0].HostPort
	two := s.forwarding(t, "two", tcp("b", port, 22))
	t.Cleanup(func() { s.remove(t, two.ID) })
	s.wantBusyPort(t, s.p.EnsureMachine(s.ctx(t), two), port)
	two.Network.PortForwards = []v1.PortForward{tcp("b", 0, 22)}
	s.ensure(t, two)
	other := s.wantForwards(t, two)[0].HostPort
	// A machine that is there keeps what it had when it is refused more.
	more := two
	more.Network.PortForwards = []v1.PortForward{tcp("b", 0, 22), tcp("c", port, 80)}
	s.wantBusyPort(t, s.p.EnsureMachine(s.ctx(t), more), port)
	if now := s.wantForwards(t, two)[0].HostPort; now != other {
		t.Errorf("a refused call changed its port from %d to %d", other, now)
	}
	// The same number is another port with another protocol.
	more.Network.PortForwards = []v1.PortForward{tcp("b", 0, 22), udp("c", port, 53)}
	s.ensure(t, more)
	s.wantForwards(t, more)
}

// testOccupied does not ask when a provider finds out, only that it does.
func (s *suite) testOccupied(t *testing.T) {
	port := s.b.Occupy(t)
	spec := s.forwarding(t, "machine", tcp("a", port, 22))
	t.Cleanup(func() { s.remove(t, spec.ID) })
	err := s.p.EnsureMachine(s.ctx(t), spec)
	if err == nil {
		err = s.p.Start(s.ctx(t), spec.ID)
	}
	s.wantBusyPort(t, err, port)
}

func (s *suite) testPortReleased(t *testing.T) {
	one, two := s.forwarding(t, "one", tcp("a", 0, 22)), s.forwarding(t, "two", tcp("b", 0, 22))
	s.made(t, one)
	port := s.wantForwards(t, one)[0].HostPort
	without := one
	without.Network.PortForwards = nil
	s.ensure(t, without)
	s.wantForwards(t, without)
	two.Network.PortForwards[0].HostPort = port
	s.made(t, two)
	s.wantForwards(t, two)
	s.remove(t, two.ID)
	one.Network.PortForwards[0].HostPort = port
	s.ensure(t, one)
	s.wantForwards(t, one)
}

func (s *suite) testChangedForwards(t *testing.T) {
	spec := s.forwarding(t, "machine", tcp("a", 0, 22))
	id := s.made(t, spec)
	s.start(t, id)
	first := s.wantForwards(t, spec)
	changed := spec
	// The new one comes first, and must not get the port of the other.
	changed.Network.PortForwards = []v1.PortForward{tcp("b", 0, 80), tcp("a", 0, 22)}
	s.ensure(t, changed)
	if now := s.wantForwards(t, changed); !slices.Contains(now, first[0]) {
		t.Errorf("the forward that was there became one of %+v", now)
	}
	if m := s.wantPower(t, id, providers.PowerRunning); m.Hashes != changed.Hashes() {
		t.Errorf("the hashes in effect are %+v, want %+v", m.Hashes, changed.Hashes())
	}
	changed.Network.PortForwards = nil
	s.ensure(t, changed)
	s.wantForwards(t, changed)
	if m := s.wantPower(t, id, providers.PowerRunning); m.Hashes != changed.Hashes() {
		t.Errorf("without forwards the hashes in effect are %+v, want %+v", m.Hashes, changed.Hashes())
	}
}

// greetingLimit stops a connection that leads nowhere.
const greetingLimit = 30 * time.Second

// greets tells whether the guest's service answers on a host port.
func (s *suite) greets(t *testing.T, port int32) error {
	conn, err := s.b.Dial(s.ctx(t), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(greetingLimit)); err != nil {
		return err
	}
	b := make([]byte, len(s.b.Service.Greeting))
	n, err := io.ReadFull(conn, b)
	if err != nil || string(b) != s.b.Service.Greeting {
		return fmt.Errorf("it greets with %q, %w", b[:n], err)
	}
	return nil
}

func (s *suite) waitGreeting(t *testing.T, port int32) {
	t.Helper()
	eventually(t, s.b.Limits.Boot, func() string {
		if err := s.greets(t, port); err != nil {
			return fmt.Sprintf("port %d of the host does not lead to the guest's service: %v", port, err)
		}
		return ""
	})
}

func (s *suite) waitNoGreeting(t *testing.T, port int32) {
	t.Helper()
	eventually(t, s.b.Limits.Call, func() string {
		if s.greets(t, port) == nil {
			return fmt.Sprintf("port %d of the host still leads to the guest", port)
		}
		return ""
	})
}

// testReachable uses the shared guest, which has no forwards otherwise.
func (s *suite) testReachable(t *testing.T) {
	id := s.guest(t)
	spec := s.sharedSpec
	set := func(forwards ...v1.PortForward) (ports []int32) {
		t.Helper()
		spec.Network.PortForwards = forwards
		s.ensure(t, spec)
		for _, f := range s.wantForwards(t, spec) {
			ports = append(ports, f.HostPort)
		}
		return ports
	}
	t.Cleanup(func() { set() })
	a := set(tcp("a", 0, s.b.Service.Port))
	s.waitGreeting(t, a[0])
	both := set(tcp("a", 0, s.b.Service.Port), tcp("b", 0, s.b.Service.Port))
	if both[0] != a[0] {
		t.Errorf("a second forward moved the first from %d to %d", a[0], both[0])
	}
	s.waitGreeting(t, both[1])
	s.waitGreeting(t, both[0])
	s.reopen(t)
	s.waitGreeting(t, both[0])
	s.waitGreeting(t, both[1])
	s.testManyConnections(t, id, both[0])
	set(tcp("b", 0, s.b.Service.Port))
	s.waitNoGreeting(t, both[0])
	s.waitGreeting(t, both[1])
	set()
	s.waitNoGreeting(t, both[1])
}

// testManyConnections opens some connections at once. A service that serves so many of
// one client and no more may not have seen yet that earlier ones are over.
func (s *suite) testManyConnections(t *testing.T, id types.UID, port int32) {
	t.Helper()
	const n = 5
	eventually(t, s.b.Limits.Boot, func() string {
		errs := make(chan error, n)
		for range n {
			go func() { errs <- s.greets(t, port) }()
		}
		var all error
		for range n {
			all = errors.Join(all, <-errs)
		}
		if all != nil {
			return fmt.Sprintf("machine %s, of %d connections: %v", id, n, all)
		}
		return ""
	})
}
