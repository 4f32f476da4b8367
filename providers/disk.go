package providers

import (
	"context"
	"os"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// DiskRef names the content of a disk: of an image (Image is set), of one of a
// machine's snapshots (Machine and Snapshot are), or of a machine (Machine is).
type DiskRef struct {
	Image    ImageRef
	Machine  types.UID
	Snapshot types.UID
}

// String formats the reference for messages.
func (r DiskRef) String() string {
	switch {
	case r.Machine == "":
		return "image " + r.Image.String()
	case r.Snapshot == "":
		return "machine " + string(r.Machine)
	default:
		return "snapshot " + SnapshotRef{Machine: r.Machine, ID: r.Snapshot}.String()
	}
}

// Disk is a disk's content, opened for reading. The caller closes it.
type Disk struct {
	// Layers are the files that make up the content: each holds what was written
	// over the next one, and the last one stands alone.
	Layers []DiskLayer
	// Size of the disk as a guest sees it, in bytes. A layer below may be smaller;
	// what it lacks reads as zeros.
	Size int64
	// Release ends what keeps the content from changing; nil when nothing does.
	Release func()
}

// DiskLayer is one file of a disk.
type DiskLayer struct {
	// File is open for reading only.
	File *os.File
	// Format of the file: qcow2, vdi or raw.
	Format v1.DiskFormat
}

// Close closes the files and lets the content change again.
func (d Disk) Close() {
	for _, l := range d.Layers {
		_ = l.File.Close()
	}
	if d.Release != nil {
		d.Release()
	}
}

// Disks reads disks without the help of a guest. What they contain is a guest's,
// and hostile input.
type Disks interface {
	// OpenDisk opens a disk for reading. The content does not change until it is
	// closed; what would change it waits, so it is not kept open for long.
	// ErrBusy for the disk of a machine that is neither off nor saved; ErrNotFound
	// when there is no such machine, snapshot or image.
	OpenDisk(ctx context.Context, ref DiskRef) (Disk, error)
}
