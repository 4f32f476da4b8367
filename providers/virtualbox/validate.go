package virtualbox

import (
	"context"
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
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
	"sandboxd.dev/sandboxd/providers/internal/installer"
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
	if err := installer.Check(machineObject(s.ID), s); err != nil {
		return err
	}
	if s.OSType != "" && !osTypeName.MatchString(s.OSType) {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), "%q is not an OS type of VirtualBox's", s.OSType)
	}
	if s.Network.Mode == v1.NetworkBridged && hostnet.IsSandboxLink(s.Network.Bridge) {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), "%s belongs to the network of other sandboxes: use network mode intnet to join one", s.Network.Bridge)
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
func (p *Provider) checkHost(ctx context.Context, s providers.MachineSpec) error {
	object := machineObject(s.ID)
	for _, f := range s.SharedFolders {
		if err := checkFolder(object, f); err != nil {
			return err
		}
	}
	if s.Network.Mode != v1.NetworkBridged {
		return nil
	}
	return p.checkBridge(ctx, object, s.Network.Bridge)
}

// checkBridge makes sure that a link may be bridged to: it is there, it is not the
// host's alone, and no guest is kept on it.
func (p *Provider) checkBridge(ctx context.Context, object, name string) error {
	const hint = "name one that `VBoxManage list bridgedifs` lists"
	if !p.linkExists(name) {
		return providers.Errorf(providers.ErrInvalid, object, "the host has no network link %q: "+hint, name)
	}
	if link, err := net.InterfaceByName(name); err == nil && link.Flags&net.FlagLoopback != 0 {
		return providers.Errorf(providers.ErrInvalid, object, "%s is the host's loopback, which is for nobody else: "+hint, name)
	}
	unlock, err := p.locks.Lock(ctx, "hostonly")
	if err != nil {
		return err
	}
	defer unlock()
	adapters, err := p.hostOnly().present(ctx)
	if err != nil {
		return err
	}
	if _, is := adapters[name]; is {
		return providers.Errorf(providers.ErrInvalid, object, "%s is a host-only adapter, on which other guests are kept: "+hint, name)
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
