package fake

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// snapshot is a state of a machine that was kept. It never changes.
type snapshot struct {
	info   providers.Snapshot
	disk   *disk
	memory *memory // nil when it was not asked for
}

// memory is what of a snapshot lies in a machine's memory, and what the machine
// was made of that wrote it.
type memory struct {
	*guest.Memory
	spec   providers.MachineSpec
	hashes providers.Hashes
	booted bool
}

// fits tells whether a machine that is made by other hashes can go on from it.
func (m *memory) fits(h providers.Hashes) bool {
	return m != nil && m.hashes.Hardware == h.Hardware && m.hashes.Network == h.Network
}

func errNoSnapshot(r providers.SnapshotRef) error {
	return providers.Errorf(providers.ErrNotFound, snapshotObject(r), "no such snapshot")
}

// snapshotObject names a snapshot in an error.
func snapshotObject(r providers.SnapshotRef) string {
	if isUUID(r.ID) && isUUID(r.Machine) {
		return "snapshot " + string(r.ID) + " of machine " + string(r.Machine)
	}
	return fmt.Sprintf("snapshot %q of machine %q", string(r.ID), string(r.Machine))
}

// snapshot returns a snapshot or nil; it needs the lock.
func (f *folder) snapshot(r providers.SnapshotRef) *snapshot {
	if pt := f.parts[r.Machine]; pt != nil {
		return pt.snapshots[r.ID]
	}
	return nil
}

// forks lists the machines whose disk began as a snapshot; it needs the lock.
func (f *folder) forks(of func(providers.SnapshotRef) bool) (ids []types.UID) {
	for id, pt := range f.parts {
		if pt.disk != nil && pt.disk.from != nil && of(*pt.disk.from) {
			ids = append(ids, id)
		}
	}
	return ids
}

// TakeSnapshot implements providers.Snapshots. A machine whose memory is kept
// stands still meanwhile: cut off, it is left Paused.
func (p *Provider) TakeSnapshot(ctx context.Context, s providers.SnapshotSpec) (got providers.Snapshot, err error) {
	err = p.onMachine(ctx, "TakeSnapshot", s.Machine, func(m *machine) ([]namedStep, error) {
		if had := p.folder().snapshot(s.SnapshotRef); had != nil {
			got = had.info
			if had.info.Memory != s.Memory {
				return nil, providers.Errorf(providers.ErrInvalid, snapshotObject(s.SnapshotRef),
					"it was taken with memory: %t, and cannot become one with memory: %t", had.info.Memory, s.Memory)
			}
			return nil, nil
		}
		if err := p.canTake(m, s); err != nil {
			return nil, err
		}
		return p.take(m, s, &got), nil
	})
	if err != nil {
		return providers.Snapshot{}, err
	}
	return got, nil
}

// canTake needs the lock.
func (p *Provider) canTake(m *machine, s providers.SnapshotSpec) error {
	pt := p.folder().parts[m.id]
	switch {
	case !isUUID(s.ID):
		return providers.Errorf(providers.ErrInvalid, snapshotObject(s.SnapshotRef),
			"its ID is not a UUID in lower-case hexadecimal")
	case p.undamaged(m) != nil:
		return p.undamaged(m)
	case pt == nil || pt.disk == nil:
		return providers.Errorf(providers.ErrNotFound, machineObject(m.id),
			"its disk is gone: ensure the machine again")
	case m.power == providers.PowerStopping:
		return providers.Errorf(providers.ErrBusy, machineObject(m.id),
			"the guest is shutting down: take the snapshot once it is off")
	case s.Memory && m.power == providers.PowerOff:
		return providers.Errorf(providers.ErrBusy, machineObject(m.id),
			"it is off and has no memory to keep: start it, or take the snapshot without memory")
	case s.Memory && m.system.Mounted():
		return providers.Errorf(providers.ErrUnsupported, machineObject(m.id),
			"it has shared folders mounted, whose state cannot be kept: unmount them, or take the snapshot without memory")
	}
	return nil
}

// take lists the steps that keep the state of a machine. What is kept is staged
// until the machine goes on.
func (p *Provider) take(m *machine, s providers.SnapshotSpec, got *providers.Snapshot) []namedStep {
	halts := s.Memory && m.power == providers.PowerRunning
	frozen := m.power == providers.PowerOff || m.link != nil
	power := m.power
	if halts {
		power = providers.PowerPaused
	}
	var kept *snapshot
	copied := namedStep{"copy", p.still(m, power, func() error {
		kept = p.copyState(m, s)
		kept.info.Frozen = frozen
		p.folder().partsOf(m.id).staged[s.ID] = true
		return nil
	})}
	record := namedStep{"record", func() error {
		if p.own(m.id) != m {
			return errNoMachine(m.id)
		}
		pt := p.folder().partsOf(m.id)
		delete(pt.staged, s.ID)
		pt.snapshots[s.ID] = kept
		*got = kept.info
		return nil
	}}
	if !halts {
		return []namedStep{copied, record}
	}
	halt := namedStep{"halt", p.still(m, providers.PowerRunning, func() error {
		p.w.freeze(m, providers.PowerPaused)
		return nil
	})}
	resume := namedStep{"resume", p.still(m, providers.PowerPaused, func() error {
		p.w.resume(m)
		return nil
	})}
	return []namedStep{halt, copied, resume, record}
}

