package providers

import (
	"net"
	"strconv"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Route is where the host reaches a TCP port of the machine's guest: directly if
// it knows an address, else through a port forward, which accepts connections
// whether the guest does or not. It is empty when there is no way.
//
// What a guest says of itself may point anywhere: only addresses that the host
// learned on its own count.
func (m Machine) Route(port int32) (address string, forwarded bool) {
	for _, a := range m.Addresses {
		if a.Source == v1.AddressFromLease || a.Source == v1.AddressFromNeighbour {
			return net.JoinHostPort(a.IP, strconv.Itoa(int(port))), false
		}
	}
	for _, f := range m.PortForwards {
		if f.GuestPort == port && f.HostPort != 0 && f.Protocol != v1.ProtocolUDP {
			return net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort))), true
		}
	}
	return "", false
}
