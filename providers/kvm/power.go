//go:build linux

package kvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// clockTimeout bounds the setting of a resumed guest's clock.
const clockTimeout = 30 * time.Second

// withMachine does something with a machine that exists, and nothing else at
// the same time.
func (p *Provider) withMachine(ctx context.Context, id types.UID, do func(machine) error) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	unlock, err := p.locks.Lock(ctx, machineObject(id))
	if err != nil {
		return err
	}
	defer unlock()
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	return do(m)
}

// call makes a call about a machine.
func (p *Provider) call(ctx context.Context, id types.UID, limit time.Duration, do func(*libvirt.Libvirt, libvirt.Domain) error) error {
	return libvirtconn.Do(ctx, p.conn.Lifecycle(), machineObject(id), limit, func(l *libvirt.Libvirt) error {
		return do(l, libvirtDomain(id))
	})
}

// Start implements providers.Machines.
func (p *Provider) Start(ctx context.Context, id types.UID) error {
	return p.withMachine(ctx, id, func(m machine) error {
		switch m.power {
		case providers.PowerRunning:
			p.thawOrLog(ctx, m)
			return nil
		case providers.PowerStopping:
			return providers.Errorf(providers.ErrBusy, machineObject(id), "the guest is shutting down: start it once it is off")
		case providers.PowerPaused:
		default:
			if err := p.powerOn(ctx, m); err != nil {
				return err
			}
		}
		if err := p.release(ctx, m); err != nil {
			return err
		}
		m.power = providers.PowerRunning
		p.thawOrLog(ctx, m)
		return nil
	})
}

// release lets a paused machine run, if its network was seen to be isolated, and
// nothing by which it reaches outside otherwise was put into its definition since that
// was looked at.
func (p *Provider) release(ctx context.Context, was machine) error {
	id := was.id
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	seen, err := p.observeNetwork(ctx, m, true)
	if err != nil {
		return err
	}
	if !seen.Isolated {
		return p.withhold(ctx, id, v1.ReasonNotObserved, "its network is not as defined: "+seen.Detail)
	}
	if d, ok := providers.Worst(domain.Drift(p.sight(m))); ok && d.Remedy == providers.RemedyPowerOff {
		return p.withhold(ctx, id, d.Reason, d.Detail)
	}
	if err := p.goesOn(id); err != nil {
		return err
	}
	if err := p.call(ctx, id, libvirtconn.Slow, (*libvirt.Libvirt).DomainResume); err != nil {
		return err
	}
	p.guest.forget(id)
	p.aimForwards(ctx, id, m.record)
	providers.Logger(ctx, p.log).V(1).Info("machine runs", "machine", id, "network", seen.Detail)
	if was.power == providers.PowerSaved {
		p.later(clockTimeout, func(ctx context.Context) { p.setClock(ctx, id) })
	}
	return nil
}

// withhold takes the power from a machine that must not run as it is.
func (p *Provider) withhold(ctx context.Context, id types.UID, reason, why string) error {
	err := p.call(context.WithoutCancel(ctx), id, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainDestroyFlags(d, 0)
	})
	if err != nil && !errors.Is(err, providers.ErrBusy) {
		return err
	}
	return providers.Errorf(providers.ErrUnavailable, machineObject(id), "it was powered off before it ran, because %s", why).WithReason(reason)
}

// setClock sets the clock of a guest that slept. A guest without an agent has
// to help itself. One whose file systems are frozen refuses: the call that has
// the machine thaws it first.
func (p *Provider) setClock(ctx context.Context, id types.UID) {
	if files.Exists(p.data.frozen(id)) {
		_ = p.withMachine(ctx, id, func(machine) error { return nil })
	}
	if err := p.agentOf(id).SetTime(ctx, time.Now()); err != nil {
		providers.Logger(ctx, p.log).V(1).Info("clock of a resumed guest not set", "machine", id, "error", err.Error())
	}
}

