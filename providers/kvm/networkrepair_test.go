//go:build linux

package kvm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// resourceNamed finds a thing in the inventory by a part of its description.
func (l *lab) resourceNamed(t *testing.T, part string) (providers.Resource, bool) {
	t.Helper()
	all, err := l.p.ListResources(context.Background())
	must(t, err)
	for _, r := range all {
		if strings.Contains(r.Description, part) {
			return r, true
		}
	}
	return providers.Resource{}, false
}

// bridgeNamed is the bridge of a network.
func bridgeNamed(t *testing.T, network string) string {
	t.Helper()
	_, bridge, _ := strings.Cut(run(t, "virsh", "net-dumpxml", network), "<bridge name='")
	bridge, _, found := strings.Cut(bridge, "'")
	if !found {
		t.Fatalf("network %s has no bridge", network)
	}
	return bridge
}

// persist defines a network as it is, so that it stays when it is destroyed.
func persist(t *testing.T, network string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "network.xml")
	must(t, os.WriteFile(file, []byte(run(t, "virsh", "net-dumpxml", network)), 0o600))
	run(t, "virsh", "net-define", file)
}

// TestNetworksThatOthersChanged are made anew, for machines that are off and for
// those that were on.
func TestNetworksThatOthersChanged(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	for _, mode := range []v1.NetworkMode{v1.NetworkIntnet, v1.NetworkNAT} {
		spec := l.spec("machine", v1.Network{Mode: mode})
		id := spec.ID
		t.Cleanup(func() { remove(t, l.p, id) })
		must(t, l.p.EnsureMachine(ctx, spec))
		network := networkOf(t, id)
		bridge := bridgeNamed(t, network)
		for what, change := range map[string]func(){
			"destroyed":          func() { run(t, "virsh", "net-destroy", network) },
			"defined and off":    func() { persist(t, network); run(t, "virsh", "net-destroy", network) },
			"its bridge is gone": func() { run(t, "ip", "link", "del", bridge) },
			"a bridge is left": func() {
				run(t, "virsh", "net-destroy", network)
				run(t, "ip", "link", "add", bridge, "type", "bridge")
			},
			"it has another address": func() { run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", bridge) },
			"its rules are gone": func() {
				run(t, "nft", "flush", "ruleset")
				l.killLibvirtd(t) // which puts its own rules back when it starts, and no sooner
				l.startLibvirtd(t)
				eventually(t, "libvirt is back", func() bool { _, err := l.p.GetMachine(ctx, id); return err == nil })
			},
		} {
			t.Run(string(mode)+"/"+what, func(t *testing.T) {
				change()
				must(t, l.p.EnsureMachine(ctx, spec))
				eventually(t, "it is put right", func() bool { return len(l.get(t, id).Drift) == 0 })
				must(t, l.p.Start(ctx, id))
				l.wantIsolated(t, id)
				l.untouched(t, id, "when it runs")
				must(t, l.p.Stop(ctx, id, providers.StopForce))
				if got := run(t, "virsh", "net-info", network); !strings.Contains(got, "Persistent:     no") {
					t.Errorf("the network is not as it was made: %s", got)
				}
			})
		}
	}
}

// TestNetworksThatAreLeft are collected: those that are off, and bridges of which
// libvirt knows nothing.
func TestNetworksThatAreLeft(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkNAT})
	must(t, l.p.EnsureMachine(ctx, spec))
	network := networkOf(t, spec.ID)
	bridge := bridgeNamed(t, network)
	persist(t, network)
	xml := filepath.Join(t.TempDir(), "network.xml")
	must(t, os.WriteFile(xml, []byte(run(t, "virsh", "net-dumpxml", network)), 0o600))
	remove(t, l.p, spec.ID)
	if list := run(t, "virsh", "net-list", "--all", "--name"); strings.Contains(list, network) {
		t.Errorf("what others defined of a network of ours stays: %s", list)
	}
	run(t, "virsh", "net-define", xml)
	r, there := l.resourceNamed(t, "libvirt network "+network)
	if !there || r.Ownership != providers.Ours || len(r.Owners) > 0 {
		t.Fatalf("a network that is off is listed: %t, %+v", there, r)
	}
	must(t, l.p.RemoveResource(ctx, r))
	if err := l.p.RemoveResource(ctx, r); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("removed again: %v", err)
	}

	run(t, "ip", "link", "add", bridge, "type", "bridge")
	r, there = l.resourceNamed(t, "bridge "+bridge)
	if !there || r.Ownership != providers.Ours || len(r.Owners) > 0 {
		t.Fatalf("a bridge that is left is listed: %t, %+v", there, r)
	}
	must(t, l.p.RemoveResource(ctx, r))
	if err := l.p.RemoveResource(ctx, r); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("removed again: %v", err)
	}

	another := bridge[:len(bridge)-8] + "00000000" // a name like ours, of a network that nobody knows
	run(t, "ip", "link", "add", another, "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", another).Run() })
	r, there = l.resourceNamed(t, "bridge "+another)
	if !there || r.Ownership != providers.Ambiguous {
		t.Errorf("a bridge that may be another's is listed: %t, %+v", there, r)
	}
	r.Ownership = providers.Ours
	if err := l.p.RemoveResource(ctx, r); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("a bridge that may be another's was removed: %v", err)
	}
	run(t, "ip", "link", "del", another)
}

// TestBridgeThatIsLeftGoesWithItsMachine: libvirt died while it made a network.
func TestBridgeThatIsLeftGoesWithItsMachine(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	spec := l.spec("machine", v1.Network{Mode: v1.NetworkHostOnly, Name: "x"})
	must(t, l.p.EnsureMachine(ctx, spec))
	network := networkOf(t, spec.ID)
	bridge := bridgeNamed(t, network)
	for _, undefined := range []bool{false, true} {
		must(t, l.p.EnsureMachine(ctx, spec))
		if undefined {
			run(t, "virsh", "undefine", string(spec.ID))
		}
		run(t, "virsh", "net-destroy", network)
		run(t, "ip", "link", "add", bridge, "type", "bridge")
		r, there := l.resourceNamed(t, "bridge "+bridge)
		if !there || r.Ownership != providers.Ours || len(r.Owners) != 1 {
			t.Errorf("the bridge is listed: %t, %+v", there, r)
		}
		if err := l.p.RemoveResource(ctx, r); !errors.Is(err, providers.ErrBusy) {
			t.Errorf("a bridge that a machine needs was removed: %v", err)
		}
		remove(t, l.p, spec.ID)
		if links := run(t, "ip", "-br", "link"); strings.Contains(links, bridge) {
			t.Errorf("the bridge stays: %s", links)
		}
	}
}
