package virtualbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// clone makes a machine that VirtualBox does not have, as a linked clone of its
// image. A disk that the record names, of a machine that others removed, takes
// the place of the clone's, and so does that of a fork. Any other clone of a golden
// machine of our own is defined (see define); the rest are to be prepared.
func (p *Provider) clone(ctx context.Context, spec providers.MachineSpec, r *record, image sealed) (m machine, defined bool, err error) {
	unlock, err := p.locks.Share(ctx, imageObject(r.Image))
	if err != nil {
		return machine{}, false, err
	}
	defer unlock()
	kept := r.Disk != "" && within(p.vmDir(*r), r.Disk) && files.Exists(r.Disk)
	if r.Kept = ""; kept {
		r.Kept = r.Disk
		if err := p.writeRecord(*r); err != nil {
			return machine{}, false, err
		}
	}
	if err := p.clearFolder(ctx, *r, kept); err != nil {
		return machine{}, false, err
	}
	if !kept && r.Snapshot != nil {
		if err := p.forkDisk(ctx, r, image); err != nil {
			return machine{}, false, err
		}
		kept = true
	}
	args := []string{
		"clonevm", string(image.Machine), "--name", r.VM, "--uuid", string(r.ID),
		"--snapshot", image.Snapshot, "--options", "link", "--basefolder", p.data.MachineDir(r.ID),
	}
	if image.Adopted || kept {
		if _, err := p.manage(ctx, r.ID, vboxmanage.Slow, append(args, "--register")...); err != nil {
			return machine{}, false, p.notCloned(ctx, *r, err)
		}
		m, err = p.cloned(ctx, r)
		return m, false, err
	}
	if _, err := p.manage(ctx, r.ID, vboxmanage.Slow, args...); err != nil {
		return machine{}, false, p.notCloned(ctx, *r, err)
	}
	p.steps.next()
	medium, file, err := p.planOf(spec, *r, image).define(p.definition(*r), p.seed(*r))
	switch {
	case err == nil:
		defined = true
		if err := p.writeSeed(spec, p.seed(*r)); err != nil {
			return machine{}, false, err
		}
	case errors.Is(err, errUnusual):
		providers.Logger(ctx, p.log).V(1).Info("a clone is configured by commands", "machine", r.ID, "reason", err.Error())
	default:
		return machine{}, false, p.fileError(machineObject(r.ID), err)
	}
	if _, err := p.manage(ctx, r.ID, 0, "registervm", p.definition(*r)); err != nil {
		return machine{}, false, p.notCloned(ctx, *r, err)
	}
	if !defined {
		m, err = p.cloned(ctx, r)
		return m, false, err
	}
	r.Disk, r.DiskBytes, r.Fresh, r.Forced = file, 0, true, false
	return machine{}, true, p.complete(ctx, spec, r, medium, image)
}

// complete does what a definition does not, and notes that the machine is whole.
func (p *Provider) complete(ctx context.Context, spec providers.MachineSpec, r *record, medium string, image sealed) error {
	if err := p.grow(ctx, r, disk{medium: medium}, spec.DiskBytes, image); err != nil {
		return err
	}
	if card := p.planOf(spec, *r, image).card(); len(card) > 0 {
		if _, err := p.manage(ctx, r.ID, 0, append([]string{"modifyvm", string(r.ID)}, card...)...); err != nil {
			return err
		}
	}
	r.Hashes, r.CPUs, r.MemoryBytes = spec.Hashes(), spec.CPUs, spec.MemoryBytes
	r.Disks = 1 // what else it has, a definition that is edited has not
	return p.writeRecord(*r)
}

// cloned looks at a new clone and puts the kept disk in.
func (p *Provider) cloned(ctx context.Context, r *record) (machine, error) {
	object, id := machineObject(r.ID), string(r.ID)
	m, err := p.look(ctx, r.ID)
	if err != nil {
		return machine{}, err
	}
	if m.power == providers.PowerSaved { // its image's snapshot was taken of a machine that ran
		if _, err := p.manage(ctx, r.ID, 0, "discardstate", id); err != nil {
			return machine{}, err
		}
	}
	disks := disksOf(m.info)
	if len(disks) == 0 {
		return machine{}, providers.Errorf(providers.ErrUnavailable, object, "VirtualBox cloned it without its disk")
	}
	if r.Kept != "" {
		return p.putBack(ctx, r, m)
	}
	r.Disk, r.DiskBytes, r.Fresh, r.Forced = disks[0].path, 0, true, false
	return m, nil
}

