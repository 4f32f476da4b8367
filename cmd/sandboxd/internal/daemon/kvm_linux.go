package daemon

import (
	"context"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm"
)

func kvmHypervisor(c config.Config) hypervisor {
	return hypervisor{
		name:   v1.ProviderKVM,
		wanted: c.Hypervisor == v1.ProviderKVM || exists(c.KVM.Socket),
		open: func(s surroundings) (providers.Provider, error) {
			o := kvmOptions(c)
			o.Instance, o.Used, o.Logger = s.instance, s.used, s.log
			return kvm.New(o)
		},
		diagnose: func(ctx context.Context) []providers.Finding { return kvm.Diagnose(ctx, kvmOptions(c)) },
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kvmOptions are the options of the provider kvm that are configured.
func kvmOptions(c config.Config) kvm.Options {
	return kvm.Options{
		DataDir: filepath.Join(c.DataDir, "kvm"),
		URI:     c.KVM.URI, Socket: c.KVM.Socket, Accelerator: c.KVM.Accelerator, SubnetPool: c.KVM.SubnetPool,
		Logger: logr.Discard(),
	}
}
