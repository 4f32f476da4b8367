//go:build linux

package kvm

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

const (
	// answerLasts is how long an agent that answered counts as connected
	// without being asked again. libvirt's events end it earlier.
	answerLasts = 10 * time.Second
	// pingReply is how long a ping may take, in seconds.
	pingReply = 2
	// retryFirst and retryLast bound the pauses between pings of an agent that
	// does not answer, so that many hung guests do not fill the agent links.
	retryFirst = time.Second
	retryLast  = 30 * time.Second
	// maxAddresses of what a guest claims are taken.
	maxAddresses = 16
)

// guestState is what a guest was last heard to say.
type guestState struct {
	agent    providers.AgentState
	asked    time.Time     // when agent was found out
	retry    time.Duration // pause after which a silent agent is asked again
	claims   []netip.Addr  // addresses that the agent names
	claimsAt time.Time
}

// guestStates remembers for a moment what guests said.
type guestStates struct {
	epoch func() uint64 // of the connection to libvirt

	mu     sync.Mutex
	heard  uint64 // the epoch that states are of
	states map[types.UID]guestState
}

func newGuestStates(epoch func() uint64) *guestStates {
	return &guestStates{epoch: epoch, states: map[types.UID]guestState{}}
}

// get returns what was heard over the present connection.
func (g *guestStates) get(id types.UID) guestState {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.epoch(); now != g.heard {
		clear(g.states)
		g.heard = now
	}
	return g.states[id]
}

func (g *guestStates) put(id types.UID, s guestState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.states[id] = s
}

func (g *guestStates) forget(id types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.states, id)
}

// answered notes that a guest's agent did something for us just now.
func (g *guestStates) answered(id types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.states[id]
	s.agent, s.asked, s.retry = providers.AgentConnected, time.Now(), 0
	g.states[id] = s
}

// unanswered notes that it did not.
func (g *guestStates) unanswered(id types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.states[id]
	s.agent, s.asked = providers.AgentUnknown, time.Now()
	s.retry = min(max(retryFirst, 2*s.retry), retryLast)
	g.states[id] = s
}

// due tells whether the agent must be asked.
func (s guestState) due(now time.Time) bool {
	switch s.agent {
	case providers.AgentConnected:
		return now.Sub(s.asked) > answerLasts
	case providers.AgentUnknown:
		return now.Sub(s.asked) > s.retry
	default:
		return true
	}
}

// guestState finds out whether a running machine's agent answers.
func (p *Provider) guestState(ctx context.Context, m machine) guestState {
	if !m.live.AgentConnected {
		p.guest.forget(m.id)
		return guestState{agent: providers.AgentDisconnected}
	}
	s := p.guest.get(m.id)
	if !s.due(time.Now()) {
		return s
	}
	unlock, err := p.locks.Lock(ctx, "agent "+string(m.id))
	if err != nil {
		return guestState{agent: providers.AgentUnknown}
	}
	defer unlock()
	if s = p.guest.get(m.id); !s.due(time.Now()) { // somebody else has asked meanwhile
		return s
	}
	if _, err := p.agentCommand(ctx, m.id, `{"execute":"guest-ping"}`, pingReply); err != nil {
		if ctx.Err() == nil {
			p.guest.unanswered(m.id)
		}
		return guestState{agent: providers.AgentUnknown}
	}
	p.guest.answered(m.id)
	return p.guest.get(m.id)
}

// addresses of a running guest: on networks whose addresses we give out, its
// lease; elsewhere what its agent claims and, when bridged, what the host has
// seen it use.
func (p *Provider) addresses(ctx context.Context, m machine, g guestState) []v1.GuestAddress {
	n, managed := identity.NetworkOf(p.opts.Instance, m.record.Namespace, m.record.Network)
	own := mac(m.id).String()
	switch {
	case m.record.Network.Mode == v1.NetworkNone:
		return nil
	case managed && n.Mode != v1.NetworkIntnet:
		leases, err := p.view.leases.get(ctx, n, false)
		if err != nil {
			return nil
		}
		return addressList([]netip.Addr{parseAddr(leases[own])}, v1.AddressFromLease)
	}
	var list []v1.GuestAddress
	if g.agent == providers.AgentConnected {
		list = addressList(p.claims(ctx, m.id, g), v1.AddressFromAgent)
	}
	if m.record.Network.Mode == v1.NetworkBridged {
		if seen, err := hostnet.Neighbours(own); err == nil {
			list = append(list, addressList(seen, v1.AddressFromNeighbour)...)
		}
	}
	slices.SortStableFunc(list, func(a, b v1.GuestAddress) int { return parseAddr(a.IP).Compare(parseAddr(b.IP)) })
	return slices.CompactFunc(list, func(a, b v1.GuestAddress) bool { return a.IP == b.IP })
}

func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

// addressList drops what is no address of a guest to others.
func addressList(addrs []netip.Addr, source v1.AddressSource) []v1.GuestAddress {
	var list []v1.GuestAddress
	for _, a := range addrs {
		if a.IsValid() && a.IsGlobalUnicast() && len(list) < maxAddresses {
			list = append(list, v1.GuestAddress{IP: a.WithZone("").String(), Source: source})
		}
	}
	return list
}

// claims asks the agent for the guest's addresses, now and then.
func (p *Provider) claims(ctx context.Context, id types.UID, g guestState) []netip.Addr {
	if time.Since(g.claimsAt) < answerLasts {
		return g.claims
	}
	unlock, err := p.locks.Lock(ctx, "agent "+string(id))
	if err != nil {
		return nil
	}
	defer unlock()
	reply, err := p.agentCommand(ctx, id, `{"execute":"guest-network-get-interfaces"}`, pingReply)
	if err != nil {
		return nil
	}
	s := p.guest.get(id)
	s.claims, s.claimsAt = parseInterfaces(reply), time.Now()
	p.guest.put(id, s)
	return s.claims
}

// parseInterfaces reads an agent's reply about its interfaces.
func parseInterfaces(reply string) []netip.Addr {
	var r struct {
		Return []struct {
			Addresses []struct {
				IP string `json:"ip-address"`
			} `json:"ip-addresses"`
		} `json:"return"`
	}
	if json.Unmarshal([]byte(reply), &r) != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, i := range r.Return {
		for _, a := range i.Addresses {
			if addr := parseAddr(a.IP); addr.IsValid() && len(addrs) < maxAddresses {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}
