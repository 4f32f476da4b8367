//go:build linux

package kvm

import (
	"context"
	"errors"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// EnsureMachine implements providers.Machines.
func (p *Provider) EnsureMachine(ctx context.Context, spec providers.MachineSpec) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	if err := validate(spec); err != nil {
		return err
	}
	unlock, err := p.locks.Lock(ctx, machineObject(spec.ID))
	if err != nil {
		return err
	}
	defer unlock()
	was, err := p.lookWhole(ctx, spec.ID)
	switch {
	case errors.Is(err, errForeign):
		return providers.Errorf(providers.ErrAlreadyExists, machineObject(spec.ID), "libvirt has a machine of that UUID which is not ours: it is left alone")
	case err != nil && !errors.Is(err, providers.ErrNotFound):
		return err
	case err == nil:
		return p.bring(ctx, spec, was)
	}
	return p.make(ctx, spec, machine{})
}

// bring brings a machine that exists to the spec, as far as it may be.
func (p *Provider) bring(ctx context.Context, spec providers.MachineSpec, was machine) error {
	s := p.sight(was)
	drifts := domain.Drift(s)
	if err := refuse(spec.ID, drifts); err != nil {
		return err
	}
	if was.power == providers.PowerOff {
		return p.make(ctx, spec, was)
	}
	if slices.ContainsFunc(drifts, func(d providers.Drift) bool { return d.Remedy == providers.RemedyEnsure }) {
		if err := p.redefine(ctx, was, s); err != nil {
			return err
		}
	}
	return p.changeForwards(ctx, spec, was)
}

// make makes a machine that is off, or does not exist, what the spec says.
// Everything it makes is found again under names that follow from the spec, so
// it may be stopped anywhere and repeated.
func (p *Provider) make(ctx context.Context, spec providers.MachineSpec, was machine) error {
	object := machineObject(spec.ID)
	f, err := p.facts(ctx)
	if err != nil {
		return err
	}
	isBridge, err := p.checkHost(ctx, spec, f)
	if err != nil {
		return err
	}
	p.steps.next()
	if err := files.Mkdir(p.data.MachineDir(spec.ID), dirMode); err != nil {
		return p.fileError(object, err)
	}
	cd, err := p.ensureInstaller(ctx, spec)
	if err != nil {
		return err
	}
	if err := p.ensureDisk(ctx, spec); err != nil {
		return err
	}
	disk, err := p.diskChain(spec.ID)
	if err != nil {
		return err
	}
	if err := p.protect(spec.ID, disk); err != nil {
		return p.fileError(object, err)
	}
	if err := p.writeSeed(spec); err != nil {
		return p.fileError(object, err)
	}
	if err := p.ensureNetwork(ctx, spec, was); err != nil {
		return err
	}
	forwards, err := p.fwd.Reserve(string(spec.ID), spec.Network.PortForwards, was.record.Network.PortForwards)
	if err != nil {
		return err
	}
	record := domain.Record{
		Instance: p.opts.Instance, Owner: spec.ID, Namespace: spec.Namespace, Name: spec.Name,
		Image: disk.image, Hashes: spec.Hashes(), Network: spec.Network, DiscardOnStop: spec.DiscardOnStop,
	}
	record.Network.PortForwards = forwards
	defined := spec
	defined.DiskBytes = disk.size // also where the spec leaves that to the image
	text, err := domain.Build(domain.Spec{
		MachineSpec: defined, Record: record, Accelerator: f.accelerator, LinkIsBridge: isBridge,
		Disk: disk.files[0], Below: disk.files[1:], Seed: p.data.seed(spec.ID), Console: p.data.console(spec.ID), Installer: cd,
	})
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, object, "%w", err)
	}
	if err := p.rename(ctx, spec, was); err != nil {
		return err
	}
	if err := p.define(ctx, spec, text); err != nil || spec.Install != nil {
		return err
	}
	return p.fileError(object, p.media(spec.ID).Clear()) // the domain has no use for it any more
}

