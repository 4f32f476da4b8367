package hostnet

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// ChooseSubnet picks a subnet of a length out of a pool that overlaps nothing
// used. The search begins at a place that the key determines, so that the same
// network tends to get the same subnet again. ok is false when all are used.
func ChooseSubnet(pool netip.Prefix, bits int, key string, used []netip.Prefix) (subnet netip.Prefix, ok bool) {
	count := uint64(1) << (bits - pool.Bits())
	base := binary.BigEndian.Uint32(pool.Masked().Addr().AsSlice())
	start := hash(key) % count
	for i := range count {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], base+uint32((start+i)%count)<<(32-bits))
		p := netip.PrefixFrom(netip.AddrFrom4(a), bits)
		if !overlaps(p, used) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func overlaps(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

// ChooseAddress picks a host's address out of a subnet, in the same way. The
// first address is the gateway's; the network's and the broadcast address are
// nobody's.
func ChooseAddress(subnet netip.Prefix, key string, used map[netip.Addr]bool) (netip.Addr, bool) {
	count := uint64(1)<<(32-subnet.Bits()) - 3
	base := binary.BigEndian.Uint32(subnet.Masked().Addr().AsSlice()) + 2
	start := hash(key) % count
	for i := range count {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], base+uint32((start+i)%count))
		if addr := netip.AddrFrom4(a); !used[addr] {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// Gateway is the host's address in a subnet.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// prefixOf is an address with the length of its mask.
func prefixOf(ip, mask []byte) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Prefix{}, false
	}
	bits := 0
	for _, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, min(bits, addr.BitLen())), true
}

func hash(key string) uint64 {
	s := sha256.Sum256([]byte(key))
	return binary.BigEndian.Uint64(s[:8])
}
