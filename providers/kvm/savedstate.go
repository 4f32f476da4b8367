//go:build linux

package kvm

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// A machine is saved in one of two ways. Suspend leaves it to libvirt, which
// keeps the state in a folder of its own (m.managed). Snapshots need the file: it
// is the machine's "memory", which a snapshot shares by a second name.
//
//	saveMemory ──▶ memory ──powerOn──▶ paused, memory still there ──release──▶ memory removed, CPUs run
//
// So the file is there only while the CPUs have not run since, and a machine that
// is off and has it goes on from it.

// savedMagic begins a file that libvirt has written to its end, of the whole
// state of a machine.
const savedMagic = "LibvirtQemudSave"

// hasMemory tells whether a machine's saved state is there and complete.
func (p *Provider) hasMemory(id types.UID) bool {
	f, err := os.Open(p.data.memory(id))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	magic := make([]byte, len(savedMagic))
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == savedMagic
}

// forgetMemory removes the memory that a machine would go on with. Its disk is still the
// one that it was put back to, if it was.
func (p *Provider) forgetMemory(id types.UID) error {
	return p.forget(id, p.data.memory(id))
}

// goesOn removes what a machine that is about to run would go on with: neither its memory
// nor its disk is like that from now on.
func (p *Provider) goesOn(id types.UID) error {
	return p.forget(id, p.data.memory(id), p.data.reverted(id))
}

func (p *Provider) forget(id types.UID, paths ...string) error {
	for _, path := range paths {
		if !files.Exists(path) {
			continue
		}
		p.steps.next()
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return p.fileError(machineObject(id), err)
		}
	}
	return nil
}

// dropStale removes what a machine would go on with that was seen to run: somebody
// else has let it. One that another call has is being saved or started by that.
func (p *Provider) dropStale(ctx context.Context, m machine) {
	if m.power != providers.PowerRunning && m.power != providers.PowerStopping ||
		!files.Exists(p.data.memory(m.id)) && !files.Exists(p.data.reverted(m.id)) {
		return
	}
	unlock, free := p.locks.TryLock(machineObject(m.id))
	if !free {
		return
	}
	defer unlock()
	if now, err := p.look(ctx, m.id); err == nil && now.power == m.power {
		if err := p.goesOn(m.id); err != nil {
			providers.Logger(ctx, p.log).Info("a saved state that is not true any more cannot be removed", "machine", m.id, "error", err.Error())
		}
	}
}

// saveMemory saves a machine that is on into its folder. Its process ends.
func (p *Provider) saveMemory(ctx context.Context, m machine) error {
	if err := os.RemoveAll(p.data.memory(m.id)); err != nil {
		return p.fileError(machineObject(m.id), err)
	}
	return p.save(ctx, m, p.data.MachineDir(m.id), func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainSaveFlags(d, p.data.memory(m.id), nil, uint32(libvirt.DomainSavePaused))
	})
}

// save saves a machine that is on into a folder, by one of libvirt's calls. It is
// saved as paused: whoever restores it, its CPUs do not run unseen.
func (p *Provider) save(ctx context.Context, m machine, dir string, call func(*libvirt.Libvirt, libvirt.Domain) error) error {
	abort := context.AfterFunc(ctx, func() { p.abortJob(m.id) })
	defer abort()
	err := p.call(ctx, m.id, libvirtconn.Save, call)
	if err == nil || ctx.Err() != nil || libvirtconn.Code(err) == libvirt.ErrOk {
		return err
	}
	err = p.unsaved(ctx, m.id, dir, err)
	p.goOnUnsaved(ctx, m)
	if len(m.live.Shares) == 0 || errors.Is(err, providers.ErrCapacity) {
		return err
	}
	if now, lookErr := p.look(ctx, m.id); lookErr != nil || now.power != m.power {
		return err
	}
	var said libvirt.Error
	errors.As(err, &said)
	return providers.Errorf(providers.ErrUnsupported, machineObject(m.id),
		"it has shared folders mounted, whose state cannot be saved: unmount them in the guest, or stop the machine (libvirt: %w)", said)
}

