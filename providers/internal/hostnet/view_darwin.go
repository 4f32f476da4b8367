package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// UsedSubnets lists what the host's addresses take up. Routes to elsewhere, such
// as a VPN's, it does not know.
func UsedSubnets() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if p, ok := prefixOf(n.IP, n.Mask); ok {
			used = append(used, p.Masked())
		}
	}
	return used, nil
}

// Neighbours cannot tell which IP addresses a MAC address uses.
func Neighbours(mac string) ([]netip.Addr, error) {
	return nil, fmt.Errorf("neighbours of MAC address %s: macOS is not asked for them: %w", mac, errors.ErrUnsupported)
}
