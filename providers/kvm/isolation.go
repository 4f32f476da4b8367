//go:build linux

package kvm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"libvirt.org/go/libvirtxml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/firewall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

// sight is everything that is looked at to judge a machine's isolation.
type sight struct {
	live domain.Live
	net  identity.Network // of the modes that have one
	id   machine
	// host is the links and addresses; xml the network's live XML, absent if
	// libvirt has no such network; rules what the firewall holds, or rulesErr.
	host     hostnet.View
	xml      libvirtxml.Network
	absent   bool
	rules    firewall.State
	rulesErr error
	// flaw of the bridge's settings, if any.
	flaw string
}

// observeNetwork looks at a machine's connections on the host. With fresh, at
// all of them now; otherwise what is shared by machines may be up to lookFor
// old. Rules that are not in force are put back, and the machine counts as not
// isolated until they were seen again.
func (p *Provider) observeNetwork(ctx context.Context, m machine, fresh bool) (providers.NetworkObservation, error) {
	if !m.on() {
		return providers.NetworkObservation{Detail: "the machine is not on: there is nothing to look at"}, nil
	}
	s, err := p.sightOfNetwork(ctx, m, fresh)
	if err != nil {
		return providers.NetworkObservation{}, err
	}
	detail, ok := judge(s)
	if !ok && !fresh && s.mendable() {
		p.mend(ctx, m, s.net)
	}
	return providers.NetworkObservation{Isolated: ok, Detail: detail}, nil
}

// sightOfNetwork looks at everything that judge wants to see.
func (p *Provider) sightOfNetwork(ctx context.Context, m machine, fresh bool) (sight, error) {
	s := sight{live: m.live, id: m}
	n, managed := identity.NetworkOf(p.opts.Instance, m.record.Namespace, m.record.Network)
	var err error
	if m.record.Network.Mode != v1.NetworkNone {
		if s.host, err = p.view.links.get(ctx, struct{}{}, fresh); err != nil {
			return s, providers.Errorf(providers.ErrUnavailable, "host network", "its links cannot be listed: %w", err)
		}
	}
	if managed {
		s.net = n
		s.xml, err = p.view.networks.get(ctx, n, fresh)
		if s.absent = errors.Is(err, providers.ErrNotFound); err != nil && !s.absent {
			return s, err
		}
		s.rules, s.rulesErr = p.view.rules.get(ctx, struct{}{}, fresh)
		s.flaw = hostnet.Flaw(n.Bridge())
	}
	return s, nil
}

// mendable tells whether something is wrong that can be put right while the
// machine runs: rules and settings that somebody removed.
func (s sight) mendable() bool {
	if _, bridged := s.host.Links[s.net.Bridge()]; s.net == (identity.Network{}) || s.absent || !bridged {
		return false
	}
	g, known := guestOf(s)
	return s.flaw != "" || s.rulesErr != nil || (known && !s.rules.Permits(g))
}

// mend puts rules and settings back that somebody removed.
func (p *Provider) mend(ctx context.Context, m machine, n identity.Network) {
	unlock, err := p.locks.Lock(ctx, machineObject(m.id))
	if err != nil {
		return
	}
	defer unlock()
	p.view.rules.forget(struct{}{})
	now, err := p.look(ctx, m.id)
	if err != nil || !now.on() { // stopped or deleted meanwhile
		return
	}
	if s, err := p.sightOfNetwork(ctx, now, true); err != nil || !s.mendable() {
		return
	}
	if err := p.joinNetwork(ctx, m.id, n); err != nil {
		providers.Logger(ctx, p.log).Info("isolation of a running machine cannot be restored", "machine", m.id, "error", err.Error())
		return
	}
	providers.Logger(ctx, p.log).Info("isolation was not in force and was restored", "machine", m.id)
}

// guestOf is what the firewall ought to permit a machine.
func guestOf(s sight) (firewall.Guest, bool) {
	g := firewall.Guest{Mode: s.net.Mode, Tap: identity.Tap(s.net.Instance, s.net.Mode, s.id.id), MAC: mac(s.id.id)}
	if s.net.Mode == v1.NetworkIntnet {
		return g, true
	}
	var ok bool
	g.Address, ok = reservation(s.xml, g.MAC.String())
	return g, ok
}

