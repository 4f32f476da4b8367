package daemon

import (
	"context"
	"errors"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/virtualbox"
)

// simulatedBridge is a bridge that the simulated host has.
const simulatedBridge = "br0"

// SimulatedSuffix marks the version of a daemon that simulates its hypervisors.
const SimulatedSuffix = "+simulated"

// openProviders makes the providers of this host: that of images that name none,
// and the other one if its hypervisor is installed. An image that names one which
// is not served is told so in its conditions. Each is wrapped.
func openProviders(o Options, s surroundings, wrap func(providers.Provider) providers.Provider) (*providers.Set, error) {
	if o.Simulate {
		o.Logger.Info("SIMULATION: machines exist in memory only, run no real code, and end with this process")
		var simulated []providers.Provider
		for _, name := range []v1.ProviderName{v1.ProviderKVM, v1.ProviderVirtualBox} {
			world := fake.NewWorld(fake.Options{Bridges: []string{simulatedBridge}})
			simulated = append(simulated, wrap(fake.New(world, name, s.instance)))
		}
		return providers.NewSet(o.Config.Hypervisor, simulated...), nil
	}
	var served []providers.Provider
	for _, h := range hypervisors(o.Config) {
		if !h.wanted {
			o.Logger.V(1).Info("A hypervisor is not installed: images that name it wait for another daemon", "provider", h.name)
			continue
		}
		p, err := h.open(s.named(o.Logger, h.name))
		if err != nil {
			for _, opened := range served {
				err = errors.Join(err, opened.Close())
			}
			return nil, err
		}
		served = append(served, wrap(p))
	}
	return providers.NewSet(o.Config.Hypervisor, served...), nil
}

// surroundings are what providers are given.
type surroundings struct {
	instance providers.Instance
	logins   providers.Logins
	// used is told of uses of machines that only a provider sees.
	used func(id types.UID) (end func())
	log  logr.Logger
}

func (s surroundings) named(log logr.Logger, name v1.ProviderName) surroundings {
	s.log = log.WithName(string(name))
	return s
}

// hypervisor is one that a configuration may ask for.
type hypervisor struct {
	name v1.ProviderName
	// wanted: it is the default one, or installed.
	wanted   bool
	open     func(surroundings) (providers.Provider, error)
	diagnose func(context.Context) []providers.Finding
}

func hypervisors(c config.Config) []hypervisor {
	return []hypervisor{
		kvmHypervisor(c),
		{
			name:   v1.ProviderVirtualBox,
			wanted: c.Hypervisor == v1.ProviderVirtualBox || virtualbox.Installed(c.VirtualBox.Manage),
			open: func(s surroundings) (providers.Provider, error) {
				o := virtualboxOptions(c)
				o.Instance, o.Logins, o.Logger = s.instance, s.logins, s.log
				return virtualbox.New(o)
			},
			diagnose: func(ctx context.Context) []providers.Finding { return virtualbox.Diagnose(ctx, virtualboxOptions(c)) },
		},
	}
}

// virtualboxOptions are the options of the provider virtualbox that are
// configured.
func virtualboxOptions(c config.Config) virtualbox.Options {
	return virtualbox.Options{
		DataDir: c.VirtualBox.MachineFolder, Manage: c.VirtualBox.Manage, UserHome: c.VirtualBox.UserHome,
		Engine: string(c.VirtualBox.ExecutionEngine), SubnetPool: c.VirtualBox.SubnetPool,
		Logger: logr.Discard(),
	}
}

// Diagnoses are the checks of the hypervisors that the configuration asks for.
func Diagnoses(c config.Config) []func(context.Context) []providers.Finding {
	var all []func(context.Context) []providers.Finding
	for _, h := range hypervisors(c) {
		if h.wanted {
			all = append(all, h.diagnose)
		}
	}
	return all
}
