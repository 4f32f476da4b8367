//go:build linux

// Package firewall keeps the instance's nftables tables.
//
//	bridge sandboxd_X   prerouting   a guest sends from its own addresses only
//	arp    sandboxd_X   input        an internal network, or a tap by itself, gets no
//	                                 answer from the host
//	inet   sandboxd_X   prerouting ─┐ what is for the host itself, before and
//	                    input      ─┴▶ tohost   after address translation
//	                    forward      what goes through the host
//
// The rules name no machine and no network, only prefixes of links' names
// (package identity): they are the same for as long as the instance has any
// network, and hold for a link from the moment it exists. What changes are the
// two sets of the bridge table, which hold the addresses of the guests that
// may send at all; a guest that is in neither is mute.
//
// The kernel is spoken to over netlink, and not through the nft program: a
// table is replaced in one transaction, and what the kernel holds can be
// compared with what it ought to hold, expression by expression, without
// depending on how some version of nft words it.
package firewall

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

// Names of the sets of the bridge table.
const (
	setGuests = "guests" // link . MAC . IPv4 address, on hostonly and nat networks
	setMACs   = "macs"   // link . MAC, on internal networks
)

// Priorities of the chains' hooks. Before destination NAT (-100), so that a
// port that the host redirects elsewhere is still seen as a port of the host;
// after connection tracking (-200), whose verdicts are used.
const (
	beforeNAT    = -150
	beforeFilter = -10
	firstOfAll   = -300
)

// Registers of nftables. A set's key is loaded from the first on.
const (
	reg1   = 1  // 16 bytes
	reg2   = 2  // 16 bytes
	reg2b8 = 14 // 4 bytes, 8 bytes into reg2
)

// table is what one of our tables holds.
type table struct {
	family nftables.TableFamily
	chains []chain
	sets   []set
}

type chain struct {
	name     string
	hook     *nftables.ChainHook // nil for a chain that others jump to
	priority nftables.ChainPriority
	rules    [][]expr.Any
}

type set struct {
	name string
	key  []nftables.SetDatatype
}

// tables are the rules of an instance.
func tables(i providers.Instance) []table {
	return []table{bridgeTable(i), arpTable(i), inetTable(i)}
}

// bridgeTable: frames from a guest must bear its own MAC and IPv4 address; on
// networks with DHCP nothing but IPv4 and ARP passes. The address 0.0.0.0, from
// which DHCP begins, is one of a guest's own.
func bridgeTable(i providers.Instance) table {
	const etherSource, arpSenderMAC, arpSenderIP, ipSource = 6, 8, 14, 12
	var rules [][]expr.Any
	for _, mode := range []v1.NetworkMode{v1.NetworkHostOnly, v1.NetworkNAT} {
		from := iifname(identity.TapPrefix(i, mode), true)
		known := func(mac, ip expr.Any) []expr.Any {
			return []expr.Any{iifnameKey(), mac, ip, &expr.Lookup{SourceRegister: reg1, SetName: setGuests}}
		}
		linkMAC := payload(expr.PayloadBaseLLHeader, etherSource, 6, reg2)
		arpMAC := payload(expr.PayloadBaseNetworkHeader, arpSenderMAC, 6, reg2)
		arpIP := payload(expr.PayloadBaseNetworkHeader, arpSenderIP, 4, reg2b8)
		rules = append(
			rules,
			rule(from, protocol(unix.ETH_P_IP), known(linkMAC, payload(expr.PayloadBaseNetworkHeader, ipSource, 4, reg2b8)), accept()),
			rule(from, protocol(unix.ETH_P_ARP), known(linkMAC, arpIP), known(arpMAC, arpIP), accept()),
			rule(from, drop()),
		)
	}
	intnet := iifname(identity.TapPrefix(i, v1.NetworkIntnet), true)
	rules = append(
		rules,
		rule(intnet, []expr.Any{
			iifnameKey(), payload(expr.PayloadBaseLLHeader, etherSource, 6, reg2),
			&expr.Lookup{SourceRegister: reg1, SetName: setMACs},
		}, accept()),
		rule(intnet, drop()),
	)
	return table{
		family: nftables.TableFamilyBridge,
		chains: []chain{{"prerouting", nftables.ChainHookPrerouting, firstOfAll, rules}},
		sets: []set{
			{setGuests, []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr}},
			{setMACs, []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr}},
		},
	}
}

// arpIn is the input hook of the arp family, which numbers its hooks anew.
const arpIn = 0

// arpTable: a host answers ARP for all its addresses on any link, so also on a
// bridge that has none of its own, and on taps; see inetTable.
func arpTable(i providers.Instance) table {
	return table{
		family: nftables.TableFamilyARP,
		chains: []chain{{"input", nftables.ChainHookRef(arpIn), 0, [][]expr.Any{
			rule(iifname(identity.InstanceTaps(i), true), drop()),
			rule(iifname(identity.BridgePrefix(i, v1.NetworkIntnet), true), drop()),
		}}},
	}
}

