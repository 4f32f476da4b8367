// Package machinespec says what of a machine's specification no host could meet,
// whatever its hypervisor. What just one hypervisor cannot, its provider checks.
//
//	spec ──Check──▶ ErrInvalid, or nothing that keeps a provider from looking at its host
package machinespec

import (
	"fmt"
	"path/filepath"
	"regexp"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
)

// Limits of a hypervisor.
type Limits struct {
	// CPUs that a machine has at the most.
	CPUs int
	// Memory that it has at the least, in bytes; whole MiB.
	Memory int64
}

var (
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	labelName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	folderName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,29}[a-z0-9])?$`)
	mountPath  = regexp.MustCompile(`^/[A-Za-z0-9_./-]*$`)
	linkName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)
)

// Check refuses, as ErrInvalid, what cannot be.
func Check(s providers.MachineSpec, limits Limits) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, "machine "+string(s.ID), format, args...)
	}
	switch {
	case !datafolder.IsUUID(s.ID):
		return invalid("the ID is not a UUID in lower-case hexadecimal")
	case !objectName.MatchString(s.Name) || (s.Namespace != "" && !labelName.MatchString(s.Namespace)):
		return invalid("%q in namespace %q is not a name", s.Name, s.Namespace)
	case s.Namespace == "" && (s.Network.Mode == v1.NetworkIntnet || s.Network.Mode == v1.NetworkHostOnly):
		return invalid("it belongs to no namespace, whose networks it could be connected to")
	case s.CPUs < 1 || s.CPUs > limits.CPUs:
		return invalid("it has %d CPUs: 1 to %d are possible", s.CPUs, limits.CPUs)
	case s.MemoryBytes < limits.Memory:
		return invalid("it has %d bytes of memory: at least %d MiB are needed", s.MemoryBytes, limits.Memory>>20)
	case s.DiskBytes < 0:
		return invalid("its disk has a negative size")
	case s.Firmware != "" && s.Firmware != v1.FirmwareBIOS && s.Firmware != v1.FirmwareEFI:
		return invalid("firmware %q is not one of bios and efi", s.Firmware)
	}
	if !Installed(s) {
		if err := datafolder.CheckRef(s.Image); err != nil {
			return err
		}
	}
	if err := checkNetwork(s.Network); err != nil {
		return invalid("%w", err)
	}
	names := map[string]bool{}
	for _, f := range s.SharedFolders {
		switch {
		case !folderName.MatchString(f.Name) || names[f.Name]:
			return invalid("shared folder %q: the name is malformed or used twice", f.Name)
		case !filepath.IsAbs(f.HostPath):
			return invalid("shared folder %q: %q is not an absolute path", f.Name, f.HostPath)
		case !mountPath.MatchString(f.GuestPath()):
			return invalid("shared folder %q: %q is not a path to mount on", f.Name, f.GuestPath())
		}
		names[f.Name] = true
	}
	return nil
}

// Installed tells whether a machine's disk is not cloned but made by an installer.
func Installed(s providers.MachineSpec) bool { return s.Image == providers.ImageRef{} }

func checkNetwork(n v1.Network) error {
	switch n.Mode {
	case v1.NetworkNone, v1.NetworkNAT:
	case v1.NetworkIntnet, v1.NetworkHostOnly:
		if n.Name != "" && !labelName.MatchString(n.Name) {
			return fmt.Errorf("%q is not the name of a network", n.Name)
		}
	case v1.NetworkBridged:
		if !linkName.MatchString(n.Bridge) {
			return fmt.Errorf("network mode bridged needs the name of a link, not %q", n.Bridge)
		}
	default:
		return fmt.Errorf("network mode %q is not one of none, intnet, hostonly, nat and bridged", n.Mode)
	}
	if len(n.PortForwards) > 0 && n.Mode != v1.NetworkNAT {
		return fmt.Errorf("port forwards need network mode nat, not %s", n.Mode)
	}
	return hostport.Check(n.PortForwards)
}

// CheckDisk refuses, as ErrInvalid, a disk smaller than its image; 0 means the
// image's size.
func CheckDisk(object string, bytes int64, img providers.Image) error {
	if bytes == 0 || bytes >= img.VirtualSize {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, object, "a disk of %d bytes is smaller than its image of %d bytes", bytes, img.VirtualSize)
}
