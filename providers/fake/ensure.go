package fake

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// EnsureMachine implements providers.Machines.
func (p *Provider) EnsureMachine(ctx context.Context, s providers.MachineSpec) error {
	return p.do(ctx, "EnsureMachine", string(s.ID), s.ID, func(v *verb) error {
		if err := validate(s); err != nil {
			return err
		}
		if err := p.validateInstall(s); err != nil {
			return err
		}
		var on bool
		err := p.look(ctx, func() (err error) {
			on, err = p.claim(s)
			return err
		})
		if err != nil {
			return err
		}
		if on {
			return v.steps(
				namedStep{"mend", func() error { return p.mendOn(s) }},
				namedStep{"forwards", func() error { return p.changeForwards(s) }},
			)
		}
		return v.steps(
			namedStep{"disk", func() error { return p.makeDisk(s) }},
			namedStep{"seed", func() error { p.folder().partsOf(s.ID).seed = true; return nil }},
			namedStep{"network", func() error { return p.joinNetwork(s) }},
			namedStep{"define", func() error { return p.define(s) }},
			namedStep{"leave", func() error { p.leaveNetworks(s.ID, networkName(p.instance, s)); return nil }},
		)
	})
}

// folder of the provider's instance; it needs the lock.
func (p *Provider) folder() *folder { return p.w.folder(p.instance) }

// claim tells whether the machine is there and not off. It changes nothing.
func (p *Provider) claim(s providers.MachineSpec) (on bool, err error) {
	if m := p.w.machines[s.ID]; m != nil && m.tag != string(p.instance) {
		return false, providers.Errorf(providers.ErrAlreadyExists, machineObject(s.ID),
			"a machine of that ID exists that is not ours: remove it or make the sandbox anew")
	}
	if s.Network.Mode == v1.NetworkBridged && !slices.Contains(p.w.bridges, s.Network.Bridge) {
		return false, providers.Errorf(providers.ErrInvalid, machineObject(s.ID),
			"the host has no bridge or network interface %q", s.Network.Bridge)
	}
	m := p.own(s.ID)
	if m == nil {
		return false, nil
	}
	return m.power != providers.PowerOff, p.undamaged(m)
}

// makeDisk clones the image, or grows the disk that exists.
func (p *Provider) makeDisk(s providers.MachineSpec) error {
	if pt := p.folder().parts[s.ID]; pt != nil && pt.disk != nil {
		pt.disk.Grow(s.DiskBytes)
		return nil
	}
	p.folder().partsOf(s.ID).lost = nil // of a machine that is gone as well
	if s.Install != nil {
		p.folder().partsOf(s.ID).disk = &disk{Disk: guest.NewDisk(s.DiskBytes)}
		return nil
	}
	size, err := p.golden(s)
	if err != nil {
		return err
	}
	if s.DiskBytes > 0 {
		if s.DiskBytes < size {
			return providers.Errorf(providers.ErrInvalid, machineObject(s.ID),
				"a disk of %d bytes is smaller than its image, which has %d", s.DiskBytes, size)
		}
		size = s.DiskBytes
	}
	p.folder().partsOf(s.ID).disk = p.folder().golden(s.Image, s.Snapshot, size)
	return nil
}

// golden is the size of what a machine is to be cloned from; it needs the lock.
func (p *Provider) golden(s providers.MachineSpec) (int64, error) {
	img, ok := p.folder().images[s.Image]
	if !ok {
		return 0, providers.Errorf(providers.ErrNotFound, machineObject(s.ID),
			"image %s is not there to be cloned", s.Image)
	}
	if s.Snapshot == nil {
		return img.info.VirtualSize, nil
	}
	from := p.folder().snapshot(*s.Snapshot)
	switch {
	case from == nil:
		return 0, providers.Errorf(providers.ErrNotFound, machineObject(s.ID),
			"%s is not there to be forked", snapshotObject(*s.Snapshot))
	case from.info.Image != s.Image:
		return 0, providers.Errorf(providers.ErrInvalid, machineObject(s.ID),
			"%s lies on image %s, not on %s", snapshotObject(*s.Snapshot), from.info.Image, s.Image)
	}
	return from.disk.Size(), nil
}

