//go:build linux

package kvm

import (
	"context"
	"encoding/xml"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"
	"libvirt.org/go/libvirtxml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/kvm/internal/firewall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// Lengths of the subnets' prefixes: room for 253 machines on a hostonly
// network and for 4,093 on the nat network, which all sandboxes share.
const (
	hostonlyBits = 24
	natBits      = 20
)

// leaseMinutes is how long a DHCP lease lasts. Machines come and go; an address
// is not given to another one before its lease has ended.
const leaseMinutes = 5

// joinNetwork makes sure that the network a machine needs exists, with the
// rules in force before, and that the machine is noted as a user of it.
// Networks are transient: they live until their last user is gone or the host
// restarts, and are made again when a machine starts.
func (p *Provider) joinNetwork(ctx context.Context, id types.UID, n identity.Network) error {
	if err := p.noteNetwork(id, n, false); err != nil {
		return err
	}
	unlock, err := p.locks.Lock(ctx, "network "+n.UUID())
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.raiseFirewall(ctx, n); err != nil {
		return err
	}
	s, err := p.soundNetwork(ctx, n)
	if errors.Is(err, providers.ErrNotFound) {
		if err := p.makeNetwork(ctx, n); err != nil {
			return err
		}
		s.xml, err = p.readNetwork(ctx, n)
	}
	if err != nil {
		return err
	}
	if err := p.noteNetwork(id, n, true); err != nil {
		return err
	}
	if err := hostnet.Guard(n.Bridge()); err != nil {
		return providers.Errorf(providers.ErrUnavailable, n.String(), "its bridge cannot be set up: %w", err)
	}
	g := firewall.Guest{Mode: n.Mode, Tap: identity.Tap(n.Instance, n.Mode, id), MAC: mac(id)}
	if n.Mode != v1.NetworkIntnet {
		if g.Address, err = p.reserveAddress(ctx, n, s.xml, id); err != nil {
			return err
		}
	}
	p.view.forgetNetwork(n)
	p.steps.next()
	if err := p.fw.Permit(g); err != nil {
		return firewallError(n, err)
	}
	return nil
}

// raiseFirewall puts the rules in force. The caller is noted as a user of a
// network before, so that dropFirewall leaves them.
func (p *Provider) raiseFirewall(ctx context.Context, n identity.Network) error {
	unlock, err := p.locks.Lock(ctx, "firewall")
	if err != nil {
		return err
	}
	defer unlock()
	p.steps.next()
	if err := p.fw.Ensure(); err != nil {
		return firewallError(n, err)
	}
	return nil
}

func firewallError(n identity.Network, err error) error {
	if errors.Is(err, firewall.ErrNotPermitted) {
		return providers.Errorf(providers.ErrUnsupported, n.String(), "%w; the modes none and bridged need no such rights", err)
	}
	return providers.Errorf(providers.ErrUnavailable, n.String(), "the firewall rules that isolate it cannot be put in force: %w", err)
}

func mac(id types.UID) net.HardwareAddr {
	m, _ := net.ParseMAC(providers.MACAddress(id, 0)) // well formed by construction
	return m
}

// makeNetwork makes a network. Its subnet is chosen and taken under one lock,
// so that no two networks choose the same.
func (p *Provider) makeNetwork(ctx context.Context, n identity.Network) error {
	unlock, err := p.locks.Lock(ctx, "subnets")
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.dropBridge(n.Bridge()); err != nil { // of a network that libvirt did not finish
		return err
	}
	x, err := p.planNetwork(ctx, n)
	if err != nil {
		return err
	}
	text, err := x.Marshal()
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, n.String(), "%w", err)
	}
	err = libvirtconn.Do(ctx, p.conn.Lifecycle(), n.String(), libvirtconn.Slow, func(l *libvirt.Libvirt) error {
		_, err := l.NetworkCreateXML(text)
		return err
	})
	switch {
	case err == nil:
		providers.Logger(ctx, p.log).Info("network made", "network", n.LibvirtName(), "bridge", n.Bridge())
	case libvirtconn.Code(err) == libvirt.ErrInternalError:
		var said libvirt.Error
		errors.As(err, &said)
		return providers.Errorf(providers.ErrUnavailable, n.String(),
			"libvirt cannot make it: %s; if somebody flushed the firewall, restart libvirtd, which puts its own rules back only then", strings.TrimSpace(said.Message))
	}
	return err
}

