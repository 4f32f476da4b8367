// Package hostport has the rules of the host's ports that lead into machines,
// whoever opens them: which forwards ask for one port, which cannot be, and what it
// means that a port cannot be opened.
//
//	host: protocol, address, number  ──forward──▶  machine: port
package hostport

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// DefaultAddress is what a forward listens on that names no address.
const DefaultAddress = "127.0.0.1"

// Port is a port of the host. It may be compared, and be the key of a map.
type Port struct {
	Protocol v1.Protocol
	// Address is the zero Addr where a forward names none that is one.
	Address netip.Addr
	Number  int32
}

// Of is the port that a forward asks for, with defaults filled in; any, if its
// number is 0.
func Of(f v1.PortForward) Port {
	address, _ := netip.ParseAddr(cmp.Or(f.HostAddress, DefaultAddress))
	return Port{Protocol: cmp.Or(f.Protocol, v1.ProtocolTCP), Address: address.Unmap(), Number: f.HostPort}
}

// Conflicts tells whether nobody could have both ports. One on all addresses is
// the same port as one on any.
func (p Port) Conflicts(q Port) bool {
	return p.Number != 0 && p.Number == q.Number && p.Protocol == q.Protocol && p.Address.IsValid() && q.Address.IsValid() &&
		(p.Address == q.Address || p.Address.IsUnspecified() || q.Address.IsUnspecified())
}

// Conflict tells whether two forwards ask for one port of the host.
func Conflict(a, b v1.PortForward) bool { return Of(a).Conflicts(Of(b)) }

// Check says what is wrong with the forwards of a machine, whatever host it is on.
func Check(forwards []v1.PortForward) error {
	names := map[string]bool{}
	for i, f := range forwards {
		switch p := Of(f); {
		case names[f.Name]:
			return fmt.Errorf("two port forwards are named %q", f.Name)
		case f.GuestPort < 1 || f.GuestPort > 65535 || f.HostPort < 0 || f.HostPort > 65535:
			return fmt.Errorf("port forward %q: ports go from 1 to 65535", f.Name)
		case !p.Address.IsValid():
			return fmt.Errorf("port forward %q: %q is no IP address", f.Name, f.HostAddress)
		case p.Protocol != v1.ProtocolTCP && p.Protocol != v1.ProtocolUDP:
			return fmt.Errorf("port forward %q: protocol %q is not one of TCP and UDP", f.Name, f.Protocol)
		case slices.ContainsFunc(forwards[:i], func(o v1.PortForward) bool { return Conflict(o, f) }):
			return fmt.Errorf("two port forwards want %s port %d of %s", p.Protocol, p.Number, p.Address)
		}
		names[f.Name] = true
	}
	return nil
}

// Error gives the error of opening a forward's port a kind, and says what to do.
func Error(object string, f v1.PortForward, err error) error {
	what := fmt.Sprintf("port forward %q: %s port %d of %s", f.Name, f.Protocol, f.HostPort, f.HostAddress)
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && f.HostPort == 0:
		return providers.Errorf(providers.ErrCapacity, object, "port forward %q: no %s port of %s is free", f.Name, f.Protocol, f.HostAddress)
	case errors.Is(err, syscall.EADDRINUSE):
		return providers.Errorf(providers.ErrBusy, object, "%s is taken: free it, or let hostPort be 0 to get a free one", what)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return providers.Errorf(providers.ErrInvalid, object, "%s: the host does not have that address", what)
	case errors.Is(err, syscall.EACCES):
		return providers.Errorf(providers.ErrInvalid, object, "%s: sandboxd may not listen on ports below 1024 without root", what)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS):
		return providers.Errorf(providers.ErrCapacity, object, "%s: %w", what, err)
	default:
		return providers.Errorf(providers.ErrInvalid, object, "%s cannot be opened: %w", what, err)
	}
}
