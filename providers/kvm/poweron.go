//go:build linux

package kvm

import (
	"context"
	"os"

	"github.com/digitalocean/go-libvirt"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// powerOn makes a machine that is off or saved a paused one.
func (p *Provider) powerOn(ctx context.Context, m machine) error {
	if err := checkFolders(machineObject(m.id), m.live.Folders); err != nil {
		return err
	}
	if m.power == providers.PowerOff {
		if err := p.readyDisk(ctx, m); err != nil {
			return err
		}
	}
	c, err := p.diskChain(m.id)
	if err != nil {
		return err
	}
	if err := p.checkBase(m.id, c.image); err != nil {
		return err
	}
	if err := p.protect(m.id, c); err != nil {
		return p.fileError(machineObject(m.id), err)
	}
	if n, ok := identity.NetworkOf(p.opts.Instance, m.record.Namespace, m.record.Network); ok {
		if err := p.joinNetwork(ctx, m.id, n); err != nil {
			return err
		}
	}
	if m.power == providers.PowerSaved && !m.managed {
		err = p.restore(ctx, m.id, c)
	} else {
		err = p.create(ctx, m)
	}
	if err != nil {
		return err
	}
	if m.power == providers.PowerSaved {
		// The saved state brings the record of its time along, and forwards may
		// have changed since.
		return p.setRecord(ctx, m.id, m.record, providers.PowerPaused)
	}
	return nil
}

// readyDisk prepares the disk of a machine that begins with a boot.
func (p *Provider) readyDisk(ctx context.Context, m machine) error {
	for _, path := range []string{p.data.memory(m.id), p.data.frozen(m.id)} { // half a state, and a mark of a guest that is gone
		if err := os.RemoveAll(path); err != nil {
			return p.fileError(machineObject(m.id), err)
		}
	}
	if !m.record.DiscardOnStop || files.Exists(p.data.reverted(m.id)) {
		return nil
	}
	if _, err := p.diskChain(m.id); err != nil {
		return err
	}
	return p.refreshDisk(ctx, m)
}

// create makes a machine that is off, or that libvirt keeps saved, a paused one.
func (p *Provider) create(ctx context.Context, m machine) error {
	if m.power == providers.PowerOff {
		if err := p.describe(ctx, m.id); err != nil {
			return err
		}
	}
	return p.call(ctx, m.id, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		_, err := l.DomainCreateWithFlags(d, uint32(libvirt.DomainStartPaused))
		return err
	})
}