// define defines the domain, in place of the one it may have been before.
func (p *Provider) define(ctx context.Context, spec providers.MachineSpec, text string) error {
	object := machineObject(spec.ID)
	err := libvirtconn.Do(ctx, p.conn.Lifecycle(), object, libvirtconn.Slow, func(l *libvirt.Libvirt) error {
		_, err := l.DomainDefineXMLFlags(text, 0)
		return err
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	if taken := p.nameIsFree(ctx, spec.ID, identity.DomainName(spec.Namespace, spec.Name, spec.ID)); taken != nil {
		return taken
	}
	return err
}

// nameIsFree is ErrAlreadyExists when another machine was seen to have a name.
func (p *Provider) nameIsFree(ctx context.Context, id types.UID, name string) error {
	object := machineObject(id)
	other, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), object, libvirtconn.Quick, func(l *libvirt.Libvirt) (libvirt.Domain, error) {
		return l.DomainLookupByName(name)
	})
	if err == nil && uuid.UUID(other.UUID).String() != string(id) {
		return providers.Errorf(providers.ErrAlreadyExists, object, "libvirt has another machine named %s: it is left alone", name)
	}
	return nil
}

// roundUp rounds to the sectors that a disk consists of.
func roundUp(size int64) int64 { return (size + 511) &^ 511 }

// ensureNetwork joins the network that the spec wants and leaves the one that
// the machine had before.
func (p *Provider) ensureNetwork(ctx context.Context, spec providers.MachineSpec, was machine) error {
	want, needs := identity.NetworkOf(p.opts.Instance, spec.Namespace, spec.Network)
	if had, ok := identity.NetworkOf(p.opts.Instance, was.record.Namespace, was.record.Network); ok && had != want {
		if err := p.leaveNetwork(ctx, spec.ID, had); err != nil {
			return err
		}
	}
	if !needs {
		return nil
	}
	return p.joinNetwork(ctx, spec.ID, want)
}

// changeForwards changes the port forwards of a machine that is not off, and
// its record.
func (p *Provider) changeForwards(ctx context.Context, spec providers.MachineSpec, was machine) error {
	record := was.record
	want := spec.Network.PortForwards
	if record.Network.Mode != v1.NetworkNAT {
		want = nil // the machine is on another network until it is off
	}
	forwards, err := p.fwd.Reserve(string(spec.ID), want, record.Network.PortForwards)
	if err != nil {
		return err
	}
	record.Network.PortForwards = forwards
	record.Hashes.Forwards = spec.Hashes().Forwards
	if err := p.setRecord(ctx, spec.ID, record, was.power); err != nil {
		return err
	}
	p.aimForwards(ctx, spec.ID, record)
	return nil
}

// setRecord changes a machine's record, in what is defined and in what runs.
func (p *Provider) setRecord(ctx context.Context, id types.UID, record domain.Record, power providers.Power) error {
	text, err := record.Element(true)
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, machineObject(id), "%w", err)
	}
	flags := libvirt.DomainAffectConfig
	if power != providers.PowerOff && power != providers.PowerSaved {
		flags |= libvirt.DomainAffectLive
	}
	return libvirtconn.Do(ctx, p.conn.Lifecycle(), machineObject(id), libvirtconn.Slow, func(l *libvirt.Libvirt) error {
		return l.DomainSetMetadata(libvirtDomain(id), int32(libvirt.DomainMetadataElement),
			libvirt.OptString{text}, libvirt.OptString{domain.Prefix}, libvirt.OptString{domain.Namespace}, flags)
	})
}

// libvirtDomain refers to a domain by its UUID, which is how libvirt finds it.
func libvirtDomain(id types.UID) libvirt.Domain {
	u, _ := uuid.Parse(string(id)) // checked where it came in
	return libvirt.Domain{Name: string(id), UUID: libvirt.UUID(u), ID: -1}
}
