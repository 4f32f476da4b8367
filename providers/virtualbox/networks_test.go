package virtualbox_test

import (
	"net"
	"strconv"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestLoopbackStaysClosed: VirtualBox forgets, with each VBoxSVC, that a machine
// on NAT must not reach the host's loopback addresses. No machine runs with them
// open, and one that is off or saved is not taken for changed.
func TestLoopbackStaysClosed(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	spec := l.spec("machine")
	spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{
		{Name: "tcp", GuestPort: 22}, {Name: "udp", Protocol: v1.ProtocolUDP, HostAddress: "0.0.0.0", GuestPort: 53},
	}}
	id := l.made(t, spec)
	reachable := func() bool {
		return strings.Contains(manage(t, "showvminfo", string(id), "--machinereadable"), `localhostReachable="1"`)
	}
	wantClosed := func(when string) {
		t.Helper()
		m := l.get(t, id)
		if m.Power != providers.PowerRunning || !m.Network.Isolated || m.Network.Beyond == "" || reachable() {
			t.Errorf("%s: %+v", when, m)
		}
	}
	killSVC(t)
	if !reachable() {
		t.Log("this VirtualBox remembers the setting")
	}
	if m := l.get(t, id); m.Hashes != spec.Hashes() {
		t.Errorf("off, it is taken for changed: %s", m.Network.Detail)
	}
	must(t, l.p.Start(ctx, id))
	wantClosed("started")
	for _, f := range l.get(t, id).PortForwards {
		if f.Protocol != v1.ProtocolTCP {
			continue
		}
		if c, err := net.Dial("tcp", net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort)))); err != nil {
			t.Errorf("port forward %s: %v", f.Name, err)
		} else {
			_ = c.Close()
		}
	}
	spec.Network.PortForwards = append(spec.Network.PortForwards, v1.PortForward{Name: "more", GuestPort: 80})
	must(t, l.p.EnsureMachine(ctx, spec))
	if m := l.get(t, id); len(m.PortForwards) != 3 || m.Hashes != spec.Hashes() {
		t.Errorf("with one forward more: %+v", m)
	}
	must(t, l.p.Suspend(ctx, id))
	killSVC(t)
	must(t, l.p.Start(ctx, id))
	wantClosed("resumed")
}
