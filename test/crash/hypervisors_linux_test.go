package crash_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm"
	"sandboxd.dev/sandboxd/providers/virtualbox"
)

// openReal opens the provider of a private hypervisor.
func openReal(on, dir string, i providers.Instance, log logr.Logger) (providers.Provider, error) {
	data := filepath.Join(dir, "data")
	switch v1.ProviderName(on) {
	case v1.ProviderKVM:
		return kvm.New(kvm.Options{Instance: i, DataDir: data, Logger: log})
	case v1.ProviderVirtualBox:
		return virtualbox.New(virtualbox.Options{
			Instance: i, DataDir: data, Manage: os.Getenv("VBOX_MANAGE_PATH"),
			Engine: virtualbox.EngineInterpreter, Logger: log,
		})
	}
	return nil, fmt.Errorf("there is no hypervisor %q", on)
}