// notCloned words why a machine could not be cloned, and clears away what there
// is of it.
func (p *Provider) notCloned(ctx context.Context, r record, err error) error {
	if ctx.Err() != nil {
		return err // the clone may yet be finished: the next call finds it
	}
	_, lookErr := p.look(ctx, r.ID)
	if lookErr != nil && !errors.Is(lookErr, providers.ErrNotFound) {
		// It has the UUID and cannot look at the machine: whose is it?
		config, err := p.configOf(ctx, r.ID)
		if err != nil {
			return err
		}
		if config != "" && !within(p.data.MachineDir(r.ID), config) {
			lookErr = errForeign
		}
	}
	switch {
	case errors.Is(lookErr, errForeign):
		if cleared := p.removeFolder(ctx, r.ID); cleared != nil {
			return cleared
		}
		return foreign(r.ID)
	case lookErr == nil && errors.Is(err, providers.ErrInvalid):
		return providers.Errorf(providers.ErrBusy, machineObject(r.ID), "an earlier call has made it by now: ensure the machine again (%w)", said(err))
	case errors.Is(err, providers.ErrNotFound):
		return providers.Errorf(providers.ErrNotFound, imageObject(r.Image), "its golden machine or snapshot is gone from VirtualBox: delete the GoldenImage and apply it again (%w)", said(err))
	}
	return err
}

// said is what VBoxManage said, without the kind that it was taken for.
func said(err error) error {
	var f *vboxmanage.Failure
	if errors.As(err, &f) {
		return f
	}
	return errors.New(err.Error())
}

// attach puts a disk in the place of another.
func (p *Provider) attach(ctx context.Context, id types.UID, at disk, path string) error {
	_, err := p.manage(ctx, id, 0, "storageattach", string(id), "--storagectl", at.controller,
		"--port", at.port, "--device", at.device, "--type", "hdd", "--medium", path)
	return err
}

// closeMedia makes VirtualBox forget the disks in a folder that no machine has,
// all but some, and removes them. It would go on thinking that their parents are
// in use. A disk that a machine has, or another disk lies on, stays and is ErrBusy.
func (p *Provider) closeMedia(ctx context.Context, id types.UID, dir string, but ...string) error {
	for {
		closed, used, err := p.closeUnused(ctx, id, dir, but)
		if err != nil {
			return err
		}
		if closed == 0 || used == nil { // else the last one used may have been used by one that is gone
			return used
		}
	}
}

// closeUnused removes the disks in a folder that nothing uses, all but some, and
// says of one that is used why it stays.
func (p *Provider) closeUnused(ctx context.Context, id types.UID, dir string, but []string) (closed int, used, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return p.fileError(machineObject(id), err)
		}
		if !entry.Type().IsRegular() || !strings.EqualFold(filepath.Ext(path), ".vdi") || slices.Contains(but, path) {
			return nil
		}
		_, err = p.manage(ctx, id, 0, "closemedium", "disk", path, "--delete")
		switch {
		case errors.Is(err, providers.ErrBusy):
			used = providers.Errorf(providers.ErrBusy, machineObject(id), "VirtualBox uses its disk %s in a snapshot or for another machine: remove that first (%w)", path, said(err))
			return nil
		case err != nil && !understood(err):
			return err
		}
		// It may not know the file, or take it for broken.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.fileError(machineObject(id), err)
		}
		closed++
		return nil
	})
	return closed, used, err
}

// understood tells whether VirtualBox's service has had its say in a failure.
func understood(err error) bool {
	var f *vboxmanage.Failure
	return errors.As(err, &f) && !f.Unreached && !f.Died()
}