// copyState needs the lock.
func (p *Provider) copyState(m *machine, s providers.SnapshotSpec) *snapshot {
	pt := p.folder().partsOf(m.id)
	kept := &snapshot{
		disk: pt.disk.clone(),
		info: providers.Snapshot{
			SnapshotRef: s.SnapshotRef, Image: pt.disk.image, Memory: s.Memory, TakenAt: p.w.clock.Now(),
		},
	}
	kept.info.Size = kept.disk.Used()
	if s.Memory {
		kept.memory = &memory{m.system.Memory(), m.runningSpec, m.runningHashes, m.booted}
		kept.info.Size += kept.memory.Size()
	}
	return kept
}

// GetSnapshot implements providers.Snapshots.
func (p *Provider) GetSnapshot(ctx context.Context, r providers.SnapshotRef) (got providers.Snapshot, err error) {
	err = p.look(ctx, func() error {
		s := p.folder().snapshot(r)
		if s == nil {
			return errNoSnapshot(r)
		}
		got = s.info
		return nil
	})
	return got, err
}

// RevertMachine implements providers.Snapshots.
func (p *Provider) RevertMachine(ctx context.Context, r providers.SnapshotRef) error {
	return p.onMachine(ctx, "RevertMachine", r.Machine, func(m *machine) ([]namedStep, error) {
		s := p.folder().snapshot(r)
		if s == nil {
			return nil, errNoSnapshot(r)
		}
		return []namedStep{
			{"power off", func() error {
				if p.own(m.id) != m {
					return errNoMachine(m.id)
				}
				p.w.powerOff(m, providers.OffDestroyed)
				return nil
			}},
			{"disk", p.still(m, providers.PowerOff, func() error {
				pt := p.folder().partsOf(m.id)
				pt.disk, pt.lost, pt.reverted = s.disk.clone(), nil, true
				pt.disk.Grow(m.spec.DiskBytes)
				return nil
			})},
			{"memory", p.still(m, providers.PowerOff, func() error {
				if s.memory.fits(m.hashes) {
					p.w.restore(m, s.memory)
				}
				return nil
			})},
		}, nil
	})
}

// restore makes a machine that is off Saved, with the memory of a snapshot; it
// needs the lock.
func (w *World) restore(m *machine, from *memory) {
	pt := w.folder(providers.Instance(m.tag)).partsOf(m.id)
	if pt.log == nil {
		pt.log = newConsole()
	}
	m.runningSpec, m.runningHashes = from.spec, from.hashes
	m.runningSpec.Network.PortForwards, m.runningHashes.Forwards = m.spec.Network.PortForwards, m.hashes.Forwards
	var system *guest.System
	system = guest.Resume(pt.disk.Disk, from.Memory, w.config(m, pt.log, func() *guest.System { return system }))
	m.system, m.booted, m.hung = system, from.booted, false
	pt.saved = true
	w.setPower(m, providers.PowerSaved)
}

// DeleteSnapshot implements providers.Snapshots. Forks have a disk of their own
// here; that they keep the snapshot is what real hypervisors need.
func (p *Provider) DeleteSnapshot(ctx context.Context, r providers.SnapshotRef) error {
	return p.do(ctx, "DeleteSnapshot", string(r.Machine), r.Machine, func(v *verb) error {
		return v.step("remove", func() error { return p.removeSnapshot(r) })
	})
}

// removeSnapshot needs the lock.
func (p *Provider) removeSnapshot(r providers.SnapshotRef) error {
	pt := p.folder().parts[r.Machine]
	if pt == nil || pt.snapshots[r.ID] == nil && !pt.staged[r.ID] {
		return errNoSnapshot(r)
	}
	forks := p.folder().forks(func(of providers.SnapshotRef) bool { return of == r })
	if len(forks) > 0 {
		return providers.Errorf(providers.ErrBusy, snapshotObject(r),
			"%d machines were forked from it: delete them first", len(forks))
	}
	delete(pt.snapshots, r.ID)
	delete(pt.staged, r.ID)
	p.folder().tidy(r.Machine)
	return nil
}
