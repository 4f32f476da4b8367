package virtualbox

import (
	"errors"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestInstallIsRefused: it is never ignored in silence.
func TestInstallIsRefused(t *testing.T) {
	err := validate(providers.MachineSpec{
		ID: "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", Namespace: "team", Name: "web", CPUs: 1, MemoryBytes: 128 << 20, DiskBytes: 1 << 30,
		Network: v1.Network{Mode: v1.NetworkNone}, Install: &providers.Install{ISO: "/srv/x.iso"},
	})
	if !errors.Is(err, providers.ErrUnsupported) || !strings.Contains(err.Error(), "runs no installers") {
		t.Errorf("got %v", err)
	}
}
