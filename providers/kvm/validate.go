//go:build linux

package kvm

import (
	"context"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostnet"
	"sandboxd.dev/sandboxd/providers/internal/installer"
	"sandboxd.dev/sandboxd/providers/internal/machinespec"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
)

// limits of a machine. Less memory does not hold a firmware and a kernel.
var limits = machinespec.Limits{CPUs: 256, Memory: 16 << 20}

// validate tells what of a spec cannot be met by any host.
func validate(s providers.MachineSpec) error {
	if err := machinespec.Check(s, limits); err != nil {
		return err
	}
	if err := installer.Check(machineObject(s.ID), s); err != nil {
		return err
	}
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, machineObject(s.ID), format, args...)
	}
	if s.Network.Mode == v1.NetworkBridged && hostnet.IsSandboxLink(s.Network.Bridge) {
		return invalid("%s belongs to the network of other sandboxes: use network mode intnet or hostonly to join one", s.Network.Bridge)
	}
	for _, f := range s.SharedFolders {
		if !domain.Writable(f.HostPath) {
			return invalid("shared folder %q: libvirt cannot be told the path %q: rename the folder", f.Name, f.HostPath)
		}
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
	if err := checkFolders(object, []string{s.HostPath}); err != nil {
		return err
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