// planNetwork decides what a network is to be.
func (p *Provider) planNetwork(ctx context.Context, n identity.Network) (libvirtxml.Network, error) {
	var subnet netip.Prefix
	if n.Mode != v1.NetworkIntnet {
		used, err := p.usedSubnets(ctx)
		if err != nil {
			return libvirtxml.Network{}, err
		}
		bits := hostonlyBits
		if n.Mode == v1.NetworkNAT {
			bits = natBits
		}
		var ok bool
		if subnet, ok = hostnet.ChooseSubnet(p.opts.SubnetPool, bits, n.UUID(), used); !ok {
			return libvirtxml.Network{}, providers.Errorf(providers.ErrCapacity, n.String(), "no /%d subnet of the pool %s is free", bits, p.opts.SubnetPool)
		}
	}
	return networkXML(n, subnet), nil
}

// networkXML renders a network.
//
// Guests of hostonly and nat networks are kept apart by isolated ports; that
// none takes another's address, the firewall sees to. dnsmasq offers leases to known machines only, does not
// ping before it offers one (which takes seconds), and tells guests nothing of
// the host's /etc/hosts or of each other's names.
func networkXML(n identity.Network, subnet netip.Prefix) libvirtxml.Network {
	x := libvirtxml.Network{
		Name: n.LibvirtName(), UUID: n.UUID(), IPv6: "no",
		Bridge: &libvirtxml.NetworkBridge{Name: n.Bridge(), STP: "off", Delay: "0"},
	}
	if n.Mode == v1.NetworkIntnet {
		return x
	}
	x.PortOptions = &libvirtxml.NetworkPortOptions{Isolated: "yes"}
	x.IPs = []libvirtxml.NetworkIP{{
		Address: hostnet.Gateway(subnet).String(), Prefix: uint(subnet.Bits()), Family: "ipv4",
		DHCP: &libvirtxml.NetworkDHCP{},
	}}
	options := []string{"no-ping", "no-hosts", "dhcp-ignore-names", "dhcp-authoritative"}
	if n.Mode == v1.NetworkNAT {
		x.Forward = &libvirtxml.NetworkForward{Mode: "nat"}
	} else {
		x.DNS = &libvirtxml.NetworkDNS{Enable: "no"}
		options = append(options, "dhcp-option=3") // no default route: nothing is reached by it
	}
	x.DnsmasqOptions = &libvirtxml.NetworkDnsmasqOptions{}
	for _, o := range options {
		x.DnsmasqOptions.Option = append(x.DnsmasqOptions.Option, libvirtxml.NetworkDnsmasqOption{Value: o})
	}
	return x
}

// usedSubnets lists what the host and libvirt's networks, also those that are
// off, take up.
func (p *Provider) usedSubnets(ctx context.Context) ([]netip.Prefix, error) {
	used, err := hostnet.UsedSubnets()
	if err != nil {
		return nil, providers.Errorf(providers.ErrUnavailable, "host network", "%w", err)
	}
	texts, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), "libvirt networks", libvirtconn.Quick, func(l *libvirt.Libvirt) ([]string, error) {
		list, _, err := l.ConnectListAllNetworks(1, 0)
		var texts []string
		for _, n := range list {
			if text, err := l.NetworkGetXMLDesc(n, 0); err == nil { // it may be gone already
				texts = append(texts, text)
			}
		}
		return texts, err
	})
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		var x libvirtxml.Network
		if x.Unmarshal(text) != nil {
			continue
		}
		for _, ip := range x.IPs {
			if s, ok := subnetOf(ip); ok {
				used = append(used, s)
			}
		}
	}
	return used, nil
}

// subnetOf reads a network's subnet, written with a prefix or a netmask.
func subnetOf(ip libvirtxml.NetworkIP) (netip.Prefix, bool) {
	a, err := netip.ParseAddr(ip.Address)
	if err != nil {
		return netip.Prefix{}, false
	}
	bits := int(ip.Prefix)
	if m := net.ParseIP(ip.Netmask).To4(); bits == 0 && m != nil {
		bits, _ = net.IPMask(m).Size()
	}
	s := netip.PrefixFrom(a, bits).Masked()
	return s, s.IsValid() && bits > 0
}

