//go:build linux

package kvm

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"libvirt.org/go/libvirtxml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/firewall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

const (
	judged  = types.UID("6253d238-8ffa-4c3a-ad45-3cb04de2eed4")
	address = "10.208.0.7"
)

// good is a machine that is isolated, for each mode.
func good(mode v1.NetworkMode) *sight {
	const instance = providers.Instance("instance-1")
	network := v1.Network{Mode: mode}
	if mode == v1.NetworkBridged {
		network.Bridge = "br0"
	}
	record := domain.Record{Instance: instance, Owner: judged, Namespace: "team", Name: "web", Network: network}
	s := &sight{live: domain.Live{Record: record}, id: machine{id: judged, record: record}}
	s.host = hostnet.View{Links: map[string]hostnet.Link{}, Addresses: map[int][]netip.Prefix{}}
	n, managed := identity.NetworkOf(instance, "team", network)
	i := domain.Interface{MAC: providers.MACAddress(judged, 0), Tap: identity.Tap(instance, mode, judged)}
	switch {
	case managed:
		s.net = n
		i.Kind, i.Network, i.Bridge = "network", n.LibvirtName(), n.Bridge()
		isolated := mode != v1.NetworkIntnet
		s.host.Links[n.Bridge()] = hostnet.Link{Name: n.Bridge(), Index: 10, Kind: "bridge"}
		s.host.Links[i.Tap] = hostnet.Link{Name: i.Tap, Index: 11, Kind: "tuntap", Master: 10, Isolated: isolated}
		neighbour := identity.Tap(instance, mode, "other")
		s.host.Links[neighbour] = hostnet.Link{Name: neighbour, Index: 12, Kind: "tuntap", Master: 10, Isolated: isolated}
		s.xml = networkXML(n, netip.MustParsePrefix("10.208.0.0/24"))
		if mode != v1.NetworkIntnet {
			s.host.Addresses[10] = []netip.Prefix{netip.MustParsePrefix("10.208.0.1/24")}
			s.xml.IPs[0].DHCP.Hosts = []libvirtxml.NetworkDHCPHost{{MAC: i.MAC, IP: address}}
		}
		g, _ := guestOf(*s)
		s.rules = firewall.Permitting(g)
	case mode == v1.NetworkBridged:
		i.Kind, i.Bridge = "bridge", "br0"
		s.host.Links["br0"] = hostnet.Link{Name: "br0", Index: 20, Kind: "bridge"}
		s.host.Links[i.Tap] = hostnet.Link{Name: i.Tap, Index: 21, Kind: "tuntap", Master: 20}
	default:
		return s
	}
	s.live.Interfaces = []domain.Interface{i}
	return s
}

func allModes() []v1.NetworkMode {
	return []v1.NetworkMode{v1.NetworkNone, v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT, v1.NetworkBridged}
}

func TestWhatIsAsItOughtToBeIsIsolated(t *testing.T) {
	for _, mode := range allModes() {
		if detail, ok := judge(*good(mode)); !ok || detail == "" {
			t.Errorf("%s: %v, %q", mode, ok, detail)
		}
	}
}

