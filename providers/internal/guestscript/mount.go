package guestscript

import (
	"fmt"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

// Sharing is how a hypervisor shares folders with its guests, as Mount needs to
// know it.
type Sharing struct{ fileSystem, options, modules string }

// SharingOf is how a provider's hypervisor does it: VirtualBox in a way of its
// own, QEMU by 9p. Each message of 9p carries 256 KiB.
func SharingOf(p v1.ProviderName) Sharing {
	if p == v1.ProviderVirtualBox {
		return Sharing{"vboxsf", "", "vboxsf"}
	}
	return Sharing{"9p", "trans=virtio,version=9p2000.L,msize=262144,", "9pnet_virtio 9p"}
}

// Arguments of Mount for a folder.
func (s Sharing) Arguments(f v1.SharedFolder) []string {
	mode := "rw"
	if f.IsReadOnly() {
		mode = "ro"
	}
	return []string{s.fileSystem, s.options + "nosuid,nodev," + mode, s.modules, f.Name, f.GuestPath()}
}

// Outcome reads the line that Mount has printed of a folder.
func (s Sharing) Outcome(line string, f v1.SharedFolder) error {
	switch word, rest, _ := strings.Cut(line, " "); word {
	case "ok":
		return nil
	case "root":
		return fmt.Errorf("%w to mount %q on %s: only root may, and the image's guest.user is not root", guestcall.ErrRefused, f.Name, f.GuestPath())
	case "directory":
		return fmt.Errorf("%w: %s cannot be made in the guest", guestcall.ErrBadRequest, f.GuestPath())
	case "unsupported":
		return fmt.Errorf("%w for shared folders: its kernel has no %s file system", guestcall.ErrGuestLacks, s.fileSystem)
	case "failed":
		return fmt.Errorf("%w to mount %q on %s: %s", guestcall.ErrRefused, f.Name, f.GuestPath(), guestcall.Printable(rest))
	default:
		return notUnderstood(fmt.Sprintf("folder %q", f.Name), line)
	}
}