// reserveAddress gives a machine an address of its network for good, and
// returns it.
func (p *Provider) reserveAddress(ctx context.Context, n identity.Network, x libvirtxml.Network, id types.UID) (netip.Addr, error) {
	if a, ok := reservation(x, mac(id).String()); ok {
		return a, nil
	}
	if len(x.IPs) == 0 {
		return netip.Addr{}, providers.Errorf(providers.ErrUnavailable, n.String(), "it has no subnet: somebody changed it")
	}
	subnet, ok := subnetOf(x.IPs[0])
	if !ok {
		return netip.Addr{}, providers.Errorf(providers.ErrUnavailable, n.String(), "its subnet cannot be read")
	}
	used := map[netip.Addr]bool{}
	if d := x.IPs[0].DHCP; d != nil {
		for _, h := range d.Hosts {
			if a, err := netip.ParseAddr(h.IP); err == nil {
				used[a] = true
			}
		}
	}
	leases, err := p.readLeases(ctx, n)
	if err != nil {
		return netip.Addr{}, err
	}
	for m, ip := range leases { // of machines that are gone
		if a, err := netip.ParseAddr(ip); err == nil && m != mac(id).String() {
			used[a] = true
		}
	}
	addr, ok := hostnet.ChooseAddress(subnet, string(id), used)
	if !ok {
		return netip.Addr{}, providers.Errorf(providers.ErrCapacity, n.String(), "all addresses of its subnet %s are in use", subnet)
	}
	return addr, p.updateHost(ctx, n, libvirt.NetworkUpdateCommandAddLast, id, addr)
}

// reservation finds the address that is reserved for a MAC address.
func reservation(x libvirtxml.Network, mac string) (netip.Addr, bool) {
	for _, ip := range x.IPs {
		if ip.DHCP == nil {
			continue
		}
		for _, h := range ip.DHCP.Hosts {
			if strings.EqualFold(h.MAC, mac) {
				a, err := netip.ParseAddr(h.IP)
				return a, err == nil
			}
		}
	}
	return netip.Addr{}, false
}

// updateHost adds or removes a machine's DHCP reservation.
func (p *Provider) updateHost(ctx context.Context, n identity.Network, command libvirt.NetworkUpdateCommand, id types.UID, addr netip.Addr) error {
	text, err := xml.Marshal(libvirtxml.NetworkDHCPHost{
		MAC: mac(id).String(), IP: addr.String(),
		Lease: &libvirtxml.NetworkDHCPLease{Expiry: leaseMinutes, Unit: "minutes"},
	})
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, n.String(), "%w", err)
	}
	return libvirtconn.Do(ctx, p.conn.Lifecycle(), n.String(), libvirtconn.Slow, func(l *libvirt.Libvirt) error {
		return l.NetworkUpdateCompat(libvirtNetwork(n), command, libvirt.NetworkSectionIPDhcpHost, -1, string(text), libvirt.NetworkUpdateAffectLive)
	})
}

// leaveNetwork takes a machine that does not run out of a network, and removes
// the network with the last one. The note that the machine uses the network goes
// after all that is found by it: until then, this can be repeated.
func (p *Provider) leaveNetwork(ctx context.Context, id types.UID, n identity.Network) error {
	unlock, err := p.locks.Lock(ctx, "network "+n.UUID())
	if err != nil {
		return err
	}
	defer unlock()
	defer p.view.forgetNetwork(n)
	p.steps.next()
	if err := p.fw.Revoke(n.Mode, identity.Tap(n.Instance, n.Mode, id)); err != nil {
		return firewallError(n, err)
	}
	x, err := p.readNetwork(ctx, n)
	if err != nil && !errors.Is(err, providers.ErrNotFound) {
		return err
	}
	owners, err := p.networkOwners()
	if err != nil {
		return p.fileError(n.String(), err)
	}
	// Whoever joins from here on waits for the lock, and makes the network anew.
	last := !slices.ContainsFunc(owners[n.UUID()], func(o types.UID) bool { return o != id })
	if last {
		err = p.destroyNetwork(ctx, n)
	} else if a, ok := reservation(x, mac(id).String()); ok {
		err = p.updateHost(ctx, n, libvirt.NetworkUpdateCommandDelete, id, a)
	}
	if err != nil {
		return err
	}
	if slices.Contains(owners[n.UUID()], id) {
		p.steps.next()
		if err := os.Remove(p.data.networkRef(id)); err != nil {
			return p.fileError(machineObject(id), err)
		}
	}
	return p.dropFirewall(ctx)
}

// dropFirewall removes the rules once no machine needs any network.
func (p *Provider) dropFirewall(ctx context.Context) error {
	unlock, err := p.locks.Lock(ctx, "firewall")
	if err != nil {
		return err
	}
	defer unlock()
	owners, err := p.networkOwners()
	if err != nil {
		return p.fileError("firewall", err)
	}
	if len(owners) > 0 {
		return nil
	}
	p.view.rules.forget(struct{}{})
	p.steps.next()
	if err := p.fw.Remove(); err != nil && !errors.Is(err, firewall.ErrNotPermitted) {
		return providers.Errorf(providers.ErrUnavailable, "firewall", "its rules cannot be removed: %w", err)
	}
	return nil
}
