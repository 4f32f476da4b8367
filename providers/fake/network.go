package fake

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// network is a network of the host that machines are connected to.
type network struct {
	instance providers.Instance
	mode     v1.NetworkMode
	// leases holds an address for every machine that is connected.
	leases map[types.UID]int
}

// The subnets that leases come from. All networks of a mode share one, because
// nothing routes between them.
var subnets = map[v1.NetworkMode]netip.Prefix{
	v1.NetworkNAT:      netip.MustParsePrefix("10.96.0.0/16"),
	v1.NetworkHostOnly: netip.MustParsePrefix("10.97.0.0/16"),
}

// networkName is empty for machines that need none of ours.
func networkName(instance providers.Instance, s providers.MachineSpec) string {
	name := s.Network.Name
	if name == "" {
		name = "default"
	}
	switch s.Network.Mode {
	case v1.NetworkNAT:
		return fmt.Sprintf("%s/nat", instance)
	case v1.NetworkIntnet, v1.NetworkHostOnly:
		return fmt.Sprintf("%s/%s/%s/%s", instance, s.Network.Mode, s.Namespace, name)
	}
	return ""
}

// joinNetwork connects a machine to the network of its spec, made if need be. It
// needs the lock.
func (p *Provider) joinNetwork(s providers.MachineSpec) error {
	name := networkName(p.instance, s)
	if name == "" {
		return nil
	}
	n, ok := p.w.networks[name]
	if !ok {
		n = &network{instance: p.instance, mode: s.Network.Mode, leases: map[types.UID]int{}}
		p.w.networks[name] = n
	}
	if _, ok := n.leases[s.ID]; ok {
		return nil
	}
	free, ok := n.freeAddress()
	if !ok {
		return providers.Errorf(providers.ErrCapacity, "network "+name,
			"no address is free: all %d are leased", len(n.leases))
	}
	n.leases[s.ID] = free
	return nil
}

// The first and the last host number that is leased.
const (
	firstLease = 2
	lastLease  = 65000
)

func (n *network) freeAddress() (int, bool) {
	taken := make(map[int]bool, len(n.leases))
	for _, a := range n.leases {
		taken[a] = true
	}
	for a := firstLease; a <= lastLease; a++ {
		if !taken[a] {
			return a, true
		}
	}
	return 0, false
}

// leaveNetworks disconnects a machine from every network of the instance but
// one, and removes those that nothing uses any more. It tells whether there
// was any. It needs the lock.
func (p *Provider) leaveNetworks(id types.UID, except string) (found bool) {
	for name, n := range p.w.networks {
		if _, ok := n.leases[id]; !ok || name == except || n.instance != p.instance {
			continue
		}
		found = true
		delete(n.leases, id)
		if len(n.leases) == 0 {
			delete(p.w.networks, name)
		}
	}
	return found
}

// lease returns a machine's address, if its network gives any. It needs the
// lock.
func (w *World) lease(m *machine) (netip.Addr, bool) {
	subnet, ok := subnets[m.runningSpec.Network.Mode]
	if !ok {
		return netip.Addr{}, false
	}
	n := w.networks[networkName(providers.Instance(m.tag), m.runningSpec)]
	if n == nil {
		return netip.Addr{}, false
	}
	number, ok := n.leases[m.id]
	if !ok {
		return netip.Addr{}, false
	}
	b := subnet.Addr().As4()
	b[2], b[3] = byte(number>>8), byte(number)
	return netip.AddrFrom4(b), true
}

// connected tells whether a machine's network is there, if it needs one. It
// needs the lock.
func (w *World) connected(m *machine) bool {
	name := networkName(providers.Instance(m.tag), m.defined())
	if name == "" {
		return true
	}
	n := w.networks[name]
	if n == nil {
		return false
	}
	_, ok := n.leases[m.id]
	return ok
}

// observe looks at a machine's connections. It needs the lock.
func (w *World) observe(m *machine) providers.NetworkObservation {
	if m.power != providers.PowerRunning && m.power != providers.PowerPaused &&
		m.power != providers.PowerStopping {
		return providers.NetworkObservation{Detail: "the machine is not on: there is nothing to look at"}
	}
	if m.fault != "" {
		return providers.NetworkObservation{Detail: m.fault}
	}
	if m.moved != "" {
		return providers.NetworkObservation{Detail: fmt.Sprintf("its network card is connected to %q, which is not its network", m.moved)}
	}
	if !w.connected(m) {
		return providers.NetworkObservation{Detail: "the network that it is to be connected to is gone"}
	}
	detail := map[v1.NetworkMode]string{
		v1.NetworkNone:     "the machine has no network interface",
		v1.NetworkIntnet:   "connected to an internal network without host addresses",
		v1.NetworkHostOnly: "connected to a network that forwards nothing; only the host reaches it",
		v1.NetworkNAT:      "connected to a network that forwards outwards only",
		v1.NetworkBridged:  "a member of the host's network on bridge " + m.runningSpec.Network.Bridge,
	}[m.runningSpec.Network.Mode]
	return providers.NetworkObservation{Isolated: true, Detail: detail}
}