// judge decides whether a machine is isolated as its record says, and says in
// one sentence what was seen or the first thing that is wrong.
func judge(s sight) (detail string, isolated bool) {
	if detail, isolated = judgeOwn(s); !isolated || s.net == (identity.Network{}) {
		return detail, isolated
	}
	if wrong := judgeNeighbours(s); wrong != "" {
		return wrong, false
	}
	return detail, true
}

// judgeOwn is judge of what is the machine's own: its card, and the network that was
// made for it. Others on its bridge come and go, and are not its fault.
func judgeOwn(s sight) (detail string, isolated bool) {
	if len(s.live.Extra) > 0 {
		return "the machine has " + strings.Join(s.live.Extra, " and ") + ", which it was not given by sandboxd", false
	}
	want := s.live.Record.Network
	if want.Mode == v1.NetworkNone {
		if n := len(s.live.Interfaces); n > 0 {
			return fmt.Sprintf("the machine has %d network interfaces and should have none", n), false
		}
		return "the machine has no network interface", true
	}
	if n := len(s.live.Interfaces); n != 1 {
		return fmt.Sprintf("the machine has %d network interfaces and should have one", n), false
	}
	i := s.live.Interfaces[0]
	if !strings.EqualFold(i.MAC, mac(s.id.id).String()) {
		return "the machine's network interface has the MAC address " + i.MAC + ", which is not its own", false
	}
	if want.Mode == v1.NetworkBridged {
		return judgeBridged(s, i, want.Bridge)
	}
	for _, check := range []func(sight, domain.Interface) string{judgeTap, judgeNetwork, judgeBridge, judgeRules} {
		if wrong := check(s, i); wrong != "" {
			return wrong, false
		}
	}
	return praise(s), true
}

// judgeBridged: a bridged machine is a member of the host's network, as asked
// for; only that it is on the link that was named is looked at.
func judgeBridged(s sight, i domain.Interface, bridge string) (string, bool) {
	if i.Bridge != bridge || (i.Kind != "bridge" && i.Kind != "direct") {
		return fmt.Sprintf("the machine's network interface is on %q and should be on %s", i.Bridge, bridge), false
	}
	link, ok := s.host.Links[bridge]
	if !ok {
		return fmt.Sprintf("the host has no link %s any more", bridge), false
	}
	if i.Kind == "bridge" {
		if tap, ok := s.host.Links[i.Tap]; !ok || tap.Master != link.Index {
			return fmt.Sprintf("the machine's interface %s is not a port of bridge %s", i.Tap, bridge), false
		}
	}
	return fmt.Sprintf("a member of the host's own network on %s, as declared: it reaches whatever that network reaches", bridge), true
}

// judgeTap looks at the host's end of the machine's interface.
func judgeTap(s sight, i domain.Interface) string {
	want := identity.Tap(s.net.Instance, s.net.Mode, s.id.id)
	if i.Kind != "network" || i.Network != s.net.LibvirtName() || i.Tap != want {
		return fmt.Sprintf("the machine's network interface is %s on %q and should be %s on %s", i.Tap, i.Network, want, s.net.LibvirtName())
	}
	tap, ok := s.host.Links[want]
	bridge, bridged := s.host.Links[s.net.Bridge()]
	switch {
	case !ok:
		return fmt.Sprintf("the host has no link %s", want)
	case !bridged || bridge.Kind != "bridge":
		return fmt.Sprintf("the host has no bridge %s", s.net.Bridge())
	case tap.Master != bridge.Index:
		return fmt.Sprintf("%s is not a port of bridge %s", want, bridge.Name)
	}
	return ""
}

