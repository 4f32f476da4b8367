//go:build linux

package kvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/digitalocean/go-libvirt"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// RevertMachine implements providers.Snapshots.
//
//	off ──▶ fresh disk on the snapshot's layer ──▶ its memory, if it fits ──▶ off or saved
func (p *Provider) RevertMachine(ctx context.Context, ref providers.SnapshotRef) error {
	return p.withMachine(ctx, ref.Machine, func(m machine) error {
		s, err := p.readSnapshot(ref)
		if err != nil {
			return err
		}
		if err := p.unshared(ctx, m); err != nil {
			return err
		}
		to, err := p.layerChain(s.place())
		if err != nil {
			return err
		}
		size := max(to.size, m.record.Spec().DiskBytes)
		if now, err := p.diskChain(m.id); err == nil {
			size = max(size, now.size)
		} else if !errors.Is(err, providers.ErrInvalid) {
			return err
		}
		memory := false
		if s.Snapshot.Memory && size == to.size {
			if memory, err = p.fits(ctx, m, ref); err != nil {
				return err
			}
		}
		if err := p.powerOff(ctx, m); err != nil {
			return err
		}
		p.guest.forget(m.id)
		if err := p.layDisk(ctx, m.id, to.files, size); err != nil {
			return err
		}
		if err := p.afterRevert(m, s, memory); err != nil {
			return p.fileError(machineObject(m.id), err)
		}
		if err := p.describe(ctx, m.id); err != nil {
			return err
		}
		return p.collect(m.id)
	})
}

// afterRevert leaves in the folder of a machine that is off, on its old disk,
// what its next start goes on with.
func (p *Provider) afterRevert(m machine, s snapshotFile, memory bool) error {
	mark := p.data.frozen(m.id)
	if err := os.Remove(mark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if m.record.DiscardOnStop { // also with memory, which may be discarded before it runs
		p.steps.next()
		if err := files.Write(p.data.reverted(m.id), nil, 0o600); err != nil {
			return err
		}
	}
	if !memory {
		return nil
	}
	if s.Snapshot.Frozen {
		p.steps.next()
		if err := files.Write(mark, []byte(markFrozen), 0o600); err != nil {
			return err
		}
	}
	p.steps.next()
	return errors.Join(os.Link(p.data.snapshotMemory(s.Snapshot.SnapshotRef), p.data.memory(m.id)),
		files.SyncDir(filepath.Dir(p.data.memory(m.id))))
}

// fits tells whether the memory of a snapshot belongs to the hardware that the
// machine has now. What is defined is asked: a machine that is on has still the
// hardware that it was started with.
func (p *Provider) fits(ctx context.Context, m machine, ref providers.SnapshotRef) (bool, error) {
	saved, err := p.savedXML(ctx, p.data.snapshotMemory(ref))
	if err != nil {
		if libvirtconn.Code(err) == libvirt.ErrOk { // libvirt has not said that the file is none
			return false, err
		}
		return false, nil
	}
	then, err := domain.Parse(saved)
	if err != nil {
		return false, nil
	}
	text, err := p.definedXML(ctx, m.id)
	if err != nil {
		return false, err
	}
	now, err := domain.Parse(text)
	if err != nil {
		return false, p.fileError(machineObject(m.id), err)
	}
	return sameHardware(then, now), nil
}

// sameHardware tells whether a state that was saved of one machine can go on in
// another.
func sameHardware(then, now domain.Live) bool {
	return then.Accelerator == now.Accelerator &&
		then.Record.Hashes.Hardware == now.Record.Hashes.Hardware &&
		then.Record.Hashes.Network == now.Record.Hashes.Network
}
