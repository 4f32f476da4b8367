package hostnet

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is a network interface of the host.
type Link struct {
	Name  string
	Index int
	// Kind is the kernel's word, such as bridge, tun or macvtap; empty for
	// hardware.
	Kind string
	// Master is the index of the bridge that it is a port of, or 0.
	Master int
	// Isolated: a bridge port that reaches no other isolated port.
	Isolated bool
}

// View is the links and addresses at one moment.
type View struct {
	Links     map[string]Link
	Addresses map[int][]netip.Prefix // by the link's index
}

// Look takes a View. The kernel tells it in parts, between which links come and go:
// what is gone at the second look is no port of anything, and neither is what came
// only then.
func Look() (View, error) {
	v := View{Links: map[string]Link{}, Addresses: map[int][]netip.Prefix{}}
	links, err := netlink.LinkList()
	if err != nil {
		return v, err
	}
	ports, err := bridgePorts()
	if err != nil {
		return v, err
	}
	for _, l := range links {
		v.add(l, ports)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return v, err
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IP, a.Mask); ok {
			v.Addresses[a.LinkIndex] = append(v.Addresses[a.LinkIndex], p)
		}
	}
	return v, nil
}

// add adds a link, with what the ports of bridges were seen to be after it.
func (v View) add(l netlink.Link, ports map[int]bool) {
	a := l.Attrs()
	link := Link{Name: a.Name, Index: a.Index, Kind: l.Type()}
	if link.Kind == "device" {
		link.Kind = ""
	}
	if isolated, port := ports[a.Index]; port {
		link.Master, link.Isolated = a.MasterIndex, isolated
	}
	v.Links[a.Name] = link
}

// Ports lists the ports of a bridge.
func (v View) Ports(bridge Link) []Link {
	var ports []Link
	for _, l := range v.Links {
		if l.Master == bridge.Index {
			ports = append(ports, l)
		}
	}
	return ports
}

// bridgePorts tells of each bridge port, by its index, whether it is isolated. It asks
// for all in one go, because asking for one makes the kernel list all.
func bridgePorts() (map[int]bool, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, err
	}
	ports := map[int]bool{}
	for _, m := range msgs {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if a.Attr.Type != unix.IFLA_PROTINFO|unix.NLA_F_NESTED {
				continue
			}
			port, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return nil, err
			}
			index := int(int32(binary.NativeEndian.Uint32(m[4:8])))
			ports[index] = ports[index]
			for _, p := range port {
				if p.Attr.Type == nl.IFLA_BRPORT_ISOLATED && len(p.Value) > 0 && p.Value[0] == 1 {
					ports[index] = true
				}
			}
		}
	}
	return ports, nil
}

// UsedSubnets lists what the host's addresses and routes take up, default
// routes excepted.
func UsedSubnets() ([]netip.Prefix, error) {
	v, err := Look()
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	for _, list := range v.Addresses {
		for _, p := range list {
			used = append(used, p.Masked())
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if p, ok := prefixOf(r.Dst.IP, r.Dst.Mask); ok && p.Bits() > 0 {
			used = append(used, p.Masked())
		}
	}
	return used, nil
}

// Neighbours lists the IP addresses that the host has seen a MAC address use.
func Neighbours(mac string) ([]netip.Addr, error) {
	list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, n := range list {
		if n.HardwareAddr.String() != mac || n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE|netlink.NUD_NOARP) != 0 {
			continue
		}
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out, nil
}
