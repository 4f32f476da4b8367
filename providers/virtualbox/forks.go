package virtualbox

import (
	"context"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// A fork is a clone of its image's golden machine, as any other machine, with a disk
// of its own that lies on the snapshot's:
//
//	golden ◀── snapshot's disk ◀── the origin's disk
//	                    ▲────────── the fork's disk
//
// Its record names the snapshot before anything lies on it, and until all is gone.

// origin holds the machine that a fork is still to be made of, until release is
// called, if the snapshot is there and on the fork's image. A fork that has its disk
// needs nothing more of it.
func (p *Provider) origin(ctx context.Context, spec providers.MachineSpec, was machine, r *record) (release func(), err error) {
	if r.Snapshot == nil || was.info != nil || r.Disk != "" && files.Exists(r.Disk) {
		return func() {}, nil
	}
	ref, object := *r.Snapshot, machineObject(spec.ID)
	if ref.Machine == spec.ID {
		return nil, providers.Errorf(providers.ErrInvalid, object, "it is to be forked from a snapshot of itself")
	}
	if _, _, err := p.snapshotNamed(ref); err != nil { // not one to be waited for
		return nil, err
	}
	unlock, err := p.locks.Share(ctx, machineObject(ref.Machine))
	if err != nil {
		return nil, err
	}
	origin, s, err := p.snapshotNamed(ref)
	switch {
	case err != nil:
	case origin.Image != r.Image:
		err = providers.Errorf(providers.ErrInvalid, object, "the snapshot %s lies on image %s, not on %s", ref.String(), origin.Image.String(), r.Image.String())
	case len(s.disks) != 1:
		err = providers.Errorf(providers.ErrUnsupported, object, "the snapshot %s has %d disks, and only one of one disk can be forked", ref.String(), len(s.disks))
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// forkDisk makes the disk of a fork, which its clone gets in the place of its own.
// Its origin is held.
func (p *Provider) forkDisk(ctx context.Context, r *record, image sealed) error {
	_, s, err := p.snapshotNamed(*r.Snapshot)
	if err != nil {
		return err
	}
	dir := p.vmDir(*r)
	p.steps.next()
	if err := files.Mkdir(dir, dirMode); err != nil {
		return p.fileError(machineObject(r.ID), err)
	}
	r.Kept, r.DiskBytes, r.Fresh, r.Reverted = freeDisk(dir, 0), 0, false, false
	if err := p.writeRecord(*r); err != nil {
		return err
	}
	for _, parent := range s.disks { // the one
		if err := p.layDisk(ctx, *r, r.Kept, parent, true); err != nil {
			return err
		}
	}
	v, err := readVDI(r.Kept)
	if err != nil {
		return p.fileError(machineObject(r.ID), err)
	}
	if v.size > image.Image.VirtualSize {
		r.DiskBytes = v.size
		return p.writeRecord(*r)
	}
	return nil
}
