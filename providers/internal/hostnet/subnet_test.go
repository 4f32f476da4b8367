package hostnet

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestChosenSubnetsOverlapNothing(t *testing.T) {
	pool := netip.MustParsePrefix("10.208.0.0/16")
	rapid.Check(t, func(t *rapid.T) {
		var used []netip.Prefix
		for range rapid.IntRange(0, 20).Draw(t, "used") {
			bits := rapid.IntRange(17, 30).Draw(t, "bits")
			a := netip.AddrFrom4([4]byte{10, 208, rapid.Byte().Draw(t, "c"), rapid.Byte().Draw(t, "d")})
			used = append(used, netip.PrefixFrom(a, bits).Masked())
		}
		key := rapid.String().Draw(t, "key")
		p, ok := ChooseSubnet(pool, 24, key, used)
		if !ok { // rightly so only if every candidate overlaps
			for c := range 256 {
				free := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 208, byte(c), 0}), 24)
				if !overlaps(free, used) {
					t.Fatalf("%s is free and was not found", free)
				}
			}
			return
		}
		if p.Bits() != 24 || !pool.Overlaps(p) || p != p.Masked() || overlaps(p, used) {
			t.Fatalf("chose %s with %v in use", p, used)
		}
		if again, _ := ChooseSubnet(pool, 24, key, used); again != p {
			t.Fatalf("chose %s and then %s", p, again)
		}
	})
}

func TestPoolRunsOut(t *testing.T) {
	pool := netip.MustParsePrefix("10.208.0.0/20")
	var used []netip.Prefix
	for n := range 16 {
		p, ok := ChooseSubnet(pool, 24, fmt.Sprint(n), used)
		if !ok {
			t.Fatalf("after %d subnets none is free", n)
		}
		used = append(used, p)
	}
	if p, ok := ChooseSubnet(pool, 24, "one more", used); ok {
		t.Errorf("a 17th subnet of 16: %s", p)
	}
}

func TestAddressesAreHosts(t *testing.T) {
	subnet := netip.MustParsePrefix("10.1.2.0/24")
	used := map[netip.Addr]bool{}
	for n := range 253 {
		a, ok := ChooseAddress(subnet, fmt.Sprint(n), used)
		if !ok || used[a] || !subnet.Contains(a) || a == Gateway(subnet) ||
			a == netip.MustParseAddr("10.1.2.0") || a == netip.MustParseAddr("10.1.2.255") {
			t.Fatalf("address %d is %s, %v", n, a, ok)
		}
		used[a] = true
	}
	if a, ok := ChooseAddress(subnet, "x", used); ok {
		t.Errorf("a 254th address: %s", a)
	}
	if g := Gateway(subnet); g != netip.MustParseAddr("10.1.2.1") {
		t.Errorf("gateway %s", g)
	}
}

func TestPrefixOf(t *testing.T) {
	p, ok := prefixOf([]byte{10, 1, 2, 3}, []byte{255, 255, 240, 0})
	if !ok || p.String() != "10.1.2.3/20" {
		t.Errorf("got %s, %v", p, ok)
	}
	if _, ok := prefixOf(nil, nil); ok {
		t.Error("no address became a prefix")
	}
}
