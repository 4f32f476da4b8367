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
		same := h.address == address || h.address.IsUnspecified() || address.IsUnspecified()
		if same && (h.machine == "" || h.machine != self) {
			return h, true
		}
	}
	return holder{}, false
}

// resolve finds the host ports of a machine's forwards and holds them in place
// of those that it held. A forward that asks for any port keeps the one it had.
// On failure nothing is changed.
func (t *portTable) resolve(id types.UID, want, had []v1.PortForward) ([]v1.PortForward, error) {
	resolved := make([]v1.PortForward, 0, len(want))
	mine := map[portKey][]netip.Addr{}
	for _, f := range want {
		f.Protocol = cmp.Or(f.Protocol, v1.ProtocolTCP)
		f.HostAddress = cmp.Or(f.HostAddress, "127.0.0.1")
		address, err := netip.ParseAddr(f.HostAddress)
		if err != nil {
			return nil, providers.Errorf(providers.ErrInvalid, machineObject(id),
				"forward %q: host address %q is no IP address", f.Name, f.HostAddress)
		}
		usable := func(port int32) error {
			k := portKey{f.Protocol, port}
			if h, taken := t.conflict(k, address, id); taken {
				return providers.Errorf(providers.ErrBusy, machineObject(id),
					"forward %q: host port %d is taken by %s", f.Name, port, h)
			}
			if slices.Contains(mine[k], address) {
				return providers.Errorf(providers.ErrInvalid, machineObject(id),
					"forward %q: host port %d is named twice", f.Name, port)
			}
			return nil
		}
		if f.HostPort != 0 {
			err = usable(f.HostPort)
		} else {
			f.HostPort, err = t.choose(f, had, usable)
		}
		if err != nil {
			return nil, err
		}
		k := portKey{f.Protocol, f.HostPort}
		mine[k] = append(mine[k], address)
		resolved = append(resolved, f)
	}
	t.release(id)
	for _, f := range resolved {
		k := portKey{f.Protocol, f.HostPort}
		t.holders[k] = append(t.holders[k], holder{netip.MustParseAddr(f.HostAddress), id, f.Name})
	}
	return resolved, nil
}

// choose returns the port that the forward had, or the next free one.
func (t *portTable) choose(f v1.PortForward, had []v1.PortForward, usable func(int32) error) (int32, error) {
	for _, h := range had {
		if h.Name == f.Name && h.Protocol == f.Protocol && h.HostAddress == f.HostAddress &&
			usable(h.HostPort) == nil {
			return h.HostPort, nil
		}
	}
	if port, ok := t.free(func(port int32) bool { return usable(port) == nil }); ok {
		return port, nil
	}
	return 0, providers.Errorf(providers.ErrCapacity, "forward "+f.Name,
		"no host port from %d to %d is free", firstPort, lastPort)
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