// Stop implements providers.Machines.
func (p *Provider) Stop(ctx context.Context, id types.UID, mode providers.StopMode) error {
	return p.withMachine(ctx, id, func(m machine) error {
		if mode == providers.StopForce {
			return p.powerOff(ctx, m)
		}
		switch m.power {
		case providers.PowerOff, providers.PowerStopping:
			return nil
		case providers.PowerPaused, providers.PowerSaved:
			return providers.Errorf(providers.ErrBusy, machineObject(id), "it is %s: no guest runs that could be asked to shut down", m.power)
		}
		err := p.call(ctx, id, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
			return l.DomainShutdownFlags(d, libvirt.DomainShutdownAcpiPowerBtn)
		})
		if errors.Is(err, providers.ErrBusy) {
			return p.unlessOff(ctx, id, err)
		}
		return err
	})
}

// powerOff takes the power away and discards a saved state.
func (p *Provider) powerOff(ctx context.Context, m machine) error {
	if m.power == providers.PowerOff {
		return nil
	}
	if err := p.forgetMemory(m.id); err != nil {
		return err
	}
	if m.power == providers.PowerSaved {
		if !m.managed {
			return nil
		}
		return p.call(ctx, m.id, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
			return l.DomainManagedSaveRemove(d, 0)
		})
	}
	err := p.call(ctx, m.id, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainDestroyFlags(d, 0)
	})
	if errors.Is(err, providers.ErrBusy) {
		return p.unlessOff(ctx, m.id, err)
	}
	return err
}

// unlessOff drops an error of a machine that turned out to be off meanwhile.
func (p *Provider) unlessOff(ctx context.Context, id types.UID, err error) error {
	if m, lookErr := p.look(ctx, id); lookErr == nil && m.power == providers.PowerOff {
		return nil
	}
	return err
}

// Suspend implements providers.Machines.
func (p *Provider) Suspend(ctx context.Context, id types.UID) error {
	return p.withMachine(ctx, id, func(m machine) error {
		switch m.power {
		case providers.PowerSaved:
			return nil
		case providers.PowerOff, providers.PowerStopping:
			return providers.Errorf(providers.ErrBusy, machineObject(id), "it is %s: only a machine that is on can be suspended", m.power)
		}
		if err := p.goesOn(id); err != nil { // of a start that was interrupted
			return err
		}
		return p.save(ctx, m, managedDir, func(l *libvirt.Libvirt, d libvirt.Domain) error {
			return l.DomainManagedSave(d, uint32(libvirt.DomainSavePaused))
		})
	})
}

// abortJob stops the saving of a machine, which would go on without its caller.
func (p *Provider) abortJob(id types.UID) {
	p.later(libvirtconn.Quick, func(ctx context.Context) {
		err := p.call(ctx, id, libvirtconn.Quick, (*libvirt.Libvirt).DomainAbortJob)
		if err != nil && !errors.Is(err, providers.ErrBusy) { // there may be no job yet, or any more
			providers.Logger(ctx, p.log).V(1).Info("saving a machine could not be aborted", "machine", id, "error", err.Error())
		}
	})
}

// Reset implements providers.Machines.
func (p *Provider) Reset(ctx context.Context, id types.UID) error {
	return p.withMachine(ctx, id, func(m machine) error {
		if m.power != providers.PowerOff {
			return providers.Errorf(providers.ErrBusy, machineObject(id), "it is %s: only the disk of a machine that is off can be replaced", m.power)
		}
		if err := p.unshared(ctx, m); err != nil {
			return err
		}
		if err := os.RemoveAll(p.data.reverted(id)); err != nil {
			return p.fileError(machineObject(id), err)
		}
		if err := p.refreshDisk(ctx, m); err != nil {
			return err
		}
		if err := p.describe(ctx, id); err != nil {
			return err
		}
		return p.collect(id)
	})
}