// TestEveryFlawIsSeen: each flaw, alone, must make every mode that it applies
// to not isolated. Those of the neighbours are not the machine's own, for which it is
// powered off at once.
func TestEveryFlawIsSeen(t *testing.T) {
	tap := func(s *sight, edit func(*hostnet.Link)) {
		l := s.host.Links[s.live.Interfaces[0].Tap]
		edit(&l)
		s.host.Links[l.Name] = l
	}
	const any, managed, withIP, intnet, nat, hostonly, bridged, connected, none = "any", "managed", "withIP", "intnet", "nat", "hostonly", "bridged", "connected", "none"
	modes := map[string][]v1.NetworkMode{
		any: allModes(), none: {v1.NetworkNone}, intnet: {v1.NetworkIntnet}, nat: {v1.NetworkNAT}, hostonly: {v1.NetworkHostOnly}, bridged: {v1.NetworkBridged},
		managed: {v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT}, withIP: {v1.NetworkHostOnly, v1.NetworkNAT},
		connected: {v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT, v1.NetworkBridged},
	}
	neighbours := []string{"another's open port", "a stranger on the bridge", "a stranger's tap on the bridge", "a stranger under our name"}
	for name, flaw := range map[string]struct {
		of   string
		make func(*sight)
	}{
		"a device of the host":      {any, func(s *sight) { s.live.Extra = []string{"a device of the host"} }},
		"an interface too many":     {any, func(s *sight) { s.live.Interfaces = append(s.live.Interfaces, domain.Interface{Kind: "network"}) }},
		"no interface":              {connected, func(s *sight) { s.live.Interfaces = nil }},
		"another MAC address":       {connected, func(s *sight) { s.live.Interfaces[0].MAC = "52:54:00:00:00:01" }},
		"another kind of interface": {connected, func(s *sight) { s.live.Interfaces[0].Kind = "other" }},
		"another network":           {managed, func(s *sight) { s.live.Interfaces[0].Network = "default" }},
		"another tap":               {managed, func(s *sight) { s.live.Interfaces[0].Tap = "vnet0" }},
		"no tap":                    {managed, func(s *sight) { delete(s.host.Links, s.live.Interfaces[0].Tap) }},
		"no bridge":                 {managed, func(s *sight) { delete(s.host.Links, s.net.Bridge()) }},
		"something else as bridge": {managed, func(s *sight) {
			l := s.host.Links[s.net.Bridge()]
			l.Kind = "dummy"
			s.host.Links[l.Name] = l
		}},
		"a tap on another bridge": {managed, func(s *sight) { tap(s, func(l *hostnet.Link) { l.Master = 99 }) }},
		"a tap on no bridge":      {managed, func(s *sight) { tap(s, func(l *hostnet.Link) { l.Master = 0 }) }},
		"an open port":            {withIP, func(s *sight) { tap(s, func(l *hostnet.Link) { l.Isolated = false }) }},
		"another's open port": {withIP, func(s *sight) {
			for name, l := range s.host.Links {
				if name != s.live.Interfaces[0].Tap && l.Master != 0 {
					l.Isolated = false
					s.host.Links[name] = l
				}
			}
		}},
		"a stranger on the bridge": {managed, func(s *sight) {
			s.host.Links["eth1"] = hostnet.Link{Name: "eth1", Index: 50, Master: 10, Isolated: true}
		}},
		"a stranger's tap on the bridge": {managed, func(s *sight) {
			s.host.Links["vnet7"] = hostnet.Link{Name: "vnet7", Index: 50, Master: 10, Kind: "tuntap", Isolated: true}
		}},
		"a stranger under our name": {managed, func(s *sight) {
			n := identity.Tap("instance-1", s.net.Mode, "x")
			s.host.Links[n] = hostnet.Link{Name: n, Index: 50, Master: 10, Kind: "veth", Isolated: true}
		}},
		"no libvirt network":                {managed, func(s *sight) { s.absent = true }},
		"a network of another's":            {managed, func(s *sight) { s.xml.UUID = "00000000-0000-0000-0000-000000000000" }},
		"a network on another bridge":       {managed, func(s *sight) { s.xml.Bridge.Name = "virbr0" }},
		"a network without a bridge":        {managed, func(s *sight) { s.xml.Bridge = nil }},
		"a network with routes":             {managed, func(s *sight) { s.xml.Routes = []libvirtxml.NetworkRoute{{}} }},
		"forwarding by route":               {managed, func(s *sight) { s.xml.Forward = &libvirtxml.NetworkForward{Mode: "route"} }},
		"forwarding by nat":                 {intnet, func(s *sight) { s.xml.Forward = &libvirtxml.NetworkForward{Mode: "nat"} }},
		"hostonly that forwards":            {hostonly, func(s *sight) { s.xml.Forward = &libvirtxml.NetworkForward{Mode: "nat"} }},
		"nat that does not":                 {nat, func(s *sight) { s.xml.Forward = nil }},
		"an internal network with a subnet": {intnet, func(s *sight) { s.xml.IPs = []libvirtxml.NetworkIP{{Address: "10.0.0.1", Prefix: 24}} }},
		"two subnets":                       {withIP, func(s *sight) { s.xml.IPs = append(s.xml.IPs, s.xml.IPs[0]) }},
		"no subnet":                         {withIP, func(s *sight) { s.xml.IPs = nil }},
		"a subnet that cannot be read":      {withIP, func(s *sight) { s.xml.IPs[0].Address = "x" }},
		"an address of the host": {managed, func(s *sight) {
			s.host.Addresses[10] = append(s.host.Addresses[10], netip.MustParsePrefix("192.0.2.1/24"))
		}},
		"an IPv6 address of the host": {managed, func(s *sight) {
			s.host.Addresses[10] = append(s.host.Addresses[10], netip.MustParsePrefix("fe80::1/64"))
		}},
		"no address of the host":              {withIP, func(s *sight) { s.host.Addresses[10] = nil }},
		"another length of the host's subnet": {withIP, func(s *sight) { s.host.Addresses[10] = []netip.Prefix{netip.MustParsePrefix("10.208.0.1/16")} }},
		"a setting of the bridge":             {managed, func(s *sight) { s.flaw = "it answers for all" }},
		"rules that are not in force":         {managed, func(s *sight) { s.rulesErr = firewall.ErrNotInForce }},
		"a guest unknown to the rules":        {managed, func(s *sight) { s.rules = firewall.State{} }},
		"no reserved address":                 {withIP, func(s *sight) { s.xml.IPs[0].DHCP.Hosts = nil }},
		"another reserved address":            {withIP, func(s *sight) { s.xml.IPs[0].DHCP.Hosts[0].IP = "10.208.0.8" }},
		"another bridge of the host":          {bridged, func(s *sight) { s.live.Interfaces[0].Bridge = "br1" }},
		"a bridge that is gone":               {bridged, func(s *sight) { delete(s.host.Links, "br0") }},
		"a tap that is not on it":             {bridged, func(s *sight) { tap(s, func(l *hostnet.Link) { l.Master = 0 }) }},
		"an interface where none is wanted":   {none, func(s *sight) { s.live.Interfaces = []domain.Interface{{Kind: "user"}} }},
	} {
		for _, mode := range modes[flaw.of] {
			s := good(mode)
			flaw.make(s)
			detail, ok := judge(*s)
			if ok || detail == "" || strings.Contains(detail, "\n") {
				t.Errorf("%s on %s: isolated %v, %q", name, mode, ok, detail)
			}
			if _, own := judgeOwn(*s); own != slices.Contains(neighbours, name) {
				t.Errorf("%s on %s: it is told as the neighbours' fault: %v", name, mode, own)
			}
		}
	}
}

func TestMacvtapIsJudgedByItsLink(t *testing.T) {
	s := good(v1.NetworkBridged)
	s.live.Interfaces[0].Kind, s.live.Interfaces[0].Tap = "direct", "macvtap0"
	if detail, ok := judge(*s); !ok {
		t.Error(detail)
	}
}
