package daemon

import (
	"context"
	"fmt"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/doctor"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// simulatedBridge is a bridge that the simulated host has.
const simulatedBridge = "br0"

// SimulatedSuffix marks the version of a daemon that simulates its hypervisors.
const SimulatedSuffix = "+simulated"

// openProviders makes the providers that the configuration asks for.
func openProviders(o Options, instance providers.Instance) (*providers.Set, error) {
	if o.Simulate {
		o.Logger.Info("SIMULATION: machines exist in memory only, run no real code, and end with this process")
		world := fake.NewWorld(fake.Options{Bridges: []string{simulatedBridge}})
		return providers.NewSet(o.Config.Hypervisor,
			fake.New(world, v1.ProviderKVM, instance), fake.New(world, v1.ProviderVirtualBox, instance)), nil
	}
	return nil, fmt.Errorf("hypervisor %s is not served by this version: use kvm", o.Config.Hypervisor)
}

// Diagnoses are the checks of the hypervisors that the configuration asks for.
func Diagnoses(config.Config) []func(context.Context) []doctor.Check { return nil }
