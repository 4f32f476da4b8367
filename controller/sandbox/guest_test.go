package sandbox

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestCheckPort looks at real ports. A forward accepts whether the guest does
// or not, so that what happens after it counts.
func TestCheckPort(t *testing.T) {
	silent := func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }
	refusing := func(net.Conn) {}
	greeting := func(conn net.Conn) { _, _ = conn.Write([]byte("SSH-2.0-test\r\n")); silent(conn) }

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
		"direct ssh, silent":           {mode: v1.ReadinessSSH, leased: true, direct: silent, message: "no ssh server greets yet"},
		"forwarded ssh":                {mode: v1.ReadinessSSH, forward: greeting, ready: true},
		"forwarded ssh, guest refuses": {mode: v1.ReadinessSSH, forward: refusing, message: "no ssh server greets yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &providers.Machine{}
			var guestPort int32
			if c.direct != nil {
				guestPort = listen(t, c.direct)
			} else {
				guestPort = closedPort(t)
			}
			if c.leased {
				m.Addresses = []v1.GuestAddress{{IP: "127.0.0.1", Source: v1.AddressFromLease}}
			}
			if c.forward != nil {
				m.PortForwards = []v1.PortForward{{
					Protocol: v1.ProtocolTCP, GuestPort: guestPort, HostAddress: "127.0.0.1", HostPort: listen(t, c.forward),
				}}
			}
			sbx := &v1.Sandbox{}
			sbx.Spec.Readiness = v1.Readiness{Mode: c.mode, Port: guestPort}
			got := checkPort(t.Context(), &net.Dialer{}, sbx, m)
			if ready := got.status == metav1.ConditionTrue; ready != c.ready || !strings.Contains(got.message, c.message) {
				t.Errorf("got %v: %s; want ready %v, %q", ready, got.message, c.ready, c.message)
			}
		})
	}
}

// listen serves connections on a port of its own, and returns the port.
func listen(t *testing.T, serve func(net.Conn)) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			}()
		}
	}()
	return portOf(t, l)
}

// closedPort is a port that nobody listens on.
func closedPort(t *testing.T) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return portOf(t, l)
}

func portOf(t *testing.T, l net.Listener) int32 {
	t.Helper()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(n)
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
