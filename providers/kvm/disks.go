//go:build linux

package kvm

import (
	"context"
	"os"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
)

// OpenDisk implements providers.Disks.
func (p *Provider) OpenDisk(ctx context.Context, ref providers.DiskRef) (providers.Disk, error) {
	c, release, err := p.holdDisk(ctx, ref)
	if err != nil {
		return providers.Disk{}, err
	}
	d := providers.Disk{Size: c.size, Release: release}
	for _, path := range c.files {
		f, err := os.Open(path)
		if err != nil {
			d.Close()
			return providers.Disk{}, p.fileError(ref.String(), err)
		}
		d.Layers = append(d.Layers, providers.DiskLayer{File: f, Format: v1.DiskFormatQCOW2})
	}
	return d, nil
}

// holdDisk finds the files of a disk, which do not change until it is released.
func (p *Provider) holdDisk(ctx context.Context, ref providers.DiskRef) (c chain, release func(), err error) {
	if err := p.ready(ctx); err != nil {
		return c, nil, err
	}
	lock := machineObject(ref.Machine)
	switch {
	case ref.Machine == "":
		if err := datafolder.CheckRef(ref.Image); err != nil {
			return c, nil, err
		}
		lock = imageObject(ref.Image)
	case ref.Snapshot != "":
		lock = layersLock(ref.Machine)
	}
	release, err = p.locks.Share(ctx, lock)
	if err != nil {
		return c, nil, err
	}
	if c, err = p.findDisk(ctx, ref); err != nil {
		release()
	}
	return c, release, err
}

// findDisk finds the files of a disk that is held.
func (p *Provider) findDisk(ctx context.Context, ref providers.DiskRef) (chain, error) {
	switch {
	case ref.Machine == "":
		img, err := p.readImage(ref.Image)
		return chain{size: img.VirtualSize, files: []string{p.data.image(ref.Image)}, image: ref.Image}, err
	case ref.Snapshot != "":
		s, err := p.readSnapshot(providers.SnapshotRef{Machine: ref.Machine, ID: ref.Snapshot})
		if err != nil {
			return chain{}, err
		}
		return p.layerChain(s.place())
	}
	m, err := p.look(ctx, ref.Machine)
	if err != nil {
		return chain{}, err
	}
	if m.power != providers.PowerOff && m.power != providers.PowerSaved {
		return chain{}, providers.Errorf(providers.ErrBusy, machineObject(m.id),
			"it is %s: its disk can be read while it is off or suspended, or from a snapshot", m.power)
	}
	if err := p.unshared(ctx, m); err != nil {
		return chain{}, err
	}
	c, err := p.diskChain(m.id)
	if err != nil {
		return c, err
	}
	return c, p.checkBase(m.id, c.image)
}
