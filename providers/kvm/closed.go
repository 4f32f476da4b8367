//go:build linux

package kvm

import (
	"errors"
	"os"
	"syscall"
)

// closedMode of the data folder lets QEMU's group through, and nobody else. Images and
// what lies under a machine's disk may be read by all, since nobody may write to them:
// the folder keeps the other users of the host out, who see their paths in QEMU's
// arguments.
const closedMode = 0o710

// closeFolder closes the data folder to whom QEMU does not run as. Where that is not
// known, or this process may not, it stays as it was made. It may be repeated.
func (p *Provider) closeFolder(f facts) error {
	if f.gid < 0 || os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(p.data.Root)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(owner.Gid) == f.gid && info.Mode().Perm() == closedMode {
		return nil
	}
	return errors.Join(os.Chown(p.data.Root, -1, f.gid), os.Chmod(p.data.Root, closedMode))
}
