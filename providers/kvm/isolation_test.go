//go:build linux

package kvm_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm"
)

// The network around the guests of these tests:
//
//	outside 203.0.113.2:80 ── veth ── 203.0.113.1 the host :8080 ── bridges ── guests :8000
//	        "OUTSIDE"                 on every address: "HOST"                 "GUEST"
const (
	outsideAddr = "203.0.113.2"
	hostAddr    = "203.0.113.1"
	outsidePort = 80
	hostPort    = 8080
	guestPort   = 8000
)

// lab is a host with an outside and one provider.
type lab struct {
	*host
	instance providers.Instance
	p        *kvm.Provider
	image    providers.ImageRef
}

func newLab(t *testing.T) *lab {
	h := newHost(t)
	instance := providers.Instance(newID())
	l := &lab{host: h, instance: instance, p: h.open(t, instance)}
	t.Cleanup(func() {
		must(t, l.p.Close())
		if left := h.audit(t); len(left) > 0 {
			t.Errorf("left on the host: %q", left)
		}
	})
	source := tinySource(t)
	l.image = providers.ImageRef{UID: newID(), Revision: "1"}
	_, err := l.p.ImportImage(context.Background(), providers.ImageSpec{ImageRef: l.image, Name: "tiny", Source: v1.ImageSource{Disk: &source}}, nil)
	must(t, err)
	t.Cleanup(func() { must(t, l.p.DeleteImage(context.Background(), l.image)) })
	return l
}

// outside makes the network that the host is connected to.
func (l *lab) outside(t *testing.T) {
	t.Helper()
	run(t, "ip", "netns", "add", "outside")
	t.Cleanup(func() { run(t, "ip", "netns", "del", "outside") })
	run(t, "ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", "outside")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "out0").Run() })
	run(t, "ip", "addr", "add", hostAddr+"/24", "dev", "out0")
	run(t, "ip", "link", "set", "out0", "up")
	run(t, "ip", "-n", "outside", "addr", "add", outsideAddr+"/24", "dev", "out1")
	run(t, "ip", "-n", "outside", "link", "set", "out1", "up")
	run(t, "ip", "-n", "outside", "link", "set", "lo", "up")
	greet(t, listenIn(t, "outside", fmt.Sprintf("%s:%d", outsideAddr, outsidePort)), "OUTSIDE")
	here, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", hostPort))
	must(t, err)
	greet(t, here, "HOST")
	// What must not be reached from guests is reached from elsewhere.
	eventually(t, "the outside is reached from the host", func() bool { return fromHost(outsideAddr, outsidePort) == "OUTSIDE" })
	if got := fromHost(hostAddr, hostPort); got != "HOST" {
		t.Fatalf("the host's service answers %q", got)
	}
}

// listenIn listens in a network namespace.
func listenIn(t *testing.T, namespace, addr string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + namespace)
		if err == nil {
			defer func() { _ = ns.Close() }()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp4", addr)
		done <- result{l, err}
	}()
	r := <-done
	must(t, r.err)
	return r.l
}

// greet answers every connection with a word.
func greet(t *testing.T, l net.Listener, word string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, word+"\n")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

// fromHost connects from the host and returns the greeting, or "".
func fromHost(addr string, port int) string {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, strconv.Itoa(port)), 5*time.Second)
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b, _ := io.ReadAll(io.LimitReader(c, 100))
	return strings.TrimSpace(string(b))
}

// boot makes and starts a machine and waits for its agent.
func (l *lab) boot(t *testing.T, name string, n v1.Network, more ...func(*providers.MachineSpec)) types.UID {
	t.Helper()
	spec := l.spec(name, n)
	for _, f := range more {
		f(&spec)
	}
	t.Cleanup(func() { remove(t, l.p, spec.ID) })
	must(t, l.p.EnsureMachine(context.Background(), spec))
	must(t, l.p.Start(context.Background(), spec.ID))
	return spec.ID
}

func (l *lab) spec(name string, n v1.Network) providers.MachineSpec {
	return providers.MachineSpec{
		ID: newID(), Namespace: "default", Name: name, Image: l.image, CPUs: 1, MemoryBytes: 128 << 20,
		Network: n, Seed: providers.Seed{Hostname: name},
	}
}

