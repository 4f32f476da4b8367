package fake

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Host ports that are chosen for those who ask for a free one.
const (
	firstPort = 30000
	lastPort  = 60999
)

// portTable knows who holds which port of the host.
type portTable struct {
	holders map[portKey][]holder
	next    int32
}

type portKey struct {
	protocol v1.Protocol
	port     int32
}

// holder is a machine's forward, or another program of the host.
type holder struct {
	address netip.Addr
	machine types.UID // empty for another program
	name    string
}

func (h holder) String() string {
	if h.machine == "" {
		return "another program"
	}
	return "machine " + string(h.machine)
}

func newPortTable() portTable {
	return portTable{holders: map[portKey][]holder{}, next: firstPort}
}

// conflict returns who holds a port on an address besides a machine, if
// somebody does.
func (t *portTable) conflict(k portKey, address netip.Addr, self types.UID) (holder, bool) {
	for _, h := range t.holders[k] {
		if overlap(h.address, address) && (h.machine == "" || h.machine != self) {
			return h, true
		}
	}
	return holder{}, false
}

// resolve finds the host ports of a machine's forwards and holds them in place
// of those that it held. A forward that asks for any port keeps the one it had,
// unless another one of the machine asks for just that. On failure nothing is
// changed.
func (t *portTable) resolve(id types.UID, want, had []v1.PortForward) ([]v1.PortForward, error) {
	r := resolution{table: t, id: id, had: had, mine: map[portKey][]netip.Addr{}}
	resolved := make([]v1.PortForward, len(want))
	for i, f := range want {
		f.Protocol = cmp.Or(f.Protocol, v1.ProtocolTCP)
		f.HostAddress = cmp.Or(f.HostAddress, "127.0.0.1")
		resolved[i] = f
	}
	for _, place := range []func(*v1.PortForward) error{r.asked, r.kept, r.chosen} {
		for i := range resolved {
			if err := place(&resolved[i]); err != nil {
				return nil, err
			}
		}
	}
	t.release(id)
	for _, f := range resolved {
		k := portKey{f.Protocol, f.HostPort}
		t.holders[k] = append(t.holders[k], holder{netip.MustParseAddr(f.HostAddress), id, f.Name})
	}
	return resolved, nil
}

// resolution is one run of resolve.
type resolution struct {
	table *portTable
	id    types.UID
	had   []v1.PortForward
	mine  map[portKey][]netip.Addr
}

// asked takes the port that a forward asks for.
func (r *resolution) asked(f *v1.PortForward) error {
	if f.HostPort == 0 {
		return nil
	}
	return r.take(f, f.HostPort)
}

// kept takes the port that a forward had.
func (r *resolution) kept(f *v1.PortForward) error {
	if f.HostPort != 0 {
		return nil
	}
	for _, h := range r.had {
		if h.Name == f.Name && h.Protocol == f.Protocol && h.HostAddress == f.HostAddress {
			_ = r.take(f, h.HostPort) // another forward asks for just that: choose one
		}
	}
	return nil
}

// chosen takes the next free port.
func (r *resolution) chosen(f *v1.PortForward) error {
	if f.HostPort != 0 {
		return nil
	}
	if _, ok := r.table.free(func(port int32) bool { return r.take(f, port) == nil }); !ok {
		return providers.Errorf(providers.ErrCapacity, machineObject(r.id),
			"forward %q: no host port from %d to %d is free", f.Name, firstPort, lastPort)
	}
	return nil
}

// take gives a forward a port, unless it is taken.
func (r *resolution) take(f *v1.PortForward, port int32) error {
	address, err := netip.ParseAddr(f.HostAddress)
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, machineObject(r.id),
			"forward %q: host address %q is no IP address", f.Name, f.HostAddress)
	}
	k := portKey{f.Protocol, port}
	if h, taken := r.table.conflict(k, address, r.id); taken {
		return providers.Errorf(providers.ErrBusy, machineObject(r.id),
			"forward %q: host port %d is taken by %s", f.Name, port, h)
	}
	if slices.ContainsFunc(r.mine[k], func(a netip.Addr) bool { return overlap(a, address) }) {
		return providers.Errorf(providers.ErrInvalid, machineObject(r.id),
			"forward %q: host port %d is named twice", f.Name, port)
	}
	r.mine[k] = append(r.mine[k], address)
	f.HostPort = port
	return nil
}

// overlap tells whether two addresses cannot be listened on at the same time.
func overlap(a, b netip.Addr) bool {
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// free returns the next port that is usable.
func (t *portTable) free(usable func(int32) bool) (int32, bool) {
	for range lastPort - firstPort + 1 {
		port := t.next
		if t.next++; t.next > lastPort {
			t.next = firstPort
		}
		if usable(port) {
			return port, true
		}
	}
	return 0, false
}

// occupy lets another program take a free TCP port.
func (t *portTable) occupy() (int32, error) {
	address := netip.MustParseAddr("127.0.0.1")
	port, ok := t.free(func(port int32) bool {
		_, taken := t.conflict(portKey{v1.ProtocolTCP, port}, address, "")
		return !taken
	})
	if !ok {
		return 0, fmt.Errorf("no port of the simulated host from %d to %d is free", firstPort, lastPort)
	}
	k := portKey{v1.ProtocolTCP, port}
	t.holders[k] = append(t.holders[k], holder{address: address})
	return port, nil
}

// vacate makes another program give up a port.
func (t *portTable) vacate(port int32) {
	k := portKey{v1.ProtocolTCP, port}
	t.drop(k, func(h holder) bool { return h.machine == "" })
}

func (t *portTable) drop(k portKey, gone func(holder) bool) {
	kept := slices.DeleteFunc(t.holders[k], gone)
	if len(kept) == 0 {
		delete(t.holders, k)
	} else {
		t.holders[k] = kept
	}
}

// release gives up every port that a machine holds.
func (t *portTable) release(id types.UID) {
	for k := range t.holders {
		t.drop(k, func(h holder) bool { return h.machine == id })
	}
}

// list describes the ports that machines hold.
func (t *portTable) list() []string {
	var all []string
	for k, holders := range t.holders {
		for _, h := range holders {
			if h.machine != "" {
				all = append(all, fmt.Sprintf("%s/%s of %s", k.protocol,
					netip.AddrPortFrom(h.address, uint16(k.port)), h))
			}
		}
	}
	return all
}

// find returns the machine and the forward that listen on a host port.
func (t *portTable) find(protocol v1.Protocol, host, port string) (holder, bool) {
	address, err := netip.ParseAddr(host)
	if err != nil {
		return holder{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return holder{}, false
	}
	for _, h := range t.holders[portKey{protocol, int32(n)}] {
		if h.address == address || h.address.IsUnspecified() {
			return h, true
		}
	}
	return holder{}, false
}
