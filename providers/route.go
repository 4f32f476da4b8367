package providers

import (
	"net"
	"strconv"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Route is a way from the host to a TCP port of a guest.
type Route struct {
	// Address to connect to; empty when there is no way.
	Address string
	// Forwarded: through a port forward, which accepts connections whether the
	// guest does or not.
	Forwarded bool
	// Shared: over a network, such as a bridged one, where others may take the
	// guest's address over and answer in its place.
	Shared bool
}

// Route is where the host reaches a TCP port of the machine's guest: directly if
// it knows an address, else through a port forward.
//
// What a guest says of itself may point anywhere: only addresses that the host
// learned on its own count.
func (m Machine) Route(port int32) Route {
	for _, a := range m.Addresses {
		if a.Source == v1.AddressFromLease || a.Source == v1.AddressFromNeighbour {
			return Route{Address: net.JoinHostPort(a.IP, strconv.Itoa(int(port))), Shared: a.Source == v1.AddressFromNeighbour}
		}
	}
	for _, f := range m.PortForwards {
		if f.GuestPort == port && f.HostPort != 0 && f.Protocol != v1.ProtocolUDP {
			return Route{Address: net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort))), Forwarded: true}
		}
	}
	return Route{}
}
