// Package forward leads ports of the host to ports of guests.
//
//	client ──▶ hostAddress:hostPort ──(this process)──▶ guestAddress:guestPort
//
// It is a proxy in user space: it needs no rules in the host's firewall, works
// for connections from the host itself, and a guest sees only the gateway's
// address. A port is held from the moment it is reserved until it is released;
// while its guest has no address or does not answer, connections are closed at
// once. Only the ports and no connection survive the process.
package forward

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
)

const (
	// maxConnections bounds what one port serves at a time.
	maxConnections = 256
	// dialTimeout bounds the wait for a guest.
	dialTimeout = 5 * time.Second
	// udpIdle ends a UDP association that nobody uses.
	udpIdle = 60 * time.Second
)

// Set is the forwards of all machines. Its methods may be called from many
// goroutines.
type Set struct {
	mu     sync.Mutex
	owners map[string]*owner
	closed bool
	used   func(id string) (end func())
}

type owner struct {
	ports  map[string]*port // by the forward's name
	target netip.Addr       // invalid while the guest has none
}

// NewSet makes an empty Set. used is told of each connection to an owner's guest,
// and calls end when that is over; nil is told nothing.
func NewSet(used func(id string) (end func())) *Set {
	if used == nil {
		used = func(string) func() { return func() {} }
	}
	return &Set{owners: map[string]*owner{}, used: used}
}

// Reserve makes an owner's forwards what is wanted and returns them with their
// real host ports. have are those it had before: a forward that did not change
// keeps its port, also one that was chosen. If a port cannot be had, nothing
// changes.
func (s *Set) Reserve(id string, want, have []v1.PortForward) ([]v1.PortForward, error) {
	resolved, stale, err := s.reserve(id, want, have)
	for _, p := range stale { // without the lock, which their connections take
		p.close()
	}
	return resolved, err
}

// reserve does it and returns the ports that are to be closed.
func (s *Set) reserve(id string, want, have []v1.PortForward) (resolved []v1.PortForward, stale []*port, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, providers.Errorf(providers.ErrUnavailable, "machine "+id, "its port forwards were closed, because sandboxd is stopping")
	}
	o := s.owners[id]
	if o == nil {
		o = &owner{ports: map[string]*port{}}
	}
	next := map[string]*port{}
	resolved = settle(want, have)
	var opened []*port
	for _, i := range inOrder(want, resolved) {
		f := resolved[i]
		p := o.find(f, next)
		if p == nil {
			if p, err = s.open(id, f); err != nil {
				return nil, opened, err
			}
			opened = append(opened, p)
		}
		resolved[i].HostPort = p.number()
		next[f.Name] = p
	}
	for _, p := range o.ports {
		if !holds(next, p) {
			stale = append(stale, p)
		}
	}
	for _, f := range resolved { // from here on nothing fails
		next[f.Name].spec = f
		next[f.Name].guest.Store(f.GuestPort)
	}
	o.ports = next
	if len(next) > 0 {
		s.owners[id] = o
	} else {
		delete(s.owners, id)
	}
	return resolved, stale, nil
}

// find returns the open port that can serve a forward, if it is not serving
// another one already: by its number, or by the forward's name if any number
// will do.
func (o *owner) find(f v1.PortForward, taken map[string]*port) *port {
	for name, p := range o.ports {
		fits := p.spec.Protocol == f.Protocol && p.spec.HostAddress == f.HostAddress &&
			(p.number() == f.HostPort || f.HostPort == 0 && name == f.Name)
		if fits && !holds(taken, p) {
			return p
		}
	}
	return nil
}

func holds(ports map[string]*port, p *port) bool {
	for _, q := range ports {
		if q == p {
			return true
		}
	}
	return false
}

// settle fills in defaults, and the port that a forward had before if it asks
// for any and no other one asks for just that.
func settle(want, have []v1.PortForward) []v1.PortForward {
	var settled []v1.PortForward
	for _, f := range want {
		f.Protocol = cmp.Or(f.Protocol, v1.ProtocolTCP)
		f.HostAddress = cmp.Or(f.HostAddress, hostport.DefaultAddress)
		settled = append(settled, f)
	}
	for i, f := range settled {
		for _, h := range have {
			if f.HostPort == 0 && h.Name == f.Name && h.Protocol == f.Protocol && h.HostAddress == f.HostAddress &&
				!slices.ContainsFunc(want, func(w v1.PortForward) bool { return hostport.Conflict(w, h) }) {
				settled[i].HostPort = h.HostPort
			}
		}
	}
	return settled
}

// inOrder is the order in which forwards get their ports: those that ask for
// one first, and last those that get any, which might be one of the others'.
func inOrder(want, settled []v1.PortForward) []int {
	rank := func(i int) int {
		switch {
		case want[i].HostPort != 0:
			return 0
		case settled[i].HostPort != 0:
			return 1
		default:
			return 2
		}
	}
	order := make([]int, len(want))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rank(a), rank(b)) })
	return order
}

// Holds tells whether exactly these resolved forwards are open.
func (s *Set) Holds(id string, resolved []v1.PortForward) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.owners[id]
	if o == nil {
		return len(resolved) == 0
	}
	if len(o.ports) != len(resolved) {
		return false
	}
	for _, f := range resolved {
		if p := o.ports[f.Name]; p == nil || p.spec != f {
			return false
		}
	}
	return true
}

// SetTarget says where an owner's guest is; the zero address that it is
// nowhere.
func (s *Set) SetTarget(id string, a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.owners[id]; o != nil {
		o.target = a
	}
}

// Aimed tells whether an owner's forwards lead to a guest.
func (s *Set) Aimed(id string) bool { return s.target(id).IsValid() }

func (s *Set) target(id string) netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.owners[id]; o != nil {
		return o.target
	}
	return netip.Addr{}
}

// Release closes an owner's ports and connections.
func (s *Set) Release(id string) {
	s.mu.Lock()
	o := s.owners[id]
	delete(s.owners, id)
	s.mu.Unlock()
	if o != nil {
		for _, p := range o.ports {
			p.close()
		}
	}
}

// Close releases everything.
func (s *Set) Close() {
	s.mu.Lock()
	owners := s.owners
	s.owners, s.closed = map[string]*owner{}, true
	s.mu.Unlock()
	for _, o := range owners {
		for _, p := range o.ports {
			p.close()
		}
	}
}

// port is one open host port.
type port struct {
	spec  v1.PortForward // guarded by the set
	guest atomic.Int32   // the guest's port
	serve interface {
		Addr() net.Addr
		Close()
	}
}

func (p *port) number() int32 {
	switch a := p.serve.Addr().(type) {
	case *net.TCPAddr:
		return int32(a.Port)
	case *net.UDPAddr:
		return int32(a.Port)
	}
	return 0
}

func (p *port) close() { p.serve.Close() }

// open opens a host port.
func (s *Set) open(id string, f v1.PortForward) (*port, error) {
	p := &port{spec: f}
	p.guest.Store(f.GuestPort)
	dest := func() (string, bool) {
		a := s.target(id)
		return net.JoinHostPort(a.String(), strconv.Itoa(int(p.guest.Load()))), a.IsValid()
	}
	used := func() func() { return s.used(id) }
	at := net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort)))
	var err error
	if f.Protocol == v1.ProtocolUDP {
		p.serve, err = listenUDP(at, dest, used)
	} else {
		p.serve, err = listenTCP(at, dest, used, (&net.Dialer{Timeout: dialTimeout}).DialContext)
	}
	if err != nil {
		return nil, hostport.Error("machine "+id, f, err)
	}
	return p, nil
}