// ready waits for the agents of machines and lets each greet at guestPort.
func (l *lab) ready(t *testing.T, ids ...types.UID) {
	t.Helper()
	for _, id := range ids {
		eventually(t, "the agent of "+string(id), func() bool { return l.get(t, id).Agent == providers.AgentConnected })
		l.sh(t, id, `(while :; do echo GUEST | nc -l -p `+strconv.Itoa(guestPort)+`; done) </dev/null >/dev/null 2>&1 &`)
	}
}

func (l *lab) get(t *testing.T, id types.UID) providers.Machine {
	t.Helper()
	m, err := l.p.GetMachine(context.Background(), id)
	must(t, err)
	return m
}

// sh runs a script in a guest and returns its output.
func (l *lab) sh(t *testing.T, id types.UID, script string) string {
	t.Helper()
	var out bytes.Buffer
	_, err := l.p.Exec(context.Background(), id, providers.ExecRequest{
		Command: []string{"sh", "-c", script}, Stdout: &out, Stderr: &out, Timeout: bootLimit,
	})
	must(t, err)
	return strings.TrimSpace(out.String())
}

// connect connects from a guest and returns the greeting, or "".
func (l *lab) connect(t *testing.T, id types.UID, addr string, port int) string {
	t.Helper()
	out := l.sh(t, id, fmt.Sprintf("nc -w 4 %s %d </dev/null 2>/dev/null", addr, port))
	return out
}

// pings tells whether a guest gets an answer to a ping.
func (l *lab) pings(t *testing.T, id types.UID, addr string) bool {
	t.Helper()
	return l.sh(t, id, "ping -c 2 -W 2 "+addr+" >/dev/null 2>&1 && echo yes") == "yes"
}

// lease waits for a machine's address.
func (l *lab) lease(t *testing.T, id types.UID) string {
	t.Helper()
	var ip string
	eventually(t, "an address of "+string(id), func() bool {
		for _, a := range l.get(t, id).Addresses {
			if a.Source == v1.AddressFromLease {
				ip = a.IP
			}
		}
		return ip != ""
	})
	return ip
}

func (l *lab) wantIsolated(t *testing.T, id types.UID) {
	t.Helper()
	if n := l.get(t, id).Network; !n.Isolated {
		t.Errorf("machine %s is not observed to be isolated: %s", id, n.Detail)
	}
}

// refused fails if a guest reached something.
func (l *lab) refused(t *testing.T, what string, from types.UID, addr string, port int) {
	t.Helper()
	if got := l.connect(t, from, addr, port); got != "" {
		t.Errorf("%s: %s:%d answered %q", what, addr, port, got)
	}
}

func (l *lab) reached(t *testing.T, what string, from types.UID, addr string, port int, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s: %s:%d answers %q", what, addr, port, want), func() bool {
		return l.connect(t, from, addr, port) == want
	})
}

// answers waits until a port answers the host. A guest's service takes one
// connection at a time and a moment to come back.
func answers(t *testing.T, addr string, port int, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s:%d answers %q", addr, port, want), func() bool { return fromHost(addr, port) == want })
}

// still ends the guest's own search for an address, which takes away those that
// it is given by hand.
func (l *lab) still(t *testing.T, id types.UID) {
	t.Helper()
	l.sh(t, id, "n=0; until [ -s /run/udhcpc.eth0.pid ] || [ $n -gt 300 ]; do sleep 0.2; n=$((n+1)); done; while killall udhcpc 2>/dev/null; do sleep 0.2; done; ip addr flush dev eth0; ip link set eth0 up")
}

func TestIsolationNone(t *testing.T) {
	l := newLab(t)
	id := l.boot(t, "none", v1.Network{Mode: v1.NetworkNone})
	l.ready(t, id)
	l.wantIsolated(t, id)
	if links := l.sh(t, id, "ls /sys/class/net"); links != "lo" {
		t.Errorf("the guest has the links %q", links)
	}
}

