//go:build linux

package firewall

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

const (
	hostAddress  = "192.0.2.1"
	guestAddress = "10.1.2.3"
	hostService  = 9999
)

// wire is a guest's interface: what it sends comes in on a tap of a bridge.
type wire struct {
	t      *testing.T
	socket int
	bridge *netlink.Bridge
	tap    netlink.Link
	mac    net.HardwareAddr
}

func newWire(t *testing.T) *wire {
	t.Helper()
	n, _ := identity.NetworkOf(instance, "team", v1.Network{Mode: v1.NetworkNAT})
	w := &wire{t: t, bridge: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.Bridge()}}}
	tap := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: identity.Tap(instance, v1.NetworkNAT, "a")}, PeerName: "guest0"}
	lo, err := netlink.LinkByName("lo")
	w.must(err)
	w.must(netlink.LinkAdd(w.bridge))
	w.must(netlink.LinkAdd(tap))
	w.must(netlink.LinkSetMaster(tap, w.bridge))
	guest, err := netlink.LinkByName("guest0")
	w.must(err)
	for _, l := range []netlink.Link{lo, w.bridge, tap, guest} {
		w.must(netlink.LinkSetUp(l))
	}
	w.must(netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(hostAddress), Mask: net.CIDRMask(32, 32)}}))
	for _, link := range []string{"all", tap.Name} { // not every host checks sources
		w.must(os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", []byte("0"), 0))
	}
	w.tap, w.mac = tap, guest.Attrs().HardwareAddr
	w.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	w.must(err)
	t.Cleanup(func() { _ = unix.Close(w.socket) })
	w.must(unix.Bind(w.socket, &unix.SockaddrLinklayer{Ifindex: guest.Attrs().Index}))
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// send sends a frame.
func (w *wire) send(to, from net.HardwareAddr, etherType uint16, payload []byte) {
	w.t.Helper()
	frame := slices.Concat(to, from, binary.BigEndian.AppendUint16(nil, etherType), payload, make([]byte, 46))
	_, err := unix.Write(w.socket, frame)
	w.must(err)
}

// datagram is an IPv4 packet with a UDP datagram for the host's service.
func datagram(text string) []byte {
	be := binary.BigEndian
	ip := make([]byte, 20, 28+len(text))
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	be.PutUint16(ip[2:], uint16(28+len(text)))
	copy(ip[12:], netip.MustParseAddr(guestAddress).AsSlice())
	copy(ip[16:], netip.MustParseAddr(hostAddress).AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(be.Uint16(ip[i:]))
	}
	be.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	ip = be.AppendUint16(ip, 1000)
	ip = be.AppendUint16(ip, hostService)
	ip = be.AppendUint16(ip, uint16(8+len(text)))
	return append(append(ip, 0, 0), text...)
}

// question asks by ARP who has the host's address.
func question() []byte {
	arp := []byte{0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1}
	arp = append(arp, netip.MustParseAddr(guestAddress).AsSlice()...)
	return append(append(arp, make([]byte, 6)...), netip.MustParseAddr(hostAddress).AsSlice()...)
}

// answered tells whether the host has taken up a question by ARP.
func (w *wire) answered() bool {
	w.t.Helper()
	list, err := netlink.NeighList(w.tap.Attrs().Index, netlink.FAMILY_V4)
	w.must(err)
	return slices.ContainsFunc(list, func(n netlink.Neigh) bool { return n.IP.String() == guestAddress })
}

// heard waits until the service was sent the marker by the host itself, and
// returns what it was sent before.
func heard(t *testing.T, service net.PacketConn) (texts []string) {
	t.Helper()
	if _, err := service.WriteTo([]byte("marker"), service.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	for {
		n, _, err := service.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if string(b[:n]) == "marker" {
			return texts
		}
		texts = append(texts, string(b[:n]))
	}
}

// eventually waits for what takes the kernel a moment.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// endsAtBridge are the addresses 01:80:c2:00:00:0X, whose frames a bridge does
// not pass on.
func endsAtBridge() (all []net.HardwareAddr) {
	for x := range 16 {
		all = append(all, net.HardwareAddr{1, 0x80, 0xc2, 0, 0, byte(x)})
	}
	return all
}

// TestFramesThatEndAtTheBridge: the kernel hands what such frames carry to the
// host as received on the tap. It must get nowhere there.
func TestFramesThatEndAtTheBridge(t *testing.T) {
	inNamespace(t)
	w := newWire(t)
	service, err := net.ListenPacket("udp4", net.JoinHostPort(hostAddress, "9999"))
	w.must(err)
	defer func() { _ = service.Close() }()

	lldp := endsAtBridge()[14]
	eventually(t, "without the rules the host hears a guest, so this test can fail", func() bool {
		w.send(lldp, w.mac, unix.ETH_P_IP, datagram("guest"))
		w.send(lldp, w.mac, unix.ETH_P_ARP, question())
		return len(heard(t, service)) > 0 && w.answered()
	})

	w.must(New(instance).Ensure())
	list, err := netlink.NeighList(w.tap.Attrs().Index, netlink.FAMILY_V4)
	w.must(err)
	for _, n := range list {
		w.must(netlink.NeighDel(&n))
	}
	_ = heard(t, service) // what was under way
	for _, to := range endsAtBridge() {
		for range 20 {
			w.send(to, w.mac, unix.ETH_P_IP, datagram("guest"))
			w.send(to, w.mac, unix.ETH_P_ARP, question())
		}
	}
	if got := heard(t, service); len(got) > 0 {
		t.Errorf("the host hears %q", got)
	}
	if w.answered() {
		t.Error("the host answers ARP")
	}
}

// TestFramesThatEndAtTheBridgeTeachItNothing: nor may they tell the bridge
// where another guest's MAC address is.
func TestFramesThatEndAtTheBridgeTeachItNothing(t *testing.T) {
	inNamespace(t)
	w := newWire(t)
	w.must(New(instance).Ensure())
	// The settings are in /sys, which shows the network namespace it was mounted in.
	w.must(unix.Unshare(unix.CLONE_NEWNS))
	w.must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	w.must(unix.Mount("sysfs", "/sys", "sysfs", 0, ""))

	victim := net.HardwareAddr{0x52, 0x54, 0xaa, 0xbb, 0xcc, 0xdd}
	learned := func() bool {
		t.Helper()
		list, err := netlink.NeighList(w.tap.Attrs().Index, unix.AF_BRIDGE)
		w.must(err)
		return slices.ContainsFunc(list, func(n netlink.Neigh) bool { return n.HardwareAddr.String() == victim.String() })
	}
	eventually(t, "without the setting the bridge learns, so this test can fail", func() bool {
		w.send(endsAtBridge()[14], victim, 0x88cc, nil)
		return learned()
	})
	if hostnet.Flaw(w.bridge.Name) == "" {
		t.Error("a bridge without the settings passes")
	}
	w.must(hostnet.Guard(w.bridge.Name))
	if flaw := hostnet.Flaw(w.bridge.Name); flaw != "" {
		t.Error(flaw)
	}
	w.must(netlink.LinkSetNoMaster(w.tap)) // forgets what was learned
	w.must(netlink.LinkSetMaster(w.tap, w.bridge))
	if learned() {
		t.Fatal("what was learned before stays")
	}
	for _, to := range endsAtBridge() {
		for range 20 {
			w.send(to, victim, 0x88cc, nil)
		}
	}
	if learned() {
		t.Error("the bridge believes that another's MAC address is there")
	}
}
