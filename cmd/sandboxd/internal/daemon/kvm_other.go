//go:build !linux

package daemon

import (
	"context"
	"errors"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/providers"
)

// kvmHypervisor is one that cannot be had here, and says so where it is chosen.
func kvmHypervisor(c config.Config) hypervisor {
	return hypervisor{
		name:   v1.ProviderKVM,
		wanted: c.Hypervisor == v1.ProviderKVM,
		open: func(surroundings) (providers.Provider, error) {
			return nil, errors.New("hypervisor kvm: KVM and libvirt need a Linux host: use virtualbox here")
		},
		diagnose: func(context.Context) []providers.Finding {
			return []providers.Finding{{
				Check: "hypervisor", Severity: providers.SeverityMissing,
				Message: "kvm is chosen, but KVM and libvirt need a Linux host", Fix: "set hypervisor to virtualbox",
			}}
		},
	}
}
