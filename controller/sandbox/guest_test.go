package sandbox

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestCheckPort looks at ports in time that passes when nothing else is to be done: a
// busy host is no slow guest. A forward accepts whether the guest does or not, so that
// what happens after it counts.
func TestCheckPort(t *testing.T) {
	silent := func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }
	refusing := func(net.Conn) {}
	greeting := func(conn net.Conn) { _, _ = conn.Write([]byte("SSH-2.0-test\r\n")); silent(conn) }
	slowly := func(conn net.Conn) { time.Sleep(probeTimeout - time.Millisecond); greeting(conn) }
	late := func(conn net.Conn) { time.Sleep(probeTimeout + time.Millisecond); greeting(conn) }
	const guestPort, hostPort = 2222, 40022

	for name, c := range map[string]struct {
		mode    v1.ReadinessMode
		direct  func(net.Conn) // what serves at the leased address; nil: nothing does
		forward func(net.Conn) // what serves at the forward; nil: there is no forward
		leased  bool
		ready   bool
		message string
	}{
		"direct tcp":                   {mode: v1.ReadinessTCP, leased: true, direct: silent, ready: true},
		"direct tcp that hangs up":     {mode: v1.ReadinessTCP, leased: true, direct: refusing, ready: true},
		"direct tcp, closed":           {mode: v1.ReadinessTCP, leased: true, message: "no connection yet"},
		"direct before a forward":      {mode: v1.ReadinessTCP, leased: true, forward: silent, message: "no connection yet"},
		"forwarded tcp":                {mode: v1.ReadinessTCP, forward: silent, ready: true},
		"forwarded tcp that talks":     {mode: v1.ReadinessTCP, forward: greeting, ready: true},
		"forwarded tcp, guest refuses": {mode: v1.ReadinessTCP, forward: refusing, message: "the guest does not accept yet"},
		"no address":                   {mode: v1.ReadinessTCP, message: "waiting for an address of the guest"},
		"direct ssh":                   {mode: v1.ReadinessSSH, leased: true, direct: greeting, ready: true},
		"direct ssh, slowly":           {mode: v1.ReadinessSSH, leased: true, direct: slowly, ready: true},
		"direct ssh, late":             {mode: v1.ReadinessSSH, leased: true, direct: late, message: "no ssh server greets yet"},
		"direct ssh, silent":           {mode: v1.ReadinessSSH, leased: true, direct: silent, message: "no ssh server greets yet"},
		"forwarded ssh":                {mode: v1.ReadinessSSH, forward: greeting, ready: true},
		"forwarded ssh, guest refuses": {mode: v1.ReadinessSSH, forward: refusing, message: "no ssh server greets yet"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				served := lines{}
				if c.direct != nil {
					served[fmt.Sprintf("127.0.0.1:%d", guestPort)] = c.direct
				}
				m := &providers.Machine{}
				if c.leased {
					m.Addresses = []v1.GuestAddress{{IP: "127.0.0.1", Source: v1.AddressFromLease}}
				}
				if c.forward != nil {
					served[fmt.Sprintf("127.0.0.1:%d", hostPort)] = c.forward
					m.PortForwards = []v1.PortForward{{Protocol: v1.ProtocolTCP, GuestPort: guestPort, HostAddress: "127.0.0.1", HostPort: hostPort}}
				}
				sbx := &v1.Sandbox{}
				sbx.Spec.Readiness = v1.Readiness{Mode: c.mode, Port: guestPort}
				got := checkPort(t.Context(), served, sbx, m)
				if ready := got.status == metav1.ConditionTrue; ready != c.ready || !strings.Contains(got.message, c.message) {
					t.Errorf("got %v: %s; want ready %v, %q", ready, got.message, c.ready, c.message)
				}
				time.Sleep(2 * probeTimeout) // what serves late ends
			})
		})
	}
}

// lines are what serves at each address, without a network.
type lines map[string]func(net.Conn)

// DialContext implements Dialer.
func (l lines) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	serve, ok := l[address]
	if !ok || network != "tcp" {
		return nil, syscall.ECONNREFUSED
	}
	near, far := net.Pipe()
	go func() {
		defer func() { _ = far.Close() }()
		serve(far)
	}()
	return near, nil
}

// TestRealPort: what a network says of a port is understood.
func TestRealPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	m := &providers.Machine{Addresses: []v1.GuestAddress{{IP: "127.0.0.1", Source: v1.AddressFromLease}}}
	sbx := &v1.Sandbox{}
	sbx.Spec.Readiness = v1.Readiness{Mode: v1.ReadinessTCP, Port: int32(l.Addr().(*net.TCPAddr).Port)}
	for deadline := time.Now().Add(time.Minute); ; { // a busy host may take longer than a probe does
		got := checkPort(t.Context(), &net.Dialer{}, sbx, m)
		if got.status == metav1.ConditionTrue {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never ready: %s", got.message)
		}
	}
}

// TestAwaitsAddress: a guest that is up and has no address yet is looked at soon,
// but not for ever, and not where none will come.
func TestAwaitsAddress(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		mode   v1.NetworkMode
		guest  metav1.ConditionStatus
		since  time.Duration
		has    int
		awaits bool
	}{
		"just up":        {v1.NetworkNAT, metav1.ConditionTrue, 0, 0, true},
		"up for long":    {v1.NetworkNAT, metav1.ConditionTrue, addressPatience, 0, false},
		"has one":        {v1.NetworkNAT, metav1.ConditionTrue, 0, 1, false},
		"not up":         {v1.NetworkNAT, metav1.ConditionFalse, 0, 0, false},
		"has no network": {v1.NetworkNone, metav1.ConditionTrue, 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			sbx := &v1.Sandbox{}
			sbx.Spec.Network.Mode = tc.mode
			sbx.Status.Conditions = []metav1.Condition{{
				Type: v1.ConditionGuestReady, Status: tc.guest, LastTransitionTime: metav1.NewTime(now.Add(-tc.since)),
			}}
			v := view{
				sbx: sbx, now: now, guest: guestCheck{status: tc.guest},
				machine: &providers.Machine{Addresses: make([]v1.GuestAddress, tc.has)},
			}
			if got := awaitsAddress(v); got != tc.awaits {
				t.Fatalf("got %v", got)
			}
			r := &Reconciler{o: Options{Resync: time.Hour}}
			if got := r.requeueAfter(v); (got == addressInterval) != tc.awaits {
				t.Errorf("looked at again after %v", got)
			}
		})
	}
}
