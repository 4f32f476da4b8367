//go:build linux

package kvm

import (
	"net/netip"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// FuzzInterfaces: whatever an agent says of its addresses, a bounded number of
// plain addresses comes of it, none of which is the host's own.
func FuzzInterfaces(f *testing.F) {
	f.Add(`{"return":[{"name":"eth0","ip-addresses":[{"ip-address":"192.0.2.7","prefix":24},{"ip-address":"fe80::1%eth0"}]}]}`)
	f.Add(`{"return":[{"ip-addresses":[{"ip-address":"::ffff:127.0.0.1"},{"ip-address":"2001:db8::1%\u001b[2J"}]}]}`)
	f.Fuzz(func(t *testing.T, reply string) {
		list := addressList(parseInterfaces(reply), v1.AddressFromAgent)
		if len(list) > maxAddresses {
			t.Fatalf("%d addresses", len(list))
		}
		for _, a := range list {
			if ip, err := netip.ParseAddr(a.IP); err != nil || !ip.IsGlobalUnicast() || ip.Zone() != "" || ip.Is4In6() {
				t.Fatalf("the address %q, %v", a.IP, err)
			}
		}
	})
}

// FuzzLease: the same for what a DHCP server has written down.
func FuzzLease(f *testing.F) {
	f.Add("192.0.2.7")
	f.Add("fe80::1%a\nb")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range addressList([]netip.Addr{parseAddr(text)}, v1.AddressFromLease) {
			if ip, err := netip.ParseAddr(a.IP); err != nil || !ip.IsGlobalUnicast() || ip.Zone() != "" {
				t.Fatalf("%q becomes the address %q, %v", text, a.IP, err)
			}
		}
	})
}
