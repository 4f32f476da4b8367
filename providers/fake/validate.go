package fake

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// validate tells what of a spec cannot be met by any host.
func validate(s providers.MachineSpec) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), format, args...)
	}
	if !isUUID(s.ID) {
		return invalid("the ID is not a UUID in lower-case hexadecimal")
	}
	switch {
	case s.Name == "":
		return invalid("it has no name")
	case s.Namespace == "" && (s.Network.Mode == v1.NetworkIntnet || s.Network.Mode == v1.NetworkHostOnly):
		return invalid("it belongs to no namespace, whose networks it could be connected to")
	case s.CPUs < 1:
		return invalid("it has %d CPUs: at least 1 is needed", s.CPUs)
	case s.MemoryBytes < 1<<20:
		return invalid("it has %d bytes of memory: at least 1 MiB is needed", s.MemoryBytes)
	case s.DiskBytes < 0:
		return invalid("its disk has a negative size")
	}
	if err := validateNetwork(s.Network, invalid); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, f := range s.SharedFolders {
		if names[f.Name] {
			return invalid("two shared folders are named %q", f.Name)
		}
		names[f.Name] = true
		info, err := os.Stat(f.HostPath)
		if !filepath.IsAbs(f.HostPath) || err != nil || !info.IsDir() {
			return invalid("shared folder %q: %q is not a directory of the host", f.Name, f.HostPath)
		}
	}
	return nil
}

func isUUID(id types.UID) bool {
	u, err := uuid.Parse(string(id))
	return err == nil && u.String() == string(id)
}

// isWord tells whether a name consists of letters and digits.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

func validateNetwork(n v1.Network, invalid func(string, ...any) error) error {
	modes := []v1.NetworkMode{
		v1.NetworkNone, v1.NetworkIntnet, v1.NetworkHostOnly, v1.NetworkNAT, v1.NetworkBridged,
	}
	if !slices.Contains(modes, n.Mode) {
		return invalid("network mode %q is not one of %v", n.Mode, modes)
	}
	if len(n.PortForwards) > 0 && n.Mode != v1.NetworkNAT {
		return invalid("port forwards need network mode nat, not %s", n.Mode)
	}
	names := map[string]bool{}
	for _, f := range n.PortForwards {
		if names[f.Name] {
			return invalid("two port forwards are named %q", f.Name)
		}
		names[f.Name] = true
		if f.GuestPort < 1 || f.GuestPort > 65535 || f.HostPort < 0 || f.HostPort > 65535 {
			return invalid("forward %q: ports go from 1 to 65535", f.Name)
		}
		if _, err := netip.ParseAddr(f.HostAddress); f.HostAddress != "" && err != nil {
			return invalid("forward %q: host address %q is no IP address", f.Name, f.HostAddress)
		}
	}
	return nil
}