// goOnUnsaved lets a machine run again that ran and that libvirt has halted to save
// it, in vain: with the wish that it be saved as paused libvirt leaves it so.
func (p *Provider) goOnUnsaved(ctx context.Context, was machine) {
	if was.power != providers.PowerRunning {
		return
	}
	now, err := p.look(ctx, was.id)
	if err == nil && now.power == providers.PowerPaused {
		err = p.release(ctx, was)
	}
	if err != nil {
		providers.Logger(ctx, p.log).Info("a machine that could not be saved is not known to run again", "machine", was.id, "error", err.Error())
	}
}

// restore makes a machine that was saved in its folder a paused one, on the disk
// that it has now.
func (p *Provider) restore(ctx context.Context, id types.UID, c chain) error {
	text, err := p.savedXML(ctx, p.data.memory(id))
	if err == nil {
		text, err = domain.SetDisk(text, c.files)
	}
	if err != nil {
		return p.fileError(machineObject(id), err)
	}
	return p.call(ctx, id, libvirtconn.Save, func(l *libvirt.Libvirt, _ libvirt.Domain) error {
		return l.DomainRestoreFlags(p.data.memory(id), libvirt.OptString{text}, uint32(libvirt.DomainSavePaused))
	})
}

// savedXML is the definition that a saved state was saved with.
func (p *Provider) savedXML(ctx context.Context, path string) (string, error) {
	return libvirtconn.Get(ctx, p.conn.Lifecycle(), "saved state "+path, libvirtconn.Quick, func(l *libvirt.Libvirt) (string, error) {
		return l.DomainSaveImageGetXMLDesc(path, 0)
	})
}

// restoreAs brings a machine that was saved for a snapshot back to what it was:
// running or paused. Its agent is held.
func (p *Provider) restoreAs(ctx context.Context, id types.UID, power providers.Power) error {
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	if err := p.powerOn(ctx, m); err != nil {
		return err
	}
	if power != providers.PowerRunning {
		return p.describe(ctx, id)
	}
	if err := p.release(ctx, m); err != nil {
		return err
	}
	now, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	return p.thawHeld(ctx, now)
}

// goOn lets a machine run again after a snapshot that failed.
func (p *Provider) goOn(ctx context.Context, id types.UID) {
	if err := p.restoreAs(ctx, id, providers.PowerRunning); err != nil {
		providers.Logger(ctx, p.log).Info("a machine does not run again after a snapshot that failed", "machine", id, "error", err.Error())
	}
}

// describe brings the definition of a machine in line with its disk and what that
// lies on: whoever starts it, QEMU must not leave a layer out. An overlay that
// others have laid upon the disk is left alone, with all that is below. What an earlier
// release defined gets a console that can be typed at.
func (p *Provider) describe(ctx context.Context, id types.UID) error {
	c, err := p.diskChain(id)
	if err != nil {
		return err
	}
	text, err := p.definedXML(ctx, id)
	if err != nil {
		return err
	}
	live, err := domain.Parse(text)
	if err != nil {
		return p.fileError(machineObject(id), err)
	}
	disk := p.data.disk(id)
	source, _ := live.Outline.RootDisk()
	if source != disk && !live.Record.DiscardOnStop && liesOn(source, disk) {
		return nil
	}
	was := text
	if source != disk || !slices.Equal(live.Below, c.files[1:]) {
		if text, err = domain.SetDisk(text, c.files); err != nil {
			return p.fileError(machineObject(id), err)
		}
	}
	if text, err = domain.SetTerminal(text, p.data.console(id)); err != nil {
		return p.fileError(machineObject(id), err)
	}
	if text == was {
		return nil
	}
	return p.call(ctx, id, libvirtconn.Slow, func(l *libvirt.Libvirt, _ libvirt.Domain) error {
		_, err := l.DomainDefineXMLFlags(text, 0)
		return err
	})
}

// definedXML is what the machine is made from at its next start.
func (p *Provider) definedXML(ctx context.Context, id types.UID) (string, error) {
	return libvirtconn.Get(ctx, p.conn.Lifecycle(), machineObject(id), libvirtconn.Quick, func(l *libvirt.Libvirt) (string, error) {
		return l.DomainGetXMLDesc(libvirtDomain(id), libvirt.DomainXMLInactive|libvirt.DomainXMLSecure)
	})
}
