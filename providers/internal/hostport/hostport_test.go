package hostport_test

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
)

func TestConflict(t *testing.T) {
	at := func(address string, port int32, protocol v1.Protocol) v1.PortForward {
		return v1.PortForward{HostAddress: address, HostPort: port, Protocol: protocol}
	}
	base := at("127.0.0.1", 80, v1.ProtocolTCP)
	for f, want := range map[v1.PortForward]bool{
		base: true, at("", 80, ""): true, at("0.0.0.0", 80, ""): true, at("::", 80, ""): true, at("::ffff:127.0.0.1", 80, ""): true,
		at("127.0.0.2", 80, ""): false, at("", 81, ""): false, at("", 80, v1.ProtocolUDP): false, at("::1", 80, ""): false, at("no", 80, ""): false,
	} {
		if hostport.Conflict(base, f) != want || hostport.Conflict(f, base) != want {
			t.Errorf("%+v: want %v", f, want)
		}
	}
	if hostport.Conflict(at("", 0, ""), at("", 0, "")) {
		t.Error("two that ask for any port")
	}
	if hostport.Of(at("::ffff:127.0.0.1", 80, "")) != hostport.Of(base) {
		t.Error("one port has two spellings")
	}
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		forwards []v1.PortForward
		ok       bool
	}{
		"none":                {nil, true},
		"two":                 {[]v1.PortForward{{Name: "a", GuestPort: 1}, {Name: "b", GuestPort: 1}}, true},
		"TCP and UDP":         {[]v1.PortForward{{Name: "a", GuestPort: 1, HostPort: 9}, {Name: "b", GuestPort: 1, HostPort: 9, Protocol: v1.ProtocolUDP}}, true},
		"IPv6":                {[]v1.PortForward{{Name: "a", GuestPort: 65535, HostPort: 65535, HostAddress: "::1"}}, true},
		"one name":            {[]v1.PortForward{{Name: "a", GuestPort: 1}, {Name: "a", GuestPort: 2}}, false},
		"one port":            {[]v1.PortForward{{Name: "a", GuestPort: 1, HostPort: 9}, {Name: "b", GuestPort: 2, HostPort: 9, HostAddress: "127.0.0.1"}}, false},
		"one and all":         {[]v1.PortForward{{Name: "a", GuestPort: 1, HostPort: 9}, {Name: "b", GuestPort: 2, HostPort: 9, HostAddress: "0.0.0.0"}}, false},
		"no guest port":       {[]v1.PortForward{{Name: "a"}}, false},
		"a large guest port":  {[]v1.PortForward{{Name: "a", GuestPort: 65536}}, false},
		"a large host port":   {[]v1.PortForward{{Name: "a", GuestPort: 1, HostPort: 65536}}, false},
		"a negative one":      {[]v1.PortForward{{Name: "a", GuestPort: 1, HostPort: -1}}, false},
		"no address":          {[]v1.PortForward{{Name: "a", GuestPort: 1, HostAddress: "localhost"}}, false},
		"no protocol that is": {[]v1.PortForward{{Name: "a", GuestPort: 1, Protocol: "SCTP"}}, false},
	} {
		if err := hostport.Check(tc.forwards); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestError(t *testing.T) {
	for cause, want := range map[error]error{
		syscall.EADDRINUSE: providers.ErrBusy, syscall.EADDRNOTAVAIL: providers.ErrInvalid, syscall.EACCES: providers.ErrInvalid,
		syscall.EMFILE: providers.ErrCapacity, syscall.ENFILE: providers.ErrCapacity, syscall.ENOBUFS: providers.ErrCapacity,
		errors.New("other"): providers.ErrInvalid,
	} {
		f := v1.PortForward{Name: "web", Protocol: v1.ProtocolTCP, HostAddress: "127.0.0.1", HostPort: 80}
		err := hostport.Error("machine x", f, &net.OpError{Op: "listen", Err: fmt.Errorf("it: %w", cause)})
		if providers.KindOf(err) != want {
			t.Errorf("%v became %v", cause, err)
		}
	}
	if err := hostport.Error("machine x", v1.PortForward{}, syscall.EADDRINUSE); providers.KindOf(err) != providers.ErrCapacity {
		t.Errorf("all ports are taken: %v", err)
	}
}
