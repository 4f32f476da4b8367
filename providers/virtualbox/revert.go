package virtualbox

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// RevertMachine implements providers.Snapshots.
//
//	off ──▶ new disk on the snapshot's, in the place of the present one ──▶ memory adopted
//
// What VirtualBox calls the current snapshot stays as it is; nothing depends on it.
func (p *Provider) RevertMachine(ctx context.Context, ref providers.SnapshotRef) error {
	if !datafolder.IsUUID(ref.ID) {
		return noSnapshot(ref)
	}
	return p.withMachine(ctx, ref.Machine, func(m machine) error {
		all, err := p.statesOf(m.record)
		if err != nil {
			return err
		}
		s, there := find(all, ref.ID)
		if !there {
			return noSnapshot(ref)
		}
		if err := p.powerOff(ctx, m); err != nil {
			return err
		}
		if m, err = p.look(ctx, m.id); err != nil {
			return err
		}
		if m, err = p.putBackTo(ctx, m, s); err != nil {
			return err
		}
		if s.note.Memory && fits(s, m.record) {
			err = p.adoptMemory(ctx, m, s)
		}
		if err == nil {
			p.dropOthers(ctx, m)
		}
		return err
	})
}

// fits tells whether the memory of a snapshot goes with a machine as it is now.
func fits(s state, r record) bool {
	return s.memory != "" && r.Hashes.Hardware != "" && r.Hashes.Hardware == s.note.Hardware &&
		r.Hashes.Network == s.note.Network && r.Engine == s.note.Engine
}

// putBackTo gives a machine that is off a new disk on that of a snapshot. It is not
// fresh, whatever comes of it, and the next start takes it as it is.
func (p *Provider) putBackTo(ctx context.Context, m machine, s state) (machine, error) {
	r := m.record
	if r.Fresh || r.Reverted {
		r.Fresh, r.Reverted = false, false
		if err := p.writeRecord(r); err != nil {
			return m, err
		}
	}
	err := p.replaceDisks(ctx, &r, m, func(d disk) (string, error) {
		parent := s.disks[d.place()]
		if parent == "" {
			return "", providers.Errorf(providers.ErrUnsupported, machineObject(m.id), "it has a disk at %s port %s that it did not have when the snapshot was taken", d.controller, d.port)
		}
		return parent, nil
	})
	if err != nil {
		return m, err
	}
	r.Reverted = true
	if err := p.writeRecord(r); err != nil {
		return m, err
	}
	return p.look(ctx, m.id)
}

// adoptMemory gives a machine that is off the memory of a snapshot. VirtualBox
// removes a memory that it has gone on with, so it gets a name of its own for it.
func (p *Provider) adoptMemory(ctx context.Context, m machine, s state) error {
	disks := disksOf(m.info)
	if len(disks) == 0 {
		return nil
	}
	p.removeMemories(m.record)
	path := filepath.Join(filepath.Dir(s.memory), revertedMemory+disks[0].medium+".sav")
	p.steps.next()
	if err := linkOrCopy(s.memory, path); err != nil {
		return p.fileError(machineObject(m.id), err)
	}
	if _, err := p.manage(ctx, m.id, 0, "adoptstate", string(m.id), path); err != nil {
		return err
	}
	m, err := p.look(ctx, m.id)
	if err == nil && m.power != providers.PowerSaved {
		err = providers.Errorf(providers.ErrUnavailable, machineObject(m.id), "VirtualBox was given the memory of a snapshot and is %s: revert it again", m.power)
	}
	return err
}

// revertedMemory begins the names of the memories that reverted machines go on with.
const revertedMemory = "reverted-"

// removeMemories removes the memories that reverts have left which were cut off. The
// machine is off; those of snapshots that were taken of a machine after a revert stay.
func (p *Provider) removeMemories(r record) {
	all, err := p.statesOf(r)
	if err != nil {
		return
	}
	used := map[string]bool{}
	for _, s := range all {
		used[s.memory] = true
	}
	paths, _ := filepath.Glob(filepath.Join(p.vmDir(r), "Snapshots", revertedMemory+"*.sav"))
	for _, path := range paths {
		if !used[path] {
			_ = os.Remove(path)
		}
	}
}

// linkOrCopy makes a file that has the content of another, which does not change.
func linkOrCopy(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Link(from, to); err == nil || errors.Is(err, os.ErrNotExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, datafolder.FileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return files.Sync(to)
}
