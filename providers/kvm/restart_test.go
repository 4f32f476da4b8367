//go:build linux

package kvm_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// libvirtdPID is the process of the private libvirtd.
func libvirtdPID(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(string(readFile(t, os.Getenv("SANDBOXD_LIBVIRTD_PIDFILE")))))
	must(t, err)
	return n
}

// waitEvent waits for an event that matches.
func waitEvent(t *testing.T, events <-chan providers.Event, what string, is func(providers.Event) bool) {
	t.Helper()
	if others, ok := eventWithin(t, events, bootLimit, is); !ok {
		t.Fatalf("in vain: %s; the events were %v", what, others)
	}
}

// eventWithin tells whether an event that matches comes in time, and which others came.
func eventWithin(t *testing.T, events <-chan providers.Event, limit time.Duration, is func(providers.Event) bool) (others []providers.Event, ok bool) {
	t.Helper()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the events ended; they were %v", others)
			}
			if is(e) {
				return others, true
			}
			others = append(others, e)
		case <-timeout.C:
			return others, false
		}
	}
}

func isResync(e providers.Event) bool { return e.Type == providers.EventResync }

func TestLibvirtdThatHangsOrDies(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancel(context.Background())
	events := l.p.Events(ctx)
	t.Cleanup(func() {
		cancel()
		for range events { //nolint:revive // waits for the end
		}
	})
	waitEvent(t, events, "the first resync", isResync)
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkHostOnly})
	waitEvent(t, events, "the start", func(e providers.Event) bool { return e.Type == providers.EventMachine && e.ID == id })

	daemon := libvirtdPID(t)
	must(t, syscall.Kill(daemon, syscall.SIGSTOP))
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	_, err := l.p.GetMachine(short, id)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while libvirtd hangs: %v", err)
	}
	must(t, syscall.Kill(daemon, syscall.SIGCONT))
	if m := l.get(t, id); m.Power != providers.PowerRunning {
		t.Errorf("after libvirtd went on: %+v", m)
	}

	l.killLibvirtd(t)
	eventually(t, "calls fail at once", func() bool {
		begun := time.Now()
		_, err := l.p.GetMachine(ctx, id)
		return errors.Is(err, providers.ErrUnavailable) && time.Since(begun) < time.Second
	})
	if err := l.p.Start(ctx, id); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("start without libvirtd: %v", err)
	}
	l.startLibvirtd(t)
	waitEvent(t, events, "a resync", isResync)
	waitEvent(t, events, "another, once libvirt has taken up its machines", isResync)
	eventually(t, "the machine is observed as before", func() bool {
		m, err := l.p.GetMachine(ctx, id)
		return err == nil && m.Power == providers.PowerRunning && m.Network.Isolated
	})
	// Events are hints, and one was seen to get lost while a busy libvirtd takes up its
	// work again. That they come again is what counts.
	eventually(t, "events of the machine come again", func() bool {
		must(t, l.p.Stop(ctx, id, providers.StopForce))
		must(t, l.p.Start(ctx, id))
		_, ok := eventWithin(t, events, 10*time.Second, func(e providers.Event) bool { return e.Type == providers.EventMachine && e.ID == id })
		return ok
	})
}

// TestClaimedAddress: where nobody else gives guests addresses, those that they
// give themselves are seen, as their own claims.
func TestClaimedAddress(t *testing.T) {
	l := newLab(t)
	id := l.boot(t, "intnet", v1.Network{Mode: v1.NetworkIntnet})
	l.ready(t, id)
	l.still(t, id)
	l.sh(t, id, "ip addr add 192.168.77.5/24 dev eth0")
	eventually(t, "the address that the guest claims", func() bool {
		for _, a := range l.get(t, id).Addresses {
			if a.IP == "192.168.77.5" && a.Source == v1.AddressFromAgent {
				return true
			}
		}
		return false
	})
}

// TestForwardsOfAMachineThatIsOff lead nowhere, also when its address is
// another's.
func TestForwardsOfAMachineThatIsOff(t *testing.T) {
	l := newLab(t)
	id := l.boot(t, "machine", v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "echo", GuestPort: guestPort}}})
	xml := run(t, "virsh", "net-dumpxml", strings.TrimSpace(run(t, "virsh", "net-list", "--name")))
	_, rest, _ := strings.Cut(xml, "<host mac=")
	_, rest, _ = strings.Cut(rest, "ip='")
	address, _, found := strings.Cut(rest, "'")
	if !found {
		t.Fatalf("the machine has no address in %s", xml)
	}
	must(t, l.p.Stop(context.Background(), id, providers.StopForce))
	run(t, "ip", "addr", "add", address+"/32", "dev", "lo")
	t.Cleanup(func() { run(t, "ip", "addr", "del", address+"/32", "dev", "lo") })
	other, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(guestPort)))
	must(t, err)
	greet(t, other, "OTHER")
	m := l.get(t, id)
	if got := fromHost(m.PortForwards[0].HostAddress, int(m.PortForwards[0].HostPort)); got != "" {
		t.Errorf("it leads to another, which says %q", got)
	}
}

func TestFolderThatQEMUMayNotUse(t *testing.T) {
	l := newLab(t)
	dir := l.folder(t)
	must(t, os.Chmod(dir, 0o700))
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNone})
	spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: dir}}
	err := l.p.EnsureMachine(context.Background(), spec)
	if !errors.Is(err, providers.ErrInvalid) || !strings.Contains(err.Error(), "setfacl") {
		t.Errorf("got %v", err)
	}
	if left := l.added(t); len(left) > 1 { // the image
		t.Errorf("left: %q", left)
	}
}
