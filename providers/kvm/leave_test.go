//go:build linux

package kvm_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestLeavingANetworkIsRepeatable deletes a machine, cut off before each of the
// changes that it takes, and once more. Nothing of the machine may stay in what
// others still use: neither its address in the network nor what the firewall
// lets it send.
func TestLeavingANetworkIsRepeatable(t *testing.T) {
	ctx := context.Background()
	l := newLab(t)
	stays := l.spec("stays", v1.Network{Mode: v1.NetworkHostOnly})
	t.Cleanup(func() { remove(t, l.p, stays.ID) })
	must(t, l.p.EnsureMachine(ctx, stays))
	for name, network := range map[string]v1.Network{
		"a network that stays": {Mode: v1.NetworkHostOnly},
		"a network of its own": {Mode: v1.NetworkHostOnly, Name: "own"},
		"an internal network":  {Mode: v1.NetworkIntnet},
	} {
		t.Run(name, func(t *testing.T) {
			before := l.networks(t)
			for step, completed := 1, false; !completed; step++ {
				goes := l.spec("goes", network)
				t.Cleanup(func() { remove(t, l.p, goes.ID) })
				must(t, l.p.EnsureMachine(ctx, goes))
				if l.networks(t) == before {
					t.Fatal("a machine that joined is not seen, so this test cannot fail")
				}
				completed = interrupt(l.p, step, func() {
					if err := l.p.DeleteMachine(ctx, goes.ID); err != nil {
						t.Error(err)
					}
				})
				remove(t, l.p, goes.ID)
				if after := l.networks(t); after != before {
					t.Fatalf("cut off before change %d: there was\n%s\nand now there is\n%s", step, before, after)
				}
			}
		})
	}
}

// TestNetworkThatIsGone: a machine whose network somebody removed leaves
// nothing in the firewall either.
func TestNetworkThatIsGone(t *testing.T) {
	ctx := context.Background()
	l := newLab(t)
	stays, goes := l.spec("stays", v1.Network{Mode: v1.NetworkHostOnly}), l.spec("goes", v1.Network{Mode: v1.NetworkHostOnly, Name: "own"})
	for _, s := range []providers.MachineSpec{stays, goes} {
		t.Cleanup(func() { remove(t, l.p, s.ID) })
	}
	must(t, l.p.EnsureMachine(ctx, stays))
	before := l.networks(t)
	for _, undefine := range []bool{false, true} {
		must(t, l.p.EnsureMachine(ctx, goes))
		for _, n := range strings.Fields(run(t, "virsh", "net-list", "--name")) {
			if strings.HasSuffix(n, ".own") {
				run(t, "virsh", "net-destroy", n)
			}
		}
		if undefine {
			run(t, "virsh", "undefine", string(goes.ID))
		}
		remove(t, l.p, goes.ID)
		if after := l.networks(t); after != before {
			t.Errorf("undefined %v: there was\n%s\nand now there is\n%s", undefine, before, after)
		}
	}
}

// TestLongNames: a sandbox may have the longest name that there is.
func TestLongNames(t *testing.T) {
	l := newLab(t)
	id := l.boot(t, strings.Repeat("n", 253), v1.Network{Mode: v1.NetworkIntnet, Name: strings.Repeat("w", 63)}, func(s *providers.MachineSpec) {
		s.Namespace = strings.Repeat("s", 63)
		s.Seed.Hostname = "long"
	})
	l.wantIsolated(t, id)
	must(t, l.p.Suspend(context.Background(), id))
	must(t, l.p.Start(context.Background(), id))
}

// networks tells everything that is kept for machines' networks.
func (l *lab) networks(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, n := range strings.Fields(run(t, "virsh", "net-list", "--all", "--name")) {
		all.WriteString(run(t, "virsh", "net-dumpxml", n))
	}
	for _, set := range []string{"guests", "macs"} {
		all.WriteString(run(t, "nft", "list", "set", "bridge", tableOf(t), set))
	}
	refs := run(t, "sh", "-c", fmt.Sprintf("find %s -name network | sort", l.root))
	return all.String() + refs
}
