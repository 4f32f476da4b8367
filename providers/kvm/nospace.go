//go:build linux

package kvm

import (
	"context"
	"errors"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// managedDir is where libvirt keeps the states that it manages.
const managedDir = "/var/lib/libvirt/qemu/save"

// outOfSpace tells whether QEMU halted a machine because a file of its disk could
// not grow. What cannot be asked is not said.
func outOfSpace(l *libvirt.Libvirt, dom libvirt.Domain) bool {
	const most = 16 // disks; a machine writes to one of them
	failed, code, err := l.DomainGetDiskErrors(dom, most, 0)
	// The library does not export the field for a disk's code, and so does not read
	// it: of one disk it is what is read next, in place of the number of disks. A
	// version that reads it gives that number, which is no such code.
	return err == nil && len(failed) == 1 && code == int32(libvirt.DomainDiskErrorNoSpace)
}

// unsaved gives the error of a machine whose memory could not be saved in a folder
// the kind that it has when the memory does not fit there: libvirt has one code for
// all that can go wrong when it writes.
func (p *Provider) unsaved(ctx context.Context, id types.UID, dir string, cause error) error {
	if libvirtconn.Code(cause) != libvirt.ErrOperationFailed && libvirtconn.Code(cause) != libvirt.ErrSystemError {
		return cause
	}
	memory, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), machineObject(id), libvirtconn.Quick, func(l *libvirt.Libvirt) (int64, error) {
		_, kib, _, _, _, err := l.DomainGetInfo(libvirtDomain(id))
		return int64(kib) << 10, err //nolint:gosec // the memory of a machine of this host
	})
	free := files.Free(dir)
	if err != nil || free >= memory {
		return cause
	}
	var said libvirt.Error
	errors.As(cause, &said)
	return providers.Errorf(providers.ErrCapacity, machineObject(id),
		"its memory of %d MiB does not fit into %s, where %d MiB are free: make room there (libvirt: %w)", memory>>20, dir, free>>20, said)
}