// judgeNetwork looks at what libvirt does for the network.
func judgeNetwork(s sight, _ domain.Interface) string {
	if s.absent {
		return "libvirt has no network " + s.net.LibvirtName()
	}
	forward := ""
	if s.xml.Forward != nil {
		forward = s.xml.Forward.Mode
	}
	want := map[v1.NetworkMode]string{v1.NetworkNAT: "nat"}[s.net.Mode]
	switch {
	case s.xml.UUID != s.net.UUID() || s.xml.Bridge == nil || s.xml.Bridge.Name != s.net.Bridge():
		return "libvirt's network " + s.net.LibvirtName() + " is not the one that sandboxd made"
	case forward != want:
		return fmt.Sprintf("network %s forwards by %q and should by %q", s.xml.Name, forward, want)
	case len(s.xml.Routes) > 0:
		return fmt.Sprintf("network %s has routes of its own", s.xml.Name)
	case s.net.Mode == v1.NetworkIntnet && len(s.xml.IPs) > 0:
		return fmt.Sprintf("internal network %s has an address of the host", s.xml.Name)
	case s.net.Mode != v1.NetworkIntnet && len(s.xml.IPs) != 1:
		return fmt.Sprintf("network %s has %d subnets and should have one", s.xml.Name, len(s.xml.IPs))
	}
	return ""
}

// judgeBridge looks at the bridge, and at the machine's port of it.
func judgeBridge(s sight, _ domain.Interface) string {
	bridge := s.host.Links[s.net.Bridge()]
	var want []netip.Prefix
	if s.net.Mode != v1.NetworkIntnet {
		subnet, ok := subnetOf(s.xml.IPs[0])
		if !ok {
			return fmt.Sprintf("the subnet of network %s cannot be read", s.xml.Name)
		}
		want = append(want, netip.PrefixFrom(hostnet.Gateway(subnet), subnet.Bits()))
	}
	have := s.host.Addresses[bridge.Index]
	for _, a := range have {
		if len(want) == 0 || a != want[0] {
			return fmt.Sprintf("bridge %s has the address %s, which it was not given by sandboxd", bridge.Name, a)
		}
	}
	if len(have) != len(want) {
		return fmt.Sprintf("bridge %s lacks its address %s", bridge.Name, want[0])
	}
	tap, on := s.host.Links[identity.Tap(s.net.Instance, s.net.Mode, s.id.id)]
	if wrong := s.openPort(bridge, tap); on && wrong != "" {
		return wrong
	}
	return s.flaw
}

// openPort tells of a port that reaches others on its bridge.
func (s sight) openPort(bridge, port hostnet.Link) string {
	if s.net.Mode != v1.NetworkIntnet && !port.Isolated {
		return fmt.Sprintf("port %s of bridge %s is not isolated from the others", port.Name, bridge.Name)
	}
	return ""
}

// judgeNeighbours looks at who else is on the bridge.
func judgeNeighbours(s sight) string {
	bridge, prefix := s.host.Links[s.net.Bridge()], identity.TapPrefix(s.net.Instance, s.net.Mode)
	for _, port := range s.host.Ports(bridge) {
		if port.Kind != "tuntap" || !strings.HasPrefix(port.Name, prefix) {
			return fmt.Sprintf("bridge %s has the port %s, which is no sandbox of ours", bridge.Name, port.Name)
		}
		if wrong := s.openPort(bridge, port); wrong != "" {
			return wrong
		}
	}
	return ""
}

// judgeRules looks at the firewall.
func judgeRules(s sight, _ domain.Interface) string {
	if s.rulesErr != nil {
		return s.rulesErr.Error()
	}
	g, ok := guestOf(s)
	switch {
	case !ok:
		return fmt.Sprintf("network %s has no address for the machine", s.xml.Name)
	case !s.rules.Permits(g):
		return "the firewall does not know the machine's addresses, so it lets nothing pass"
	}
	return ""
}

// praise says what was seen of a machine that is isolated.
func praise(s sight) string {
	switch s.net.Mode {
	case v1.NetworkIntnet:
		return fmt.Sprintf("on %s (bridge %s): it reaches the sandboxes there; the host has no address on it and answers nothing", s.net, s.net.Bridge())
	case v1.NetworkHostOnly:
		return fmt.Sprintf("on %s (bridge %s): the host reaches it; nothing is forwarded, and the host answers DHCP only", s.net, s.net.Bridge())
	default:
		return fmt.Sprintf("on the nat network (bridge %s): it reaches outside; the host answers DHCP and DNS only, and no other sandbox is reached", s.net.Bridge())
	}
}
