package virtualbox

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// defaultHostAddress is what a forward listens on that names no address.
const defaultHostAddress = "127.0.0.1"

// portTable says which machine has which host port. VirtualBox itself opens a
// machine's ports, when it starts, and says nothing if it cannot; so a port is
// tried before it is given away and again before each start. Its methods may be
// called from many goroutines.
type portTable struct {
	mu     sync.Mutex
	owners map[hostPort]types.UID
}

type hostPort struct {
	protocol v1.Protocol
	address  string
	number   int32
}

func newPortTable() *portTable { return &portTable{owners: map[hostPort]types.UID{}} }

func portOf(f v1.PortForward) hostPort { return hostPort{f.Protocol, f.HostAddress, f.HostPort} }

// claim notes the ports that a machine has, without asking whether it can.
func (t *portTable) claim(id types.UID, forwards []v1.PortForward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range forwards {
		t.owners[portOf(f)] = id
	}
}

// release gives a machine's ports back.
func (t *portTable) release(id types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(id)
}

func (t *portTable) drop(id types.UID) {
	for p, owner := range t.owners {
		if owner == id {
			delete(t.owners, p)
		}
	}
}

// reserve makes a machine's forwards what is wanted and returns them with their
// real host ports. have are those it had before: a forward that did not change
// keeps its port, also one that was chosen. If a port cannot be had, nothing
// changes.
func (t *portTable) reserve(id types.UID, want, have []v1.PortForward) ([]v1.PortForward, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	had := map[hostPort]bool{}
	for _, h := range have {
		had[portOf(h)] = true
	}
	next := map[hostPort]bool{}
	resolved := make([]v1.PortForward, 0, len(want))
	for _, f := range want {
		f = settle(f, have)
		if f.HostPort != 0 {
			resolved = append(resolved, f)
			next[portOf(f)] = true
			if had[portOf(f)] && t.owners[portOf(f)] == id {
				continue
			}
			if err := t.free(id, f); err != nil {
				return nil, err
			}
			continue
		}
		f, err := t.choose(id, f, next)
		if err != nil {
			return nil, err
		}
		resolved = append(resolved, f)
		next[portOf(f)] = true
	}
	t.drop(id)
	for p := range next {
		t.owners[p] = id
	}
	return resolved, nil
}

// settle fills in defaults, and the port that a forward had before if it asks
// for any.
func settle(f v1.PortForward, have []v1.PortForward) v1.PortForward {
	if f.Protocol == "" {
		f.Protocol = v1.ProtocolTCP
	}
	if f.HostAddress == "" {
		f.HostAddress = defaultHostAddress
	}
	for _, h := range have {
		if f.HostPort == 0 && h.Name == f.Name && h.Protocol == f.Protocol && h.HostAddress == f.HostAddress {
			f.HostPort = h.HostPort
		}
	}
	return f
}

// free tells whether a port can be given to a machine.
func (t *portTable) free(id types.UID, f v1.PortForward) error {
	if owner, taken := t.ownerOf(portOf(f)); taken && owner != id {
		return portError(id, f, fmt.Errorf("machine %s has it: %w", owner, syscall.EADDRINUSE))
	}
	_, err := tryPort(f)
	if err != nil {
		return portError(id, f, err)
	}
	return nil
}

// ownerOf finds the machine that has a port. One on all addresses is the same
// port as one on any.
func (t *portTable) ownerOf(p hostPort) (types.UID, bool) {
	for q, owner := range t.owners {
		if q.protocol == p.protocol && q.number == p.number && (q.address == p.address || unspecified(q.address) || unspecified(p.address)) {
			return owner, true
		}
	}
	return "", false
}

func unspecified(address string) bool {
	ip := net.ParseIP(address)
	return ip != nil && ip.IsUnspecified()
}

// attempts to find a port that nobody has: the kernel offers one of thousands
// each time.
const attempts = 50

// choose gives a forward a port that is free.
func (t *portTable) choose(id types.UID, f v1.PortForward, next map[hostPort]bool) (v1.PortForward, error) {
	for range attempts {
		port, err := tryPort(f)
		if err != nil {
			return f, portError(id, f, err)
		}
		g := f
		g.HostPort = port
		if _, taken := t.ownerOf(portOf(g)); !taken && !next[portOf(g)] {
			return g, nil
		}
	}
	return f, portError(id, f, syscall.EADDRINUSE)
}

// tryPort opens a port for a moment and returns its number. A port that was
// closed a while ago may be opened anew, as VirtualBox does.
func tryPort(f v1.PortForward) (int32, error) {
	at := net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort)))
	if f.Protocol == v1.ProtocolUDP {
		c, err := net.ListenPacket("udp", at)
		if err != nil {
			return 0, err
		}
		defer func() { _ = c.Close() }()
		return int32(c.LocalAddr().(*net.UDPAddr).Port), nil
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return int32(l.Addr().(*net.TCPAddr).Port), nil
}

// checkOpenable makes sure that a machine that is off can open its ports.
func checkOpenable(id types.UID, forwards []v1.PortForward) error {
	for _, f := range forwards {
		if _, err := tryPort(f); err != nil {
			return portError(id, f, err)
		}
	}
	return nil
}

// unopened returns the first forward on whose port nobody listens.
func unopened(forwards []v1.PortForward) (v1.PortForward, bool) {
	for _, f := range forwards {
		if _, err := tryPort(f); err == nil {
			return f, true
		}
	}
	return v1.PortForward{}, false
}

func portError(id types.UID, f v1.PortForward, err error) error {
	object := machineObject(id)
	what := fmt.Sprintf("port forward %q: %s port %d of %s", f.Name, f.Protocol, f.HostPort, f.HostAddress)
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && f.HostPort == 0:
		return providers.Errorf(providers.ErrCapacity, object, "port forward %q: no %s port of %s is free", f.Name, f.Protocol, f.HostAddress)
	case errors.Is(err, syscall.EADDRINUSE):
		return providers.Errorf(providers.ErrBusy, object, "%s is taken: free it, or let hostPort be 0 to get a free one", what)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return providers.Errorf(providers.ErrInvalid, object, "%s: the host does not have that address", what)
	case errors.Is(err, syscall.EACCES):
		return providers.Errorf(providers.ErrInvalid, object, "%s: sandboxd may not listen on ports below 1024 without root", what)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS):
		return providers.Errorf(providers.ErrCapacity, object, "%s: %w", what, err)
	default:
		return providers.Errorf(providers.ErrInvalid, object, "%s cannot be opened: %w", what, err)
	}
}
