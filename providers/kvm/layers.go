//go:build linux

package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// The disk of a machine with snapshots, and of a fork of one:
//
//	image ◀── layers/0001 ◀── layers/0002 ◀── disk.qcow2        snapshots/A.json: layer 1
//	               ▲                                            snapshots/B.json: layer 2
//	               └────────── disk.qcow2 of the fork, whose file origin names layer 1
//
// Taking a snapshot makes the disk a layer and lays a fresh disk on it; a revert
// lays a fresh disk on an older layer. A layer has a greater number than those of
// its machine that it lies on. A layer that no snapshot names any more stays as
// long as something lies on it, and is merged into that when nobody has it open.

const (
	// maxLayers that a machine's disk may lie on. Each costs every read a little.
	maxLayers = 16
	// maxDepth bounds the walk down a chain, with those of a fork's ancestors.
	maxDepth = 4 * maxLayers
)

// chain is a disk or layer with what it lies on.
type chain struct {
	// size that a guest sees, in bytes.
	size int64
	// files from the top one down to the one that stands alone.
	files []string
	// layers are the files between the top one and the image.
	layers []place
	// image at the bottom; empty when there is none, but an installer made it.
	image providers.ImageRef
	// snapshots that QEMU keeps inside the top file: not of our making.
	snapshots int
}

// lostFile is a file that is gone and that a disk needs.
type lostFile struct{ path, what string }

func (l *lostFile) Error() string { return l.what }

// badDisk is a disk that cannot be used as it is.
type badDisk struct {
	what  string
	cause error
}

func (b *badDisk) Error() string { return b.what + ": delete the sandbox" }
func (b *badDisk) Unwrap() error { return b.cause }

// own counts the layers on top that are of the machine itself.
func (c chain) own(id types.UID) int {
	if i := slices.IndexFunc(c.layers, func(l place) bool { return l.machine != id }); i >= 0 {
		return i
	}
	return len(c.layers)
}

// diskChain reads what a machine's disk lies on. A machine whose disk, or what that
// needs, is gone or damaged is there all the same: this is ErrInvalid with a reason.
func (p *Provider) diskChain(id types.UID) (chain, error) {
	c, err := p.walk(place{machine: id}, p.data.disk(id))
	var lost *lostFile
	var bad *badDisk
	switch {
	case errors.As(err, &lost):
		return c, providers.Errorf(providers.ErrInvalid, machineObject(id), "%w", lost).WithReason(v1.ReasonDiskLost)
	case errors.As(err, &bad):
		return c, providers.Errorf(providers.ErrInvalid, machineObject(id), "%w", bad).WithReason(v1.ReasonDiskChanged)
	}
	return c, err
}

// layerChain reads what a layer lies on. Without all of that there is no snapshot.
func (p *Provider) layerChain(at place) (chain, error) { return p.walk(at, p.data.layer(at)) }

// walk follows the headers down from a file. They are not believed but checked:
// a guest that got hold of QEMU could have written another. What a disk may lie
// on are images, older layers of its own machine, and the very layer that it was
// forked from.
func (p *Provider) walk(at place, path string) (chain, error) {
	object := machineObject(at.machine)
	var c chain
	for {
		h, err := readDisk(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(c.files) == 0:
			return c, providers.Errorf(providers.ErrNotFound, object, "%w", &lostFile{path, "its disk is gone: put the file " + path + " back, revert the sandbox (to a snapshot, or golden), or delete it"})
		case errors.Is(err, fs.ErrNotExist):
			return c, providers.Errorf(providers.ErrNotFound, object, "%w", &lostFile{path, path + ", which its disk lies on, is gone: put it back, or delete the sandbox"})
		case err != nil:
			return c, providers.Errorf(providers.ErrInvalid, object, "%w", &badDisk{fmt.Sprintf("its disk %s cannot be read, because of %v", path, err), err})
		}
		if len(c.files) == 0 {
			c.size, c.snapshots = h.VirtualSize, h.Snapshots
		}
		c.files = append(c.files, path)
		if h.Backing == "" && len(c.files) == 1 && files.Exists(p.data.installed(at.machine)) {
			return c, nil // an installer made it
		}
		if ref, ok := p.data.refOf(h.Backing); ok {
			c.image, c.files = ref, append(c.files, h.Backing)
			return c, nil
		}
		next, ok := p.data.placeOf(h.Backing)
		if !ok || len(c.files) > maxDepth || !p.mayLieOn(at, next) {
			return c, providers.Errorf(providers.ErrInvalid, object, "%w", &badDisk{what: fmt.Sprintf("its disk lies on %q, which is not an image or snapshot that it was made from", h.Backing)})
		}
		c.layers = append(c.layers, next)
		at, path = next, h.Backing
	}
}

