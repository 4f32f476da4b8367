package virtualbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
)

// minMemory is the least that VirtualBox gives a machine, in bytes.
const minMemory = 4 << 20

// errPortLost: somebody took a port between the last look and VirtualBox.
var errPortLost = fmt.Errorf("VirtualBox could not open it: %w", syscall.EADDRINUSE)

var (
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	folderName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,29}[a-z0-9])?$`)
	ruleName   = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9]{0,62}$`)
	mountPath  = regexp.MustCompile(`^/[A-Za-z0-9_./-]*$`)
	linkName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)
	osTypeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
)

// validate tells what of a spec cannot be met by any host.
func validate(s providers.MachineSpec) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), format, args...)
	}
	switch {
	case !datafolder.IsUUID(s.ID):
		return invalid("the ID is not a UUID in lower-case hexadecimal")
	case !objectName.MatchString(s.Name) || !objectName.MatchString(s.Namespace):
		return invalid("%q in namespace %q is not a name", s.Name, s.Namespace)
	case s.CPUs < 1 || s.CPUs > 64:
		return invalid("it has %d CPUs: 1 to 64 are possible", s.CPUs)
	case s.MemoryBytes < minMemory:
		return invalid("it has %d bytes of memory: at least %d MiB are needed", s.MemoryBytes, minMemory>>20)
	case s.DiskBytes < 0:
		return invalid("its disk has a negative size")
	case s.Firmware != "" && s.Firmware != v1.FirmwareBIOS && s.Firmware != v1.FirmwareEFI:
		return invalid("firmware %q is not one of bios and efi", s.Firmware)
	case s.OSType != "" && !osTypeName.MatchString(s.OSType):
		return invalid("%q is not an OS type of VirtualBox's", s.OSType)
	}
	if err := datafolder.CheckRef(s.Image); err != nil {
		return err
	}
	if err := validateNetwork(s.Network); err != nil {
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

func validateNetwork(n v1.Network) error {
	switch n.Mode {
	case v1.NetworkNone, v1.NetworkNAT:
	case v1.NetworkIntnet, v1.NetworkHostOnly:
		if n.Name != "" && (!objectName.MatchString(n.Name) || strings.Contains(n.Name, ".")) {
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
	return validateForwards(n.PortForwards)
}

// validateForwards checks each forward, and that no two want one name or port.
func validateForwards(forwards []v1.PortForward) error {
	names, table := map[string]bool{}, newPortTable()
	for _, f := range forwards {
		f = settle(f, nil)
		address, err := netip.ParseAddr(f.HostAddress)
		switch {
		case !ruleName.MatchString(f.Name):
			return fmt.Errorf("%q is not the name of a port forward", f.Name)
		case names[f.Name]:
			return fmt.Errorf("two port forwards are named %q", f.Name)
		case f.GuestPort < 1 || f.GuestPort > 65535 || f.HostPort < 0 || f.HostPort > 65535:
			return fmt.Errorf("port forward %q: ports go from 1 to 65535", f.Name)
		case err != nil:
			return fmt.Errorf("port forward %q: %q is no IP address", f.Name, f.HostAddress)
		case !address.Is4(): // VirtualBox opens the port on all IPv4 addresses instead
			return fmt.Errorf("port forward %q: VirtualBox forwards from the host's IPv4 addresses only, and %s is none", f.Name, f.HostAddress)
		case f.Protocol != v1.ProtocolTCP && f.Protocol != v1.ProtocolUDP:
			return fmt.Errorf("port forward %q: protocol %q is not one of TCP and UDP", f.Name, f.Protocol)
		}
		if _, taken := ownerOf(table.owners, portOf(f)); taken && f.HostPort != 0 {
			return fmt.Errorf("two port forwards want %s port %d of %s", f.Protocol, f.HostPort, f.HostAddress)
		}
		names[f.Name] = true
		table.claim("", []v1.PortForward{f})
	}
	return nil
}

// checkHost tells what of a spec this host cannot meet.
func (p *Provider) checkHost(s providers.MachineSpec) error {
	object := machineObject(s.ID)
	for _, f := range s.SharedFolders {
		if err := checkFolder(object, f); err != nil {
			return err
		}
	}
	if s.Network.Mode != v1.NetworkBridged {
		return nil
	}
	if _, err := net.InterfaceByName(s.Network.Bridge); err != nil {
		return providers.Errorf(providers.ErrInvalid, object, "the host has no network link %q: name one that `VBoxManage list bridgedifs` lists", s.Network.Bridge)
	}
	return nil
}

// checkFolder makes sure that a folder is there, as itself: VirtualBox follows
// symbolic links.
func checkFolder(object string, f v1.SharedFolder) error {
	info, err := os.Stat(f.HostPath)
	resolved, resolveErr := filepath.EvalSymlinks(f.HostPath)
	switch {
	case err != nil || resolveErr != nil || !info.IsDir():
		return providers.Errorf(providers.ErrInvalid, object, "shared folder %q: %s is not a directory of the host", f.Name, f.HostPath)
	case resolved != filepath.Clean(f.HostPath):
		return providers.Errorf(providers.ErrInvalid, object, "shared folder %q: %w", f.Name, errMoved)
	}
	return nil
}

var errMoved = errors.New("its path leads through a symbolic link by now")

// covers tells whether a range, as networks.conf writes it, holds a prefix.
func covers(network string, p netip.Prefix) bool {
	n, err := netip.ParsePrefix(network)
	return err == nil && n.Masked().Contains(p.Addr()) && n.Bits() <= p.Bits()
}
