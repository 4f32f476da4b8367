//go:build linux

package kvm

import (
	"context"
	"errors"
	"os"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/machinespec"
)

// ensureDisk makes the disk of a machine that is off, or keeps the one it has.
func (p *Provider) ensureDisk(ctx context.Context, spec providers.MachineSpec) error {
	object, path := machineObject(spec.ID), p.data.disk(spec.ID)
	if err := errors.Join(os.RemoveAll(p.data.memory(spec.ID)), os.RemoveAll(p.data.frozen(spec.ID))); err != nil {
		return p.fileError(object, err)
	}
	if machinespec.Installed(spec) {
		return p.ensureInstalled(ctx, spec)
	}
	if !files.Exists(path) {
		if spec.Snapshot != nil {
			return p.fork(ctx, spec.ID, spec.Image, *spec.Snapshot, spec.DiskBytes)
		}
		if err := os.RemoveAll(p.data.origin(spec.ID)); err != nil {
			return p.fileError(object, err)
		}
		return p.cloneImage(ctx, spec.ID, spec.Image, spec.DiskBytes)
	}
	if err := p.settleLayers(ctx, spec.ID); err != nil {
		return err
	}
	c, err := p.diskChain(spec.ID)
	if err != nil {
		return err
	}
	if _, err := p.readImage(c.image); err != nil {
		return err
	}
	made, err := readDisk(c.files[1+c.own(spec.ID)])
	if err != nil {
		return p.fileError(object, err)
	}
	if err := machinespec.CheckDisk(object, spec.DiskBytes, providers.Image{VirtualSize: made.VirtualSize}); err != nil {
		return err
	}
	if spec.DiskBytes > c.size {
		p.steps.next()
		if err := p.img.Resize(ctx, path, c.files[1], roundUp(spec.DiskBytes), c.files[2:]...); err != nil {
			return p.fileError(object, err)
		}
	}
	return nil
}

// settleLayers merges the layers that no snapshot of a machine that is off names
// any more.
func (p *Provider) settleLayers(ctx context.Context, id types.UID) error {
	if !files.Exists(p.data.layers(id)) {
		return nil
	}
	unlock, err := p.locks.Lock(ctx, layersLock(id))
	if err != nil {
		return err
	}
	defer unlock()
	return p.tidy(ctx, id)
}

// lostDisk makes a disk again that is gone, on the snapshot that the machine was
// forked from, or on its image, of the size that it had. Where an older release has
// not noted that, the machine is marked to be ensured again, which grows it.
func (p *Provider) lostDisk(ctx context.Context, m machine) error {
	size := m.record.Spec().DiskBytes
	if size == 0 && m.record.Hashes.Hardware != "" {
		m.record.Hashes.Hardware = ""
		p.steps.next()
		if err := p.setRecord(ctx, m.id, m.record, m.power); err != nil {
			return err
		}
	}
	o, forked, err := p.readOrigin(m.id)
	switch {
	case err != nil:
		return err
	case forked:
		return p.fork(ctx, m.id, m.record.Image, o.SnapshotRef, size)
	}
	return p.cloneImage(ctx, m.id, m.record.Image, size)
}

// cloneImage puts a fresh disk on an image in the place of a machine's disk, if
// it has one. size 0 means the image's.
func (p *Provider) cloneImage(ctx context.Context, id types.UID, image providers.ImageRef, size int64) error {
	if err := datafolder.CheckRef(image); err != nil {
		return err
	}
	unlock, err := p.locks.Share(ctx, imageObject(image))
	if err != nil {
		return err
	}
	defer unlock()
	img, err := p.readImage(image)
	if err != nil {
		return err
	}
	if err := machinespec.CheckDisk(machineObject(id), size, img); err != nil {
		return err
	}
	return p.layDisk(ctx, id, []string{p.data.image(image)}, max(size, img.VirtualSize))
}
