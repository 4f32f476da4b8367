package virtualbox

import (
	"context"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

const (
	// claimsLast is how long what a guest said of its addresses is not asked
	// again; its service looks every ten seconds itself. Who was told nothing asks
	// again.
	claimsLast = 5 * time.Second
	// maxAddresses of what a guest claims are taken.
	maxAddresses = 16
)

// addresses of a running guest: what its Guest Additions said in this run, what
// the DHCP server of its host-only network gave out, and, when bridged, what the
// host has seen it use.
func (p *Provider) addresses(ctx context.Context, m machine) []v1.GuestAddress {
	if m.record.Network.Mode == v1.NetworkNone {
		return nil
	}
	s := p.guest.get(m.id)
	if s.run.Equal(m.since()) && time.Since(s.at) < claimsLast && len(s.claims) > 0 {
		return s.claims
	}
	var list []v1.GuestAddress
	if m.record.Network.Mode == v1.NetworkHostOnly {
		if a, ok := p.hostOnly().lease(ctx, p.networkName(m.record), m.id); ok {
			list = appendAddress(list, a, v1.AddressFromLease)
		}
	}
	if m.record.Network.Mode == v1.NetworkBridged {
		if seen, err := hostnet.Neighbours(macOf(m.id)); err == nil {
			for _, a := range seen {
				list = appendAddress(list, a, v1.AddressFromNeighbour)
			}
		}
	}
	if agentOf(m) == providers.AgentConnected {
		out, err := p.vbox.Run(ctx, vboxmanage.Call{
			Object: machineObject(m.id), VM: string(m.id),
			Args: []string{"guestproperty", "enumerate", string(m.id), "--patterns", "/VirtualBox/GuestInfo/Net/*"},
		})
		if err == nil {
			for _, a := range claimed(string(out.Stdout), m.since()) {
				list = appendAddress(list, a, v1.AddressFromAgent)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b v1.GuestAddress) int { return strings.Compare(a.IP, b.IP) })
	list = slices.CompactFunc(list, func(a, b v1.GuestAddress) bool { return a.IP == b.IP })
	p.guest.put(m.id, guestState{run: m.since(), claims: list, at: time.Now()})
	return list
}

// appendAddress drops what is no address of a guest to others.
func appendAddress(list []v1.GuestAddress, a netip.Addr, source v1.AddressSource) []v1.GuestAddress {
	if a = a.Unmap().WithZone(""); !a.IsValid() || !a.IsGlobalUnicast() || len(list) >= maxAddresses {
		return list
	}
	return append(list, v1.GuestAddress{IP: a.String(), Source: source})
}

var property = regexp.MustCompile(`^/VirtualBox/GuestInfo/Net/[0-9]{1,3}/V[46]/IP +=? *'([^']{1,64})' +@ (\S+)( .*)?$`)

// claimed reads the addresses that a guest's service set since a machine came to
// run. Others are of an earlier run, or of the machine that this one's memory was
// cloned from: VirtualBox keeps them.
func claimed(s string, since time.Time) []netip.Addr {
	var addrs []netip.Addr
	for line := range strings.Lines(s) {
		m := property.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, m[2])
		if err != nil || at.Before(since) || since.IsZero() {
			continue
		}
		if a, err := netip.ParseAddr(m[1]); err == nil && len(addrs) < maxAddresses {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