// mayLieOn tells whether a disk (layer 0) or layer may lie on a layer.
func (p *Provider) mayLieOn(at, on place) bool {
	if at.machine == on.machine {
		return at.layer == 0 || on.layer < at.layer
	}
	o, ok, err := p.readOrigin(at.machine)
	return err == nil && ok && o.place() == on
}

// protect makes sure that QEMU may read the layers of a machine's own, and write
// to none: it was their owner while they were its disk.
func (p *Provider) protect(id types.UID, c chain) error {
	for _, l := range c.layers[:c.own(id)] {
		path := p.data.layer(l)
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm() == layerMode {
			continue
		}
		if err := errors.Join(os.Chown(path, os.Geteuid(), os.Getegid()), os.Chmod(path, layerMode)); err != nil {
			return err
		}
	}
	return nil
}

const layerMode = 0o444

// ownLayers lists the layers of a machine, the oldest first.
func (p *Provider) ownLayers(id types.UID) ([]place, error) {
	entries, err := os.ReadDir(p.data.layers(id)) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []place
	for _, e := range entries {
		if at, ok := p.data.placeOf(filepath.Join(p.data.layers(id), e.Name())); ok {
			list = append(list, at)
		}
	}
	return list, err
}

// pushLayer makes the disk a layer and lays a fresh one on it. The disk has its
// name all the time: cut off before the last step, nothing has changed but that
// there is a second name of it, which collect removes.
func (p *Provider) pushLayer(ctx context.Context, id types.UID, c chain) (place, error) {
	object, disk := machineObject(id), p.data.disk(id)
	list, err := p.ownLayers(id)
	if err != nil {
		return place{}, p.fileError(object, err)
	}
	at := place{machine: id, layer: 1}
	if len(list) > 0 {
		at.layer = list[len(list)-1].layer + 1
	}
	if at.layer > 9999 {
		return place{}, providers.Errorf(providers.ErrCapacity, object, "it had %d snapshots, which is as many as can be numbered: reset or fork it", at.layer)
	}
	p.steps.next()
	if err := files.Mkdir(p.data.layers(id), dirMode); err != nil {
		return place{}, p.fileError(object, err)
	}
	p.steps.next()
	if err := os.Link(disk, p.data.layer(at)); err != nil {
		return place{}, p.fileError(object, err)
	}
	if err := p.layDisk(ctx, id, append([]string{p.data.layer(at)}, c.files[1:]...), c.size); err != nil {
		return place{}, err
	}
	p.steps.next()
	now, err := p.diskChain(id)
	if err != nil {
		return place{}, err
	}
	err = errors.Join(p.protect(id, now), files.Sync(p.data.layer(at)), files.SyncDir(p.data.layers(id)), files.SyncDir(p.data.MachineDir(id)))
	return at, p.fileError(object, err)
}

// layDisk puts a fresh disk in the place of a machine's disk, if it has one. It
// lies on the first of the files, which lie on each other.
func (p *Provider) layDisk(ctx context.Context, id types.UID, on []string, size int64) error {
	object, path := machineObject(id), p.data.disk(id)
	next := path + ".new"
	if err := os.RemoveAll(next); err != nil {
		return p.fileError(object, err)
	}
	p.steps.next()
	if err := p.img.CreateOverlay(ctx, next, on[0], roundUp(size), on[1:]...); err != nil {
		_ = os.Remove(next)
		return p.fileError(object, err)
	}
	p.steps.next()
	return p.fileError(object, os.Rename(next, path))
}

// unreadable stands, in what overlays returns, for what damaged disks and layers lie
// on, which nobody knows.
const unreadable = ""

// overlays lists the disks and layers of all machines by the file that they lie
// on. One that cannot be read just now is an error: what it lies on must not be taken
// for unused.
func (p *Provider) overlays() (map[string][]string, error) {
	on := map[string][]string{}
	for _, pattern := range []string{"*.qcow2*", "layers/*.qcow2"} {
		disks, err := filepath.Glob(filepath.Join(p.data.Machines(), "*", pattern))
		if err != nil {
			return nil, err
		}
		for _, d := range disks {
			h, err := readDisk(d)
			switch damaged := errors.Is(err, qemuimg.ErrFormat) || errors.Is(err, qemuimg.ErrRefersToOthers); {
			case errors.Is(err, fs.ErrNotExist), damaged && filepath.Ext(d) != ".qcow2": // gone, or never finished
			case damaged:
				on[unreadable] = append(on[unreadable], d)
			case err != nil:
				return nil, err
			case h.Backing != "":
				on[h.Backing] = append(on[h.Backing], d)
			}
		}
	}
	return on, nil
}

// ownerOf is the machine that a disk or layer is of.
func (p *Provider) ownerOf(path string) types.UID {
	if at, ok := p.data.placeOf(path); ok {
		return at.machine
	}
	return types.UID(filepath.Base(filepath.Dir(path)))
}