func TestIsolationIntnet(t *testing.T) {
	l := newLab(t)
	l.outside(t)
	a := l.boot(t, "a", v1.Network{Mode: v1.NetworkIntnet, Name: "x"})
	b := l.boot(t, "b", v1.Network{Mode: v1.NetworkIntnet, Name: "x"})
	l.ready(t, a, b)
	l.wantIsolated(t, a)
	l.wantIsolated(t, b)
	// The guests choose addresses, also such as the host's own network has.
	l.still(t, a)
	l.still(t, b)
	l.sh(t, a, "ip addr add 192.168.77.1/24 dev eth0; ip addr add 203.0.113.51/24 dev eth0")
	l.sh(t, b, "ip addr add 192.168.77.2/24 dev eth0")
	l.reached(t, "guest to guest", a, "192.168.77.2", guestPort, "GUEST")
	l.reached(t, "guest to guest", b, "192.168.77.1", guestPort, "GUEST")
	l.refused(t, "guest to host", a, hostAddr, hostPort)
	if l.pings(t, a, hostAddr) {
		t.Error("the host answers a ping")
	}
	if got := l.sh(t, a, "grep '"+hostAddr+" ' /proc/net/arp"); strings.Contains(got, "0x2") {
		t.Errorf("the host answers ARP for an address of another link: %s", got)
	}
	// A route by way of the host's MAC address leads nowhere either.
	mac := strings.TrimSpace(string(readFile(t, "/sys/class/net/"+bridgeOf(t, a)+"/address")))
	l.sh(t, a, "ip addr del 203.0.113.51/24 dev eth0; arp -s 192.168.77.254 "+mac+"; ip route add default via 192.168.77.254")
	l.refused(t, "guest to outside by the host's MAC address", a, outsideAddr, outsidePort)
	l.refused(t, "guest to host by its MAC address", a, hostAddr, hostPort)
	// A frame with another's MAC address is not let through.
	own := l.sh(t, a, "cat /sys/class/net/eth0/address")
	l.sh(t, a, "ip link set eth0 down; ip link set eth0 address 52:54:00:11:22:33; ip link set eth0 up")
	l.refused(t, "guest to guest under another MAC address", a, "192.168.77.2", guestPort)
	l.sh(t, a, "ip link set eth0 down; ip link set eth0 address "+own+"; ip link set eth0 up")
	l.reached(t, "guest to guest under its own again", a, "192.168.77.2", guestPort, "GUEST")

	// The tests above can fail: without the rules, the host answers ARP for an
	// address of another link.
	l.sh(t, a, "ip route del default; ip addr add 203.0.113.51/24 dev eth0; ip neigh flush dev eth0")
	table := tableOf(t)
	run(t, "sysctl", "-qw", "net.ipv4.conf."+bridgeOf(t, a)+".arp_ignore=0", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf."+bridgeOf(t, a)+".rp_filter=0")
	for _, family := range []string{"arp", "bridge", "inet"} {
		run(t, "nft", "delete", "table", family, table)
	}
	eventually(t, "without the rules the host answers ARP, so the tests above can fail", func() bool {
		l.pings(t, a, hostAddr)
		return strings.Contains(l.sh(t, a, "grep '"+hostAddr+" ' /proc/net/arp"), "0x2")
	})
	eventually(t, "the loss of the rules is noticed", func() bool { return !l.get(t, a).Network.Isolated })
	eventually(t, "the rules are back", func() bool { return l.get(t, a).Network.Isolated && l.get(t, b).Network.Isolated })
	l.reached(t, "guest to guest with the rules back", a, "192.168.77.2", guestPort, "GUEST")
	l.refused(t, "guest to host with the rules back", a, hostAddr, hostPort)
	run(t, "sysctl", "-qw", "net.ipv4.conf."+bridgeOf(t, a)+".arp_ignore=0")
	eventually(t, "a bridge that answers for all addresses is noticed", func() bool { return !l.get(t, a).Network.Isolated })
	eventually(t, "it answers for its own alone again", func() bool { return l.get(t, a).Network.Isolated })
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// bridgeOf is the bridge that a machine is on.
func bridgeOf(t *testing.T, id types.UID) string {
	t.Helper()
	master, err := os.Readlink("/sys/class/net/" + tapOf(t, id) + "/master")
	must(t, err)
	return filepath.Base(master)
}

func TestIsolationHostonlyAndNAT(t *testing.T) {
	l := newLab(t)
	l.outside(t)
	hostonly := v1.Network{Mode: v1.NetworkHostOnly}
	nat := v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "echo", GuestPort: guestPort}}}
	h1, h2 := l.boot(t, "h1", hostonly), l.boot(t, "h2", hostonly)
	n1, n2 := l.boot(t, "n1", nat), l.boot(t, "n2", v1.Network{Mode: v1.NetworkNAT})
	l.ready(t, h1, h2, n1, n2)
	ips := map[types.UID]string{}
	gates := map[types.UID]string{}
	for _, id := range []types.UID{h1, h2, n1, n2} {
		ips[id] = l.lease(t, id)
		l.wantIsolated(t, id)
		_, addr, _ := strings.Cut(run(t, "ip", "-4", "-br", "addr", "show", bridgeOf(t, id)), "UP")
		gates[id], _, _ = strings.Cut(strings.TrimSpace(addr), "/")
		// A lease is told when it is given, which is before the guest has taken it.
		eventually(t, "the guest has its lease, "+ips[id], func() bool {
			return strings.Contains(l.sh(t, id, "ip -4 -o addr show dev eth0"), ips[id]+"/")
		})
	}

	t.Run("the host reaches guests", func(t *testing.T) {
		for _, id := range []types.UID{h1, h2, n1, n2} {
			answers(t, ips[id], guestPort, "GUEST")
		}
		f := l.get(t, n1).PortForwards
		if len(f) != 1 {
			t.Fatalf("the forwards are %+v", f)
		}
		answers(t, f[0].HostAddress, int(f[0].HostPort), "GUEST")
	})
	t.Run("no guest reaches the host", func(t *testing.T) {
		for _, id := range []types.UID{h1, n1} {
			for _, addr := range []string{gates[h1], gates[n1], hostAddr} {
				l.refused(t, "guest to host", id, addr, hostPort)
				if l.pings(t, id, addr) {
					t.Errorf("the host answers a ping to %s", addr)
				}
			}
		}
	})
	t.Run("nor by frames that end at the bridge", func(t *testing.T) {
		const lldp = "01:80:c2:00:00:0e"
		for _, id := range []types.UID{h1, n1} {
			l.sh(t, id, "arp -s "+gates[id]+" "+lldp)
			if l.pings(t, id, gates[id]) || id == n1 && l.pings(t, id, hostAddr) {
				t.Error("the host answers a ping")
			}
			l.sh(t, id, "arp -d "+gates[id])
		}
		victim, own := providers.MACAddress(n1, 0), providers.MACAddress(n2, 0)
		become := "ip link set eth0 down; ip link set eth0 address %s; ip link set eth0 up; "
		l.sh(t, n2, fmt.Sprintf(become+"arp -s %s %s; ping -c 2 -W 1 %s; arp -d %s; "+become+"ip route replace default via %s",
			victim, gates[n2], lldp, gates[n2], gates[n2], own, gates[n2]))
		if fdb := run(t, "bridge", "fdb", "show", "brport", tapOf(t, n2)); strings.Contains(fdb, victim) {
			t.Errorf("a guest draws another's frames to itself: %s", fdb)
		}
	})
	t.Run("no guest reaches another", func(t *testing.T) {
		for _, from := range []types.UID{h1, n1} {
			for _, to := range []types.UID{h2, n2} {
				l.refused(t, "guest to guest", from, ips[to], guestPort)
			}
		}
	})
	t.Run("only nat reaches outside", func(t *testing.T) {
		l.reached(t, "nat guest to outside", n1, outsideAddr, outsidePort, "OUTSIDE")
		l.reached(t, "nat guest to outside", n2, outsideAddr, outsidePort, "OUTSIDE")
		l.sh(t, h1, "ip route replace default via "+gates[h1])
		l.refused(t, "hostonly guest to outside", h1, outsideAddr, outsidePort)
	})
	t.Run("a guest that takes another's address is mute", func(t *testing.T) {
		l.still(t, n2)
		become := func(addr string) {
			t.Helper()
			l.sh(t, n2, "ip addr flush dev eth0; ip addr add "+addr+"/20 dev eth0; ip route replace default via "+gates[n2])
		}
		become(ips[n1])
		l.refused(t, "guest under another's address to outside", n2, outsideAddr, outsidePort)
		answers(t, ips[n1], guestPort, "GUEST")
		free := ips[n2][:strings.LastIndex(ips[n2], ".")+1] + "250"
		if free == ips[n2] { // addresses are chosen by the machines' IDs, which are others each time
			free = ips[n2][:strings.LastIndex(ips[n2], ".")+1] + "251"
		}
		become(free)
		l.refused(t, "guest under an address of its own choice to outside", n2, outsideAddr, outsidePort)
		run(t, "nft", "delete", "table", "bridge", tableOf(t))
		l.reached(t, "without the rules it gets out, so the tests above can fail", n2, outsideAddr, outsidePort, "OUTSIDE")
		become(ips[n2])
		eventually(t, "the rules are back", func() bool {
			return l.get(t, h1).Network.Isolated && l.get(t, n1).Network.Isolated && l.get(t, n2).Network.Isolated
		})
		l.reached(t, "guest under its own address again", n2, outsideAddr, outsidePort, "OUTSIDE")
	})
	t.Run("rules that somebody flushed are noticed and put back", func(t *testing.T) {
		run(t, "nft", "delete", "table", "inet", tableOf(t))
		l.reached(t, "without the rules a guest reaches the host, so the tests above can fail", h1, gates[h1], hostPort, "HOST")
		eventually(t, "the loss is noticed", func() bool { return !l.get(t, h1).Network.Isolated })
		eventually(t, "the rules are back", func() bool { return l.get(t, h1).Network.Isolated && l.get(t, n1).Network.Isolated })
		l.refused(t, "guest to host with the rules back", h1, gates[h1], hostPort)
		l.reached(t, "nat guest to outside with the rules back", n1, outsideAddr, outsidePort, "OUTSIDE")
	})
	t.Run("a port that is no longer isolated is noticed", func(t *testing.T) {
		run(t, "bridge", "link", "set", "dev", tapOf(t, h2), "isolated", "off")
		eventually(t, "the open port is noticed", func() bool { return !l.get(t, h1).Network.Isolated && !l.get(t, h2).Network.Isolated })
		run(t, "bridge", "link", "set", "dev", tapOf(t, h2), "isolated", "on")
		eventually(t, "the closed port is noticed", func() bool { return l.get(t, h1).Network.Isolated })
	})
	t.Run("an address that somebody gives the bridge, and a stranger on it, are noticed", func(t *testing.T) {
		br := bridgeOf(t, h1)
		run(t, "ip", "addr", "add", "198.51.100.1/24", "dev", br)
		eventually(t, "the address is noticed", func() bool { return !l.get(t, h1).Network.Isolated })
		run(t, "ip", "addr", "del", "198.51.100.1/24", "dev", br)
		eventually(t, "that it is gone is noticed", func() bool { return l.get(t, h1).Network.Isolated })
		run(t, "ip", "link", "add", "stranger", "type", "veth", "peer", "name", "stranger2")
		run(t, "ip", "link", "set", "stranger", "master", br)
		eventually(t, "the stranger is noticed", func() bool { return !l.get(t, h1).Network.Isolated })
		run(t, "ip", "link", "del", "stranger")
		eventually(t, "that it is gone is noticed", func() bool { return l.get(t, h1).Network.Isolated })
	})
	t.Run("libvirtd that is killed and comes back finds everything as it was", func(t *testing.T) {
		l.killLibvirtd(t)
		if _, err := l.p.GetMachine(context.Background(), h1); err == nil {
			t.Error("a machine was observed without libvirtd")
		}
		l.startLibvirtd(t)
		eventually(t, "the provider is back", func() bool {
			m, err := l.p.GetMachine(context.Background(), h1)
			return err == nil && m.Power == providers.PowerRunning && m.Network.Isolated && m.Agent == providers.AgentConnected
		})
		if got := l.sh(t, h1, "echo alive"); got != "alive" {
			t.Errorf("the guest says %q", got)
		}
		answers(t, ips[n1], guestPort, "GUEST")
	})
}

// tableOf is the name of the only sandboxd table.
func tableOf(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(run(t, "nft", "list", "tables")) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == "inet" && strings.HasPrefix(f[2], "sandboxd_") {
			return f[2]
		}
	}
	t.Fatal("there is no table of sandboxd")
	return ""
}

func (l *lab) killLibvirtd(t *testing.T) {
	t.Helper()
	n := libvirtdPID(t)
	must(t, syscall.Kill(n, syscall.SIGKILL))
	eventually(t, "libvirtd is gone", func() bool { return syscall.Kill(n, 0) != nil || isZombie(n) })
}

func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(b) == 0
}

func (l *lab) startLibvirtd(t *testing.T) {
	t.Helper()
	run(t, os.Getenv("SANDBOXD_LIBVIRTD_START"))
}
