//go:build linux

package kvm

import (
	"os"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

// TestNoteNetwork: a network is missed only in the run of the host in which it was
// there. A start that is cut off after a reboot has made none.
func TestNoteNetwork(t *testing.T) {
	p := offline(t)
	if err := os.MkdirAll(p.data.MachineDir(machineA), 0o700); err != nil {
		t.Fatal(err)
	}
	n, _ := identity.NetworkOf("instance-1", "team", v1.Network{Mode: v1.NetworkHostOnly})
	other, _ := identity.NetworkOf("instance-1", "team", v1.Network{Mode: v1.NetworkNAT})
	for _, step := range []struct {
		boot string
		n    identity.Network
		made bool
		want string // the run of the host that is noted
	}{
		{"one", n, false, ""},
		{"one", n, true, "one"},
		{"one", n, false, "one"},
		{"two", n, false, "one"},
		{"two", n, true, "two"},
		{"two", other, false, ""},
	} {
		p.boot = step.boot
		if err := p.noteNetwork(machineA, step.n, step.made); err != nil {
			t.Fatal(err)
		}
		got, err := readNetworkRef(p.data.networkRef(machineA))
		if want := (networkRef{step.n.UUID(), step.want}); err != nil || got != want {
			t.Errorf("after %+v it says %+v, %v", step, got, err)
		}
	}
}