// inetTable: guests reach the host for DHCP and, on nat, DNS, at the address
// that their own bridge has, and otherwise only to answer. Where the host has
// bridged frames pass through its own hooks (br_netfilter), what guests of one
// internal network send each other comes by here too and must pass.
//
// What a guest sends belongs to the bridge, but for frames to the addresses
// 01:80:c2:00:00:0X, which belong to no bridge: the kernel takes them as
// received on the tap itself, whatever they carry, and no hook of the bridge
// family sees all of them.
func inetTable(i providers.Instance) table {
	const (
		local, broadcast = unix.RTN_LOCAL, unix.RTN_BROADCAST
		dhcp, dns        = 67, 53
	)
	ours := iifname(identity.InstanceBridges(i), true)
	intnet := identity.BridgePrefix(i, v1.NetworkIntnet)
	hostonly := identity.BridgePrefix(i, v1.NetworkHostOnly)
	nat := identity.BridgePrefix(i, v1.NetworkNAT)
	linkLocal := netip.MustParsePrefix("169.254.0.0/16")
	return table{
		family: nftables.TableFamilyINet,
		chains: []chain{
			{name: "tohost", rules: [][]expr.Any{
				rule(iifname(intnet, true), drop()),
				rule(answers(), accept()),
				rule(port(unix.IPPROTO_UDP, dhcp), addrType(local, true), accept()),
				rule(port(unix.IPPROTO_UDP, dhcp), addrType(broadcast, true), accept()),
				rule(iifname(nat, true), port(unix.IPPROTO_UDP, dns), addrType(local, true), accept()),
				rule(iifname(nat, true), port(unix.IPPROTO_TCP, dns), addrType(local, true), accept()),
				rule(drop()),
			}},
			{"prerouting", nftables.ChainHookPrerouting, beforeNAT, [][]expr.Any{
				rule(iifname(identity.InstanceTaps(i), true), drop()),
				rule(ours, addrType(local, false), jump("tohost")),
			}},
			{"input", nftables.ChainHookInput, beforeFilter, [][]expr.Any{
				rule(ours, jump("tohost")),
			}},
			{"forward", nftables.ChainHookForward, beforeFilter, [][]expr.Any{
				rule(iifname(intnet, true), oifname(intnet, true), accept()),
				rule(iifname(intnet, true), drop()),
				rule(oifname(intnet, true), drop()),
				rule(iifname(hostonly, true), drop()),
				rule(oifname(hostonly, true), drop()),
				rule(oifname(nat, true), answers(), accept()),
				rule(oifname(nat, true), drop()),
				rule(iifname(nat, true), oifname(identity.AnyBridge, true), drop()),
				rule(iifname(nat, true), ipv4(false), drop()),
				rule(iifname(nat, true), ipv4(true), destination(linkLocal), drop()),
				rule(iifname(nat, true), unroutedSource(), drop()),
			}},
		},
	}
}

// rule joins the parts of a rule.
func rule(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func jump(to string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}}
}

func equal(is bool) expr.CmpOp {
	if is {
		return expr.CmpOpEq
	}
	return expr.CmpOpNeq
}

// iifname compares the beginning of the incoming link's name.
func iifname(prefix string, is bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Cmp{Op: equal(is), Register: reg1, Data: []byte(prefix)},
	}
}

func oifname(prefix string, is bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1},
		&expr.Cmp{Op: equal(is), Register: reg1, Data: []byte(prefix)},
	}
}

// iifnameKey loads the incoming link's name as the beginning of a set's key.
func iifnameKey() expr.Any { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1} }

func payload(base expr.PayloadBase, offset, length, register uint32) expr.Any {
	return &expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: register}
}

// protocol compares the EtherType.
func protocol(etherType uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binary.BigEndian.AppendUint16(nil, etherType)},
	}
}

func ipv4(is bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: equal(is), Register: reg1, Data: []byte{unix.NFPROTO_IPV4}},
	}
}

// destination compares the IPv4 destination address.
func destination(p netip.Prefix) []expr.Any {
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		payload(expr.PayloadBaseNetworkHeader, 16, 4, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Masked().Addr().AsSlice()},
	}
}

// port compares the transport protocol and the destination port.
func port(proto byte, number uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{proto}},
		payload(expr.PayloadBaseTransportHeader, 2, 2, reg1),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binary.BigEndian.AppendUint16(nil, number)},
	}
}

// addrType compares the routing type of the destination address; on the
// incoming link alone, if so asked.
func addrType(kind uint32, onLink bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, FlagIIF: onLink, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binary.NativeEndian.AppendUint32(nil, kind)},
	}
}

// unroutedSource matches source addresses that are not routed to the incoming
// link.
func unroutedSource() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: make([]byte, 4)},
	}
}

// answers matches packets of connections that the other side has opened.
func answers() []expr.Any {
	mask := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}
