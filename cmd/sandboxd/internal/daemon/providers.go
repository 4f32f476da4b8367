package daemon

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/go-logr/logr"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/kvm"
)

// simulatedBridge is a bridge that the simulated host has.
const simulatedBridge = "br0"

// SimulatedSuffix marks the version of a daemon that simulates its hypervisors.
const SimulatedSuffix = "+simulated"

// openProviders makes the providers that the configuration asks for.
func openProviders(o Options, instance providers.Instance) (*providers.Set, error) {
	if o.Simulate {
		o.Logger.Info("SIMULATION: machines exist in memory only, run no real code, and end with this process")
		var simulated []providers.Provider
		for _, name := range []v1.ProviderName{v1.ProviderKVM, v1.ProviderVirtualBox} {
			world := fake.NewWorld(fake.Options{Bridges: []string{simulatedBridge}})
			simulated = append(simulated, fake.New(world, name, instance))
		}
		return providers.NewSet(o.Config.Hypervisor, simulated...), nil
	}
	if o.Config.Hypervisor != v1.ProviderKVM {
		return nil, fmt.Errorf("hypervisor %s is not served by this version: use kvm", o.Config.Hypervisor)
	}
	options := kvmOptions(o.Config)
	options.Instance, options.Logger = instance, o.Logger.WithName("kvm")
	p, err := kvm.New(options)
	if err != nil {
		return nil, err
	}
	return providers.NewSet(o.Config.Hypervisor, p), nil
}

// kvmOptions are the options of the provider kvm that are configured.
func kvmOptions(c config.Config) kvm.Options {
	return kvm.Options{
		DataDir: filepath.Join(c.DataDir, "kvm"),
		URI:     c.KVM.URI, Socket: c.KVM.Socket, Accelerator: c.KVM.Accelerator, SubnetPool: c.KVM.SubnetPool,
		Logger: logr.Discard(),
	}
}

// Diagnoses are the checks of the hypervisors that the configuration asks for.
func Diagnoses(c config.Config) []func(context.Context) []providers.Finding {
	if c.Hypervisor != v1.ProviderKVM {
		return nil
	}
	return []func(context.Context) []providers.Finding{func(ctx context.Context) []providers.Finding {
		options := kvmOptions(c)
		options.Instance = "doctor" // makes nothing, so that nothing bears it
		return kvm.Diagnose(ctx, options)
	}}
}
