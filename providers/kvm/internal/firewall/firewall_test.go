//go:build linux

package firewall

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

const instance = "0123456789abcdef"

// inNamespace runs the rest of the test in a network namespace of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace of the test's own is not permitted: %v", err)
	}
}

func nft(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/nft"); err != nil {
			t.Skip("nft is not installed")
		}
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
}

func guests() []Guest {
	mac := net.HardwareAddr{0x52, 0x54, 1, 2, 3, 4}
	return []Guest{
		{Mode: v1.NetworkNAT, Tap: identity.Tap(instance, v1.NetworkNAT, "a"), MAC: mac, Address: netip.MustParseAddr("10.1.2.3")},
		{Mode: v1.NetworkHostOnly, Tap: identity.Tap(instance, v1.NetworkHostOnly, "a"), MAC: mac, Address: netip.MustParseAddr("10.1.3.3")},
		{Mode: v1.NetworkIntnet, Tap: identity.Tap(instance, v1.NetworkIntnet, "a"), MAC: mac},
	}
}

func TestRulesAreMadeAndReadBack(t *testing.T) {
	inNamespace(t)
	f := New(instance)
	if _, err := f.Check(); !errors.Is(err, ErrNotInForce) || f.Exists() {
		t.Fatalf("before: %v, %v", err, f.Exists())
	}
	for range 2 {
		if err := f.Ensure(); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range guests() {
		if s, err := f.Check(); err != nil || s.Permits(g) {
			t.Fatalf("%s is permitted, %v", g.Tap, err)
		}
		for range 2 {
			if err := f.Permit(g); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := f.Check(); err != nil || !s.Permits(g) {
			t.Fatalf("%s is not permitted, %v", g.Tap, err)
		}
		other := g
		other.MAC = net.HardwareAddr{0x52, 0x54, 1, 2, 3, 5}
		if s, _ := f.Check(); s.Permits(other) {
			t.Errorf("another MAC address is permitted")
		}
	}
	if err := f.Ensure(); err != nil { // keeps the guests when there is nothing to mend
		t.Fatal(err)
	}
	for _, g := range guests() {
		if s, err := f.Check(); err != nil || !s.Permits(g) {
			t.Fatalf("%s is not permitted any more, %v", g.Tap, err)
		}
		for range 2 {
			if err := f.Revoke(g.Mode, g.Tap); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := f.Check(); err != nil || s.Permits(g) || s.Knows(g.Tap) {
			t.Fatalf("%s is still permitted, %v", g.Tap, err)
		}
	}
	for range 2 {
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
		if f.Exists() {
			t.Fatal("there is still a table")
		}
	}
}

// TestOldAddressIsTakenBack: a guest that gets another address may not send
// from the one that it had, which may be another's by then.
func TestOldAddressIsTakenBack(t *testing.T) {
	inNamespace(t)
	f := New(instance)
	if err := f.Ensure(); err != nil {
		t.Fatal(err)
	}
	neighbour := guests()[0]
	neighbour.Tap = identity.Tap(instance, v1.NetworkNAT, "b")
	was, is := guests()[0], guests()[0]
	is.Address = netip.MustParseAddr("10.1.2.4")
	for _, g := range []Guest{neighbour, was, is} {
		if err := f.Permit(g); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := f.Check(); err != nil || s.Permits(was) || !s.Permits(is) || !s.Permits(neighbour) {
		t.Errorf("the old address: %v, the new one: %v, a neighbour: %v; %v", s.Permits(was), s.Permits(is), s.Permits(neighbour), err)
	}
	if Permitting(was, is).Permits(is) {
		t.Error("a guest with an address too many passes for permitted")
	}
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := f.Revoke(is.Mode, is.Tap); err != nil {
		t.Errorf("without a table: %v", err)
	}
}

func TestTwoInstancesKeepApart(t *testing.T) {
	inNamespace(t)
	one, two := New("one"), New("two")
	for _, f := range []*Firewall{one, two} {
		if err := f.Ensure(); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Check(); err != nil {
		t.Errorf("the other's rules: %v", err)
	}
}

// TestEveryChangeIsNoticed changes the rules in every way that would open
// something, and has them put back.
func TestEveryChangeIsNoticed(t *testing.T) {
	inNamespace(t)
	f := New(instance)
	name := identity.Table(instance)
	for _, change := range [][]string{
		{"flush", "ruleset"},
		{"delete", "table", "bridge", name},
		{"delete", "table", "arp", name},
		{"delete", "table", "inet", name},
		{"flush", "chain", "inet", name, "forward"},
		{"flush", "chain", "inet", name, "tohost"},
		{"flush", "chain", "bridge", name, "prerouting"},
		{"flush", "chain", "arp", name, "input"},
		{"insert", "rule", "inet", name, "forward", "accept"},
		{"add", "rule", "inet", name, "tohost", "accept"},
		{"insert", "rule", "bridge", name, "prerouting", "accept"},
		{"add", "table", "inet", name, "{ flags dormant; }"},
	} {
		if err := f.Ensure(); err != nil {
			t.Fatal(err)
		}
		nft(t, change...)
		if _, err := f.Check(); !errors.Is(err, ErrNotInForce) {
			t.Errorf("after nft %v: %v", change, err)
		}
	}
}

// TestHooks reads the hooks back in the words of nft, which numbers them for
// itself.
func TestHooks(t *testing.T) {
	inNamespace(t)
	f := New(instance)
	if err := f.Ensure(); err != nil {
		t.Fatal(err)
	}
	name := identity.Table(instance)
	for _, tc := range [][3]string{
		{"arp", "input", "hook input"},
		{"bridge", "prerouting", "hook prerouting"},
		{"inet", "input", "hook input"},
		{"inet", "forward", "hook forward"},
		{"inet", "prerouting", "hook prerouting"},
	} {
		path, err := exec.LookPath("nft")
		if err != nil {
			path = "/usr/sbin/nft"
		}
		out, err := exec.Command(path, "list", "chain", tc[0], name, tc[1]).CombinedOutput()
		if err != nil {
			t.Skipf("nft: %v", err)
		}
		if !strings.Contains(string(out), tc[2]) {
			t.Errorf("chain %s of %s: %s", tc[1], tc[0], out)
		}
	}
}
