package virtualbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
	"sandboxd.dev/sandboxd/providers/internal/machinespec"
)

// limits of a machine of VirtualBox's.
var limits = machinespec.Limits{CPUs: 64, Memory: 4 << 20}

// errPortLost: somebody took a port between the last look and VirtualBox.
var errPortLost = fmt.Errorf("VirtualBox could not open it: %w", syscall.EADDRINUSE)

var (
	ruleName   = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9]{0,62}$`)
	osTypeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
)

// validate tells what of a spec cannot be met by any host.
func validate(s providers.MachineSpec) error {
	if err := machinespec.Check(s, limits); err != nil {
		return err
	}
	if s.OSType != "" && !osTypeName.MatchString(s.OSType) {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), "%q is not an OS type of VirtualBox's", s.OSType)
	}
	if err := validateForwards(s.Network.PortForwards); err != nil {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), "%w", err)
	}
	return nil
}

// validateForwards tells which forwards VirtualBox has no rules for.
func validateForwards(forwards []v1.PortForward) error {
	for _, f := range forwards {
		switch {
		case !ruleName.MatchString(f.Name):
			return fmt.Errorf("%q is not the name of a port forward", f.Name)
		case !hostport.Of(f).Address.Is4(): // VirtualBox opens the port on all IPv4 addresses instead
			return fmt.Errorf("port forward %q: VirtualBox forwards from the host's IPv4 addresses only, and %s is none", f.Name, f.HostAddress)
		}
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