// refreshDisk replaces a machine's disk by a fresh one of the same size, on what
// the machine was made from: the image, or the snapshot that it was forked from.
func (p *Provider) refreshDisk(ctx context.Context, m machine) error {
	c, err := p.diskChain(m.id)
	if err != nil && !ruined(err) {
		return err
	}
	if c.image == (providers.ImageRef{}) && (err == nil || files.Exists(p.data.installed(m.id))) {
		return providers.Errorf(providers.ErrUnsupported, machineObject(m.id), "its disk was installed, and there is no image to begin from")
	}
	if err != nil {
		return p.lostDisk(ctx, m)
	}
	if own := c.own(m.id); own < len(c.layers) {
		return p.layDisk(ctx, m.id, c.files[1+own:], c.size)
	}
	return p.cloneImage(ctx, m.id, c.image, c.size)
}

// DeleteMachine implements providers.Machines.
func (p *Provider) DeleteMachine(ctx context.Context, id types.UID) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	unlock, err := p.locks.Lock(ctx, machineObject(id))
	if err != nil {
		return err
	}
	defer unlock()
	leave, err := p.locks.Lock(ctx, layersLock(id))
	if err != nil {
		return err
	}
	defer leave()
	m, err := p.look(ctx, id)
	if err == nil || errors.Is(err, providers.ErrNotFound) {
		if err := p.unforked(id); err != nil {
			return err
		}
	}
	switch {
	case err == nil:
		if err := p.undefine(ctx, m); err != nil {
			return err
		}
	case !errors.Is(err, providers.ErrNotFound):
		return err
	}
	found := err == nil
	p.fwd.Release(string(id))
	p.guest.forget(id)
	if !datafolder.IsUUID(id) {
		return err
	}
	if err := p.leaveAnyNetwork(ctx, id, m); err != nil {
		return err
	}
	dir := p.data.MachineDir(id)
	if _, statErr := os.Lstat(dir); statErr == nil {
		found = true
	} else if !errors.Is(statErr, fs.ErrNotExist) {
		return p.fileError(machineObject(id), statErr)
	}
	if found {
		p.gone.add(id, time.Now())
	}
	p.steps.next()
	if err := os.RemoveAll(dir); err != nil {
		return p.fileError(machineObject(id), err)
	}
	if !found {
		return providers.Errorf(providers.ErrNotFound, machineObject(id), "it does not exist")
	}
	return nil
}

// undefine removes a domain with what libvirt keeps for it.
func (p *Provider) undefine(ctx context.Context, m machine) error {
	if m.on() {
		if err := p.powerOff(ctx, m); err != nil && !errors.Is(err, providers.ErrNotFound) {
			return err
		}
	}
	err := p.call(ctx, m.id, libvirtconn.Slow, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainUndefineFlags(d, libvirt.DomainUndefineManagedSave|libvirt.DomainUndefineSnapshotsMetadata|
			libvirt.DomainUndefineCheckpointsMetadata|libvirt.DomainUndefineNvram)
	})
	if errors.Is(err, providers.ErrNotFound) {
		return nil // a transient domain goes when it ends
	}
	return err
}

// leaveAnyNetwork takes a machine out of the network that its record or its
// folder names.
func (p *Provider) leaveAnyNetwork(ctx context.Context, id types.UID, m machine) error {
	if n, ok := identity.NetworkOf(p.opts.Instance, m.record.Namespace, m.record.Network); ok {
		if err := p.leaveNetwork(ctx, id, n); err != nil {
			return err
		}
	}
	ref, err := readNetworkRef(p.data.networkRef(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return p.fileError(machineObject(id), err)
	}
	n, ok, err := p.networkByUUID(ctx, ref.network)
	if err != nil {
		return err
	}
	if ok {
		return p.leaveNetwork(ctx, id, n)
	}
	return p.leaveLost(ctx, id, ref.network)
}
