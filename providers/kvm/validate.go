//go:build linux

package kvm

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/forward"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

// minMemory is the least that a machine is given, in bytes: less does not hold
// a firmware and a kernel.
const minMemory = 16 << 20

var (
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	labelName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	folderName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,29}[a-z0-9])?$`)
	mountPath  = regexp.MustCompile(`^/[A-Za-z0-9_./-]*$`)
	linkName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)
)

// validate tells what of a spec cannot be met by any host.
func validate(s providers.MachineSpec) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), format, args...)
	}
	switch {
	case !datafolder.IsUUID(s.ID):
		return invalid("the ID is not a UUID in lower-case hexadecimal")
	case !objectName.MatchString(s.Name) || !labelName.MatchString(s.Namespace):
		return invalid("%q in namespace %q is not a name", s.Name, s.Namespace)
	case s.CPUs < 1 || s.CPUs > 256:
		return invalid("it has %d CPUs: 1 to 256 are possible", s.CPUs)
	case s.MemoryBytes < minMemory:
		return invalid("it has %d bytes of memory: at least %d MiB are needed", s.MemoryBytes, minMemory>>20)
	case s.DiskBytes < 0:
		return invalid("its disk has a negative size")
	case s.Firmware != "" && s.Firmware != v1.FirmwareBIOS && s.Firmware != v1.FirmwareEFI:
		return invalid("firmware %q is not one of bios and efi", s.Firmware)
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
		case !domain.Writable(f.HostPath):
			return invalid("shared folder %q: libvirt cannot be told the path %q: rename the folder", f.Name, f.HostPath)
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
		if n.Name != "" && !labelName.MatchString(n.Name) {
			return fmt.Errorf("%q is not the name of a network", n.Name)
		}
	case v1.NetworkBridged:
		switch {
		case !linkName.MatchString(n.Bridge):
			return fmt.Errorf("network mode bridged needs the name of a link, not %q", n.Bridge)
		case identity.IsLink(n.Bridge):
			return fmt.Errorf("%s belongs to the network of other sandboxes: use network mode intnet or hostonly to join one", n.Bridge)
		}
	default:
		return fmt.Errorf("network mode %q is not one of none, intnet, hostonly, nat and bridged", n.Mode)
	}
	if len(n.PortForwards) > 0 && n.Mode != v1.NetworkNAT {
		return fmt.Errorf("port forwards need network mode nat, not %s", n.Mode)
	}
	names := map[string]bool{}
	for i, f := range n.PortForwards {
		_, err := netip.ParseAddr(f.HostAddress)
		switch {
		case names[f.Name]:
			return fmt.Errorf("two port forwards are named %q", f.Name)
		case slices.ContainsFunc(n.PortForwards[:i], func(o v1.PortForward) bool { return forward.Conflict(o, f) }):
			return fmt.Errorf("port forward %q: host port %d is wanted by another one, too", f.Name, f.HostPort)
		case f.GuestPort < 1 || f.GuestPort > 65535 || f.HostPort < 0 || f.HostPort > 65535:
			return fmt.Errorf("port forward %q: ports go from 1 to 65535", f.Name)
		case f.HostAddress != "" && err != nil:
			return fmt.Errorf("port forward %q: %q is no IP address", f.Name, f.HostAddress)
		case f.Protocol != "" && f.Protocol != v1.ProtocolTCP && f.Protocol != v1.ProtocolUDP:
			return fmt.Errorf("port forward %q: protocol %q is not one of TCP and UDP", f.Name, f.Protocol)
		}
		names[f.Name] = true
	}
	return nil
}

// checkHost tells what of a spec this host cannot meet, and whether the link
// that it names is a bridge.
func (p *Provider) checkHost(_ context.Context, s providers.MachineSpec, f facts) (isBridge bool, err error) {
	object := machineObject(s.ID)
	if s.Firmware == v1.FirmwareEFI && !f.efi {
		return false, providers.Errorf(providers.ErrUnsupported, object, "libvirt finds no EFI firmware: install it (Debian package ovmf)")
	}
	for _, folder := range s.SharedFolders {
		if err := checkFolder(object, folder, f); err != nil {
			return false, err
		}
	}
	if s.Network.Mode != v1.NetworkBridged {
		return false, nil
	}
	link, err := netlink.LinkByName(s.Network.Bridge)
	if err != nil {
		return false, providers.Errorf(providers.ErrInvalid, object, "the host has no network link %q: name one that `ip link` lists", s.Network.Bridge)
	}
	return link.Type() == "bridge", nil
}

// checkFolder finds out whether QEMU, as the user it runs as, could use a
// folder.
func checkFolder(object string, s v1.SharedFolder, f facts) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, object, "shared folder %q: "+format, append([]any{s.Name}, args...)...)
	}
	info, err := os.Stat(s.HostPath)
	if err != nil || !info.IsDir() {
		return invalid("%s is not a directory of the host", s.HostPath)
	}
	if f.uid <= 0 {
		return nil
	}
	need, letters := uint32(unix.R_OK|unix.X_OK), "rX"
	if !s.IsReadOnly() {
		need, letters = need|unix.W_OK, "rwX"
	}
	switch denied, err := deniedTo(f.uid, f.gid, s.HostPath, need); {
	case err != nil:
		return invalid("%s cannot be examined: %w", s.HostPath, err)
	case denied == s.HostPath:
		return invalid("QEMU's user %d may not use %s: setfacl -R -m u:%d:%s %s", f.uid, s.HostPath, f.uid, letters, s.HostPath)
	case denied != "":
		return invalid("QEMU's user %d may not pass through %s: setfacl -m u:%d:x %s", f.uid, denied, f.uid, denied)
	}
	return nil
}

// deniedTo returns the first directory on the way to a path that a user may not
// pass through, or the path itself if he lacks the rights there, or "".
func deniedTo(uid, gid int, path string, need uint32) (string, error) {
	var way []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		way = append([]string{dir}, way...)
		if dir == "/" {
			break
		}
	}
	type answer struct {
		denied string
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		// The identity is the thread's alone. It is not given back: the thread
		// ends with the goroutine.
		runtime.LockOSThread()
		if err := becomeForFiles(uid, gid); err != nil {
			done <- answer{err: err}
			return
		}
		for _, dir := range way {
			if unix.Faccessat2(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS) != nil {
				done <- answer{denied: dir}
				return
			}
		}
		if unix.Faccessat2(unix.AT_FDCWD, path, need, unix.AT_EACCESS) != nil {
			done <- answer{denied: path}
			return
		}
		done <- answer{}
	}()
	a := <-done
	return a.denied, a.err
}

// becomeForFiles makes the calling thread a user without supplementary groups
// in the eyes of the file system.
func becomeForFiles(uid, gid int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return errno
	}
	if err := unix.Setfsgid(gid); err != nil {
		return err
	}
	return unix.Setfsuid(uid)
}
