package fake

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// disk is a disk of the data folder: of a machine or of a snapshot.
type disk struct {
	// image that it lies on.
	image ref
	// from is the snapshot that it began as; nil when it began as the image.
	from *providers.SnapshotRef
	*guest.Disk
}

func (d *disk) clone() *disk { return &disk{image: d.image, from: d.from, Disk: d.Clone()} }

// golden is a fresh clone of what a disk began as, of at least a size. It needs
// the lock. What it began as is there as long as the disk is.
func (f *folder) golden(image ref, from *providers.SnapshotRef, size int64) *disk {
	fresh := &disk{image: image, from: from}
	switch img := f.images[image]; {
	case from != nil && f.snapshot(*from) != nil:
		fresh.Disk = f.snapshot(*from).disk.Clone()
	case img != nil && img.content != nil:
		fresh.Disk = img.content.Clone()
	default:
		fresh.Disk = guest.NewDisk(size)
	}
	fresh.Grow(size)
	return fresh
}

// content finds a copy of what a disk contains; it needs the lock.
func (p *Provider) content(r providers.DiskRef) (*disk, error) {
	f := p.folder()
	switch {
	case r.Machine == "":
		img := f.images[r.Image]
		if img == nil {
			return nil, providers.Errorf(providers.ErrNotFound, refObject(r.Image), "no such image")
		}
		return f.golden(r.Image, nil, img.info.VirtualSize), nil
	case r.Snapshot != "":
		ref := providers.SnapshotRef{Machine: r.Machine, ID: r.Snapshot}
		s := f.snapshot(ref)
		if s == nil {
			return nil, errNoSnapshot(ref)
		}
		return s.disk.clone(), nil
	}
	m := p.own(r.Machine)
	if m == nil {
		return nil, errNoMachine(r.Machine)
	}
	if m.power != providers.PowerOff && m.power != providers.PowerSaved {
		return nil, providers.Errorf(providers.ErrBusy, machineObject(m.id),
			"it is %s: its disk can be read while it is off or suspended, or from a snapshot", m.power)
	}
	if err := p.undamaged(m); err != nil {
		return nil, err
	}
	if pt := f.parts[m.id]; pt != nil && pt.disk != nil {
		return pt.disk.clone(), nil
	}
	return nil, providers.Errorf(providers.ErrNotFound, machineObject(m.id),
		"its disk is gone: ensure the machine again")
}

// OpenDisk implements providers.Disks. The disk is one raw file with a copy of
// the content: an ext4 file system where the host has mkfs.ext4, and an encoding
// of the fake's own otherwise.
func (p *Provider) OpenDisk(ctx context.Context, r providers.DiskRef) (providers.Disk, error) {
	var d *disk
	err := p.look(ctx, func() (err error) {
		d, err = p.content(r)
		return err
	})
	if err != nil {
		return providers.Disk{}, err
	}
	f, release, err := layer(ctx, d.Disk)
	if err != nil {
		if ctx.Err() != nil {
			return providers.Disk{}, ctx.Err()
		}
		return providers.Disk{}, providers.Errorf(providers.ErrUnavailable, r.String(),
			"its content could not be written to a file: %w", err)
	}
	return providers.Disk{
		Layers: []providers.DiskLayer{{File: f, Format: v1.DiskFormatRaw}}, Size: d.Size(), Release: release,
	}, nil
}

// layer writes a disk to a file that is there until it is released.
func layer(ctx context.Context, d *guest.Disk) (f *os.File, release func(), err error) {
	dir, err := os.MkdirTemp("", "sandboxd-fake-")
	if err != nil {
		return nil, nil, err
	}
	release = func() { _ = os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			release()
		}
	}()
	name := filepath.Join(dir, "disk")
	mkfs, err := exec.LookPath("mkfs.ext4")
	if errors.Is(err, exec.ErrNotFound) {
		mkfs, err = exec.LookPath("/usr/sbin/mkfs.ext4")
	}
	if err != nil || d.Size() < minFileSystem {
		err = dump(d, name)
	} else {
		err = makeFileSystem(ctx, mkfs, d, dir, name)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err = os.Open(name)
	return f, release, err
}

// minFileSystem is the smallest disk that a file system is made on, in bytes.
const minFileSystem = 8 << 20

func dump(d *guest.Disk, name string) error {
	var b bytes.Buffer
	if err := d.Dump(&b); err != nil {
		return err
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Truncate(name, max(d.Size(), int64(b.Len())))
}

func makeFileSystem(ctx context.Context, mkfs string, d *guest.Disk, dir, name string) error {
	tree := filepath.Join(dir, "tree")
	if err := writeTree(d, tree); err != nil {
		return err
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(name, d.Size()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-O", "^has_journal",
		"-E", "root_owner=0:0,lazy_itable_init=1", "-d", tree, name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.New("mkfs.ext4: " + err.Error() + ": " + strings.TrimSpace(string(out)))
	}
	return nil
}

// writeTree writes the files of a disk to a new directory, and nowhere else.
func writeTree(d *guest.Disk, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for _, f := range d.Files() {
		name := strings.TrimPrefix(path.Clean(f.Path), "/")
		if f.Dir {
			err = root.Mkdir(name, 0o755)
		} else {
			err = root.WriteFile(name, f.Data, 0o600)
			if err == nil {
				err = root.Chmod(name, fs.FileMode(f.Mode&0o777)|0o400)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