// define makes the machine, or changes one that is off.
func (p *Provider) define(s providers.MachineSpec) error {
	m := p.own(s.ID)
	var had []v1.PortForward
	if m != nil {
		had = m.forwards
	}
	forwards, err := p.w.ports.resolve(s.ID, s.Network.PortForwards, had)
	if err != nil {
		return err
	}
	if m == nil {
		m = &machine{
			id: s.ID, tag: string(p.instance),
			power: providers.PowerOff, offReason: providers.OffNeverStarted,
		}
		p.w.machines[s.ID] = m
		// A state that was saved belongs to a machine that is gone.
		p.folder().dropPart(s.ID, providers.ResourceState)
	}
	pt := p.folder().partsOf(s.ID)
	if pt.log == nil {
		pt.log = newConsole()
	}
	hashes := s.Hashes()
	if changed := m.mended(); !changed && m.spec.ID != "" && m.hashes == hashes {
		return nil
	}
	m.spec, m.hashes, m.forwards = s, hashes, forwards
	p.w.emit(p.instance, providers.EventMachine, s.ID)
	return nil
}

// changeForwards changes the forwards of a machine that is on.
func (p *Provider) changeForwards(s providers.MachineSpec) error {
	m := p.own(s.ID)
	if m == nil {
		return errNoMachine(s.ID)
	}
	if len(s.Network.PortForwards) > 0 && m.runningSpec.Network.Mode != v1.NetworkNAT {
		return nil // they come with the network, at the next start
	}
	hashes := s.Hashes()
	if m.runningHashes.Forwards == hashes.Forwards && m.hashes.Forwards == hashes.Forwards {
		return nil
	}
	forwards, err := p.w.ports.resolve(s.ID, s.Network.PortForwards, m.forwards)
	if err != nil {
		return err
	}
	m.forwards = forwards
	m.hashes.Forwards, m.runningHashes.Forwards = hashes.Forwards, hashes.Forwards
	m.spec.Network.PortForwards = s.Network.PortForwards
	m.runningSpec.Network.PortForwards = s.Network.PortForwards
	return nil
}

// DeleteMachine implements providers.Machines.
func (p *Provider) DeleteMachine(ctx context.Context, id types.UID) error {
	return p.do(ctx, "DeleteMachine", string(id), id, func(v *verb) error {
		return p.deleteMachine(v, id)
	})
}

func (p *Provider) deleteMachine(v *verb, id types.UID) error {
	err := p.look(v.ctx, func() error {
		if p.own(id) == nil && p.folder().parts[id] == nil && !p.connected(id) {
			return errNoMachine(id)
		}
		return p.unforked(id)
	})
	if err != nil {
		return err
	}
	drop := func(kinds ...providers.ResourceKind) func() error {
		return func() error {
			for _, k := range kinds {
				p.folder().dropPart(id, k)
			}
			return nil
		}
	}
	return v.steps(
		namedStep{"power off", func() error {
			if m := p.own(id); m != nil {
				p.w.powerOff(m, providers.OffDestroyed)
			}
			return nil
		}},
		namedStep{"undefine", func() error {
			if m := p.own(id); m != nil {
				p.w.remove(m)
			}
			return nil
		}},
		namedStep{"disk", drop(providers.ResourceDisk)},
		namedStep{"snapshots", func() error {
			if err := p.unforked(id); err != nil {
				return err
			}
			if pt := p.folder().parts[id]; pt != nil {
				clear(pt.snapshots)
				clear(pt.staged)
				p.folder().tidy(id)
			}
			return nil
		}},
		namedStep{"rest", drop(providers.ResourceSeed, providers.ResourceState, providers.ResourceLog)},
		namedStep{"network", func() error { p.leaveNetworks(id, ""); return nil }},
	)
}

// unforked is an error while machines are forked from one's snapshots; it needs
// the lock.
func (p *Provider) unforked(id types.UID) error {
	forks := p.folder().forks(func(of providers.SnapshotRef) bool { return of.Machine == id })
	if len(forks) == 0 {
		return nil
	}
	return providers.Errorf(providers.ErrBusy, machineObject(id),
		"%d machines were forked from its snapshots: delete them first", len(forks))
}

// connected tells whether a network holds a lease for the machine.
func (p *Provider) connected(id types.UID) bool {
	for _, n := range p.w.networks {
		if _, ok := n.leases[id]; ok && n.instance == p.instance {
			return true
		}
	}
	return false
}
