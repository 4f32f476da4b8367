//go:build linux

package kvm

import (
	"context"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/kvm/internal/firewall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// lookFor is how long one look at the host serves GetMachine. A start always
// looks for itself.
const lookFor = time.Second

// hostView shares what is read of the host among many calls: a thousand
// machines are looked at with one list of links.
type hostView struct {
	links    shared[struct{}, hostnet.View]
	rules    shared[struct{}, firewall.State]
	networks shared[identity.Network, libvirtxml.Network]
	leases   shared[identity.Network, map[string]string] // IP by MAC
}

func newHostView(p *Provider) *hostView {
	return &hostView{
		links: newShared(func(context.Context, struct{}) (hostnet.View, error) { return hostnet.Look() }),
		rules: newShared(func(context.Context, struct{}) (firewall.State, error) { return p.fw.Check() }),
		networks: newShared(func(ctx context.Context, n identity.Network) (libvirtxml.Network, error) {
			return p.readNetwork(ctx, n)
		}),
		leases: newShared(p.readLeases),
	}
}

// forgetNetwork makes the next look at a network a new one.
func (v *hostView) forgetNetwork(n identity.Network) {
	v.networks.forget(n)
	v.leases.forget(n)
}

// shared is a read whose result is used by all callers for a moment.
type shared[K comparable, V any] struct {
	read func(context.Context, K) (V, error)

	mu     *sync.Mutex
	values map[K]reading[V]
}

type reading[V any] struct {
	value V
	at    time.Time
}

func newShared[K comparable, V any](read func(context.Context, K) (V, error)) shared[K, V] {
	return shared[K, V]{read: read, mu: &sync.Mutex{}, values: map[K]reading[V]{}}
}

// get returns a value that is at most lookFor old; with fresh, one that was
// read after the call. Errors are not kept.
func (s *shared[K, V]) get(ctx context.Context, key K, fresh bool) (V, error) {
	s.mu.Lock()
	r, ok := s.values[key]
	s.mu.Unlock()
	if ok && !fresh && time.Since(r.at) < lookFor {
		return r.value, nil
	}
	at := time.Now()
	v, err := s.read(ctx, key)
	if err != nil {
		s.forget(key)
		return v, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[key].at.Before(at) {
		s.values[key] = reading[V]{v, at}
	}
	return v, nil
}

func (s *shared[K, V]) forget(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
}

// readNetwork reads a network's live XML, or returns ErrNotFound.
func (p *Provider) readNetwork(ctx context.Context, n identity.Network) (libvirtxml.Network, error) {
	text, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), n.String(), libvirtconn.Quick, func(l *libvirt.Libvirt) (string, error) {
		return l.NetworkGetXMLDesc(libvirtNetwork(n), 0)
	})
	var out libvirtxml.Network
	if err != nil {
		return out, err
	}
	return out, out.Unmarshal(text)
}

// readLeases reads a network's DHCP leases.
func (p *Provider) readLeases(ctx context.Context, n identity.Network) (map[string]string, error) {
	leases, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), n.String(), libvirtconn.Quick, func(l *libvirt.Libvirt) ([]libvirt.NetworkDhcpLease, error) {
		list, _, err := l.NetworkGetDhcpLeases(libvirtNetwork(n), nil, 1, 0)
		return list, err
	})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, l := range leases {
		if len(l.Mac) > 0 {
			out[l.Mac[0]] = l.Ipaddr
		}
	}
	return out, nil
}

// libvirtNetwork refers to a network by its UUID, which is how libvirt finds
// it.
func libvirtNetwork(n identity.Network) libvirt.Network {
	return libvirt.Network{Name: n.LibvirtName(), UUID: libvirt.UUID(uuid.MustParse(n.UUID()))}
}
