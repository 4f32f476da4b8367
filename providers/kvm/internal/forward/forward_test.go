package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// guestTCP answers each line with the same in capitals, and ends when the
// client does.
func guestTCP(t *testing.T) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer func() { _ = c.Close() }()
				s := bufio.NewScanner(c)
				for s.Scan() {
					_, _ = fmt.Fprintln(c, strings.ToUpper(s.Text()))
				}
				_, _ = fmt.Fprintln(c, "BYE")
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	return int32(l.Addr().(*net.TCPAddr).Port)
}

func newSet(t *testing.T) *Set {
	s := NewSet(nil)
	t.Cleanup(s.Close)
	return s
}

func forward(name string, guestPort int32) v1.PortForward {
	return v1.PortForward{Name: name, Protocol: v1.ProtocolTCP, HostAddress: "127.0.0.1", GuestPort: guestPort}
}

func reserve(t *testing.T, s *Set, id string, want, have []v1.PortForward) []v1.PortForward {
	t.Helper()
	got, err := s.Reserve(id, want, have)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range got {
		if f.HostPort == 0 {
			t.Fatalf("%+v has no port", f)
		}
	}
	if !s.Holds(id, got) {
		t.Fatalf("%+v are not held", got)
	}
	return got
}

func dial(t *testing.T, f v1.PortForward) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(f.HostAddress, fmt.Sprint(f.HostPort)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

func TestTCP(t *testing.T) {
	s := newSet(t)
	f := reserve(t, s, "m", []v1.PortForward{forward("a", guestTCP(t))}, nil)[0]
	if b, err := io.ReadAll(dial(t, f)); len(b) > 0 || err != nil {
		t.Errorf("without a guest: %q, %v", b, err)
	}
	if s.Aimed("m") {
		t.Error("it leads to a guest that there is not")
	}
	s.SetTarget("m", loopback)
	if !s.Aimed("m") {
		t.Error("it leads to no guest")
	}
	c := dial(t, f)
	_, _ = fmt.Fprintln(c, "hello")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "HELLO\nBYE\n" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestUDP(t *testing.T) {
	guest, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := guest.ReadFromUDP(b)
			if err != nil {
				return
			}
			_, _ = guest.WriteToUDP([]byte(strings.ToUpper(string(b[:n]))), from)
		}
	})
	t.Cleanup(func() { _ = guest.Close(); work.Wait() })
	s := newSet(t)
	f := forward("a", int32(guest.LocalAddr().(*net.UDPAddr).Port))
	f.Protocol = v1.ProtocolUDP
	f = reserve(t, s, "m", []v1.PortForward{f}, nil)[0]
	s.SetTarget("m", loopback)
	for _, word := range []string{"one", "two"} {
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", f.HostPort))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = fmt.Fprint(c, word)
		b := make([]byte, 100)
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		n, err := c.Read(b)
		if err != nil || string(b[:n]) != strings.ToUpper(word) {
			t.Errorf("%s: %q, %v", word, b[:n], err)
		}
	}
}

func TestPortsAreKept(t *testing.T) {
	s := newSet(t)
	first := reserve(t, s, "m", []v1.PortForward{forward("a", 1)}, nil)
	both := reserve(t, s, "m", []v1.PortForward{forward("b", 2), forward("a", 1)}, first)
	if both[1] != first[0] {
		t.Errorf("%+v became %+v", first[0], both[1])
	}
	changed := reserve(t, s, "m", []v1.PortForward{forward("a", 3)}, both)
	if changed[0].HostPort != first[0].HostPort || changed[0].GuestPort != 3 {
		t.Errorf("%+v became %+v", first[0], changed[0])
	}
	renamed := reserve(t, s, "m", []v1.PortForward{{Name: "z", GuestPort: 4, HostPort: changed[0].HostPort}}, changed)
	if renamed[0].HostPort != changed[0].HostPort {
		t.Errorf("%+v became %+v", changed[0], renamed[0])
	}
	s.Release("m") // as the end of the process does
	again := reserve(t, s, "m", []v1.PortForward{forward("a", 3)}, changed)
	if again[0] != changed[0] {
		t.Errorf("%+v became %+v", changed[0], again[0])
	}
}

// TestPortsThatAreAskedFor: who asks for a port gets it, also one that another
// forward of the same machine was given, whatever their order.
func TestPortsThatAreAskedFor(t *testing.T) {
	s := newSet(t)
	any := forward("any", 1)
	had := reserve(t, s, "m", []v1.PortForward{any}, nil)
	asks := forward("asks", 2)
	asks.HostPort = had[0].HostPort
	got := reserve(t, s, "m", []v1.PortForward{any, asks}, had)
	if got[1] != asks || got[0].HostPort == asks.HostPort || got[0].Name != "any" {
		t.Errorf("got %+v", got)
	}
	again := reserve(t, s, "m", []v1.PortForward{any, asks}, got)
	if !slices.Equal(again, got) {
		t.Errorf("%+v became %+v", got, again)
	}
}

func TestConflicts(t *testing.T) {
	s := newSet(t)
	one := reserve(t, s, "one", []v1.PortForward{forward("a", 1)}, nil)
	want := []v1.PortForward{forward("b", 2), {Name: "a", GuestPort: 1, HostPort: one[0].HostPort}}
	_, err := s.Reserve("two", want, nil)
	if !errors.Is(err, providers.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprint(one[0].HostPort)) {
		t.Errorf("a port that is taken: %v", err)
	}
	if !s.Holds("two", nil) || !s.Holds("one", one) {
		t.Error("a reservation that failed changed something")
	}
	s.Release("one")
	reserve(t, s, "two", want, nil)

	bad := forward("a", 1)
	bad.HostAddress = "203.0.113.9"
	if _, err := s.Reserve("three", []v1.PortForward{bad}, nil); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("an address of another host: %v", err)
	}
}

func TestDroppedAndClosed(t *testing.T) {
	s := newSet(t)
	f := reserve(t, s, "m", []v1.PortForward{forward("a", guestTCP(t))}, nil)
	s.SetTarget("m", loopback)
	open := dial(t, f[0])
	_, _ = fmt.Fprintln(open, "x")
	if _, err := bufio.NewReader(open).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	reserve(t, s, "m", nil, f)
	if _, err := io.Copy(io.Discard, open); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("an open connection ends with %v", err)
	}
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f[0].HostPort)); err == nil {
		t.Error("the port is still open")
	}
	s.Close()
	s.Close()
	if _, err := s.Reserve("m", f, nil); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

// TestCloseEndsDialling: a guest that does not answer, because it was just
// ended, holds nobody up who closes its ports.
func TestCloseEndsDialling(t *testing.T) {
	dialling := make(chan struct{})
	p, err := listenTCP("127.0.0.1:0", func() (string, bool) { return "192.0.2.1:1", true }, func() func() { return func() {} },
		func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(dialling)
			<-ctx.Done()
			return nil, ctx.Err()
		})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	<-dialling
	p.Close()
}

func TestManyAtOnce(t *testing.T) {
	s := newSet(t)
	f := reserve(t, s, "m", []v1.PortForward{forward("a", guestTCP(t))}, nil)[0]
	s.SetTarget("m", loopback)
	var work sync.WaitGroup
	for n := range 50 {
		work.Go(func() {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f.HostPort))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = fmt.Fprintf(c, "n%d\n", n)
			_ = c.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(c); string(b) != fmt.Sprintf("N%d\nBYE\n", n) || err != nil {
				t.Errorf("%d: %q, %v", n, b, err)
			}
		})
	}
	work.Wait()
}
