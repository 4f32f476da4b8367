package virtualbox

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
)

// portTable says which machine has which host port. VirtualBox itself opens a
// machine's ports, when it starts, and says nothing if it cannot; so a port is
// tried before it is given away and again before each start. Its methods may be
// called from many goroutines.
type portTable struct {
	mu     sync.Mutex
	owners map[hostport.Port]types.UID
}

func newPortTable() *portTable { return &portTable{owners: map[hostport.Port]types.UID{}} }

// claim notes the ports that a machine has, without asking whether it can.
func (t *portTable) claim(id types.UID, forwards []v1.PortForward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range forwards {
		t.owners[hostport.Of(f)] = id
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
// real host ports. have are those it had before, and any more whose ports its
// process has open: a forward that did not change keeps its port, also one that was
// chosen, and what the machine has open itself is not in its way. If a port cannot
// be had, nothing changes.
func (t *portTable) reserve(id types.UID, want, have []v1.PortForward) ([]v1.PortForward, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	had := map[hostport.Port]bool{}
	for _, h := range have {
		had[hostport.Of(h)] = true
	}
	next := map[hostport.Port]types.UID{}
	resolved := make([]v1.PortForward, len(want))
	for i, f := range want { // those that are given, before any is chosen
		f = settle(f, have)
		resolved[i] = f
		if f.HostPort == 0 {
			continue
		}
		next[hostport.Of(f)] = id
		if owner, taken := ownerOf(t.owners, hostport.Of(f)); had[hostport.Of(f)] && (!taken || owner == id) {
			continue
		}
		if err := t.free(id, f); err != nil {
			return nil, err
		}
	}
	for i, f := range resolved {
		if f.HostPort != 0 {
			continue
		}
		f, err := t.choose(id, f, next)
		if err != nil {
			return nil, err
		}
		resolved[i], next[hostport.Of(f)] = f, id
	}
	t.drop(id)
	maps.Copy(t.owners, next)
	return resolved, nil
}

// settle fills in defaults, and the port that a forward had before if it asks
// for any.
func settle(f v1.PortForward, have []v1.PortForward) v1.PortForward {
	if f.Protocol == "" {
		f.Protocol = v1.ProtocolTCP
	}
	if f.HostAddress == "" {
		f.HostAddress = hostport.DefaultAddress
	}
	if a, err := netip.ParseAddr(f.HostAddress); err == nil {
		f.HostAddress = a.Unmap().String() // one address, one spelling
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
	if owner, taken := ownerOf(t.owners, hostport.Of(f)); taken && owner != id {
		return hostport.Error(machineObject(id), f, fmt.Errorf("machine %s has it: %w", owner, syscall.EADDRINUSE))
	}
	_, err := tryPort(f)
	if err != nil {
		return hostport.Error(machineObject(id), f, err)
	}
	return nil
}

// ownerOf finds the machine that has a port.
func ownerOf(owners map[hostport.Port]types.UID, p hostport.Port) (types.UID, bool) {
	for q, owner := range owners {
		if p.Conflicts(q) {
			return owner, true
		}
	}
	return "", false
}

// attempts to find a port that nobody has: the kernel offers one of thousands
// each time.
const attempts = 50

// choose gives a forward a port that is free.
func (t *portTable) choose(id types.UID, f v1.PortForward, next map[hostport.Port]types.UID) (v1.PortForward, error) {
	for range attempts {
		port, err := tryPort(f)
		if err != nil {
			return f, hostport.Error(machineObject(id), f, err)
		}
		g := f
		g.HostPort = port
		_, taken := ownerOf(t.owners, hostport.Of(g))
		if _, wanted := ownerOf(next, hostport.Of(g)); !taken && !wanted {
			return g, nil
		}
	}
	return f, hostport.Error(machineObject(id), f, syscall.EADDRINUSE)
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
			return hostport.Error(machineObject(id), f, err)
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

// opensWithin is how long a running machine's process may take to open a port that
// it is told of. It does so in a moment, or never.
const opensWithin = 2 * time.Second

// awaitOpen waits until a running machine's process has opened its ports.
func awaitOpen(ctx context.Context, id types.UID, forwards []v1.PortForward) error {
	for begun := time.Now(); ; {
		f, closed := unopened(forwards)
		switch {
		case !closed:
			return nil
		case time.Since(begun) > opensWithin:
			return hostport.Error(machineObject(id), f, errPortLost)
		}
		if err := pause(ctx, offPause); err != nil {
			return err
		}
	}
}

// headOfLog is how much of a machine's log, in bytes, is searched for what it said
// of its ports when it began.
const headOfLog = 1 << 20

// notForwarded is what a machine's process logs of a port that it could not open.
// There is no other word of it. What a guest has logged begins otherwise.
var notForwarded = regexp.MustCompile(`(?m)^[\d:.]+ VMSetError: NAT#0: [^\n]{0,80}\bfailed to set up redirection of (\d{1,5}) to (\d{1,5})\b`)

// created is what it logs once it has all its devices, however long that took. What
// it says of ports after that is of later changes.
var created = regexp.MustCompile(`(?m)^[\d:.]+ Changing the VM state from 'CREATING' to 'CREATED'`)

// lostForward returns the first forward of a machine that was just started whose
// port its process has not opened: nobody listens there, or somebody else does.
func (p *Provider) lostForward(m machine) (v1.PortForward, bool) {
	forwards := m.record.Network.PortForwards
	if f, closed := unopened(forwards); closed || len(forwards) == 0 {
		return f, closed
	}
	head, err := readHead(p.logOf(m.record), headOfLog)
	if err != nil {
		return v1.PortForward{}, false
	}
	return refusedForward(head, forwards)
}

func refusedForward(log []byte, forwards []v1.PortForward) (v1.PortForward, bool) {
	if end := created.FindIndex(log); end != nil {
		log = log[:end[0]]
	}
	for _, m := range notForwarded.FindAllSubmatch(log, -1) {
		for _, f := range forwards {
			if strconv.Itoa(int(f.HostPort)) == string(m[1]) && strconv.Itoa(int(f.GuestPort)) == string(m[2]) {
				return f, true
			}
		}
	}
	return v1.PortForward{}, false
}

// readHead reads so many bytes at the beginning of a file, or all that there are.
func readHead(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, n))
}
