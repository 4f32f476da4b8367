package fake

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// The methods below change machines by hand, as people do with virsh or VBoxManage.

// edits are what others changed of a machine's definition. The zero value is none.
type edits struct {
	memory int64
	cpus   int
	name   string
	device string
	// disk is a file that is defined in place of the machine's own.
	disk string
	// card is where the network card is defined to lead, in place of its network.
	card string
	// snapshots that were taken by hand.
	snapshots int
}

// edit changes the definition of a machine.
func (w *World) edit(id types.UID, f func(*edits)) error {
	return w.on(id, func(m *machine) error {
		f(&m.edits)
		w.emit(providers.Instance(m.tag), providers.EventMachine, id)
		return nil
	})
}

// EditMemory defines other memory, in bytes, for the next start.
func (w *World) EditMemory(id types.UID, bytes int64) error {
	return w.edit(id, func(e *edits) { e.memory = bytes })
}

// EditCPUs defines another number of CPUs for the next start.
func (w *World) EditCPUs(id types.UID, cpus int) error {
	return w.edit(id, func(e *edits) { e.cpus = cpus })
}

// Rename gives a machine another name.
func (w *World) Rename(id types.UID, name string) error {
	return w.edit(id, func(e *edits) { e.name = name })
}

// AddDevice defines a further device.
func (w *World) AddDevice(id types.UID, device string) error {
	return w.edit(id, func(e *edits) { e.device = device })
}

// SwapDisk defines another file in place of a machine's disk, for the next start.
func (w *World) SwapDisk(id types.UID, path string) error {
	return w.edit(id, func(e *edits) { e.disk = path })
}

// MoveCard connects a machine's network card elsewhere, at once if it is on.
func (w *World) MoveCard(id types.UID, to string) error {
	return w.edit(id, func(e *edits) {
		e.card = to
		if m := w.machines[id]; m.on() {
			m.moved = to
		}
	})
}

// RemoveNetworkOf removes the network that a machine is connected to, for all that
// are.
func (w *World) RemoveNetworkOf(id types.UID) error {
	return w.on(id, func(m *machine) error {
		name := networkName(providers.Instance(m.tag), m.defined())
		n, ok := w.networks[name]
		if !ok {
			return fmt.Errorf("machine %s: it has no network that can be removed", id)
		}
		delete(w.networks, name)
		for other := range n.leases {
			w.emit(n.instance, providers.EventMachine, other)
		}
		return nil
	})
}

// TakeSnapshotByHand takes a snapshot that is not ours. Nobody is told.
func (w *World) TakeSnapshotByHand(id types.UID) error {
	return w.on(id, func(m *machine) error {
		m.edits.snapshots++
		return nil
	})
}

// DeleteSnapshotsByHand deletes those of TakeSnapshotByHand. Nobody is told.
func (w *World) DeleteSnapshotsByHand(id types.UID) error {
	return w.on(id, func(m *machine) error {
		m.edits.snapshots = 0
		return nil
	})
}

// RemoveDiskFile removes the file of a machine's disk, also when the machine itself
// was removed. Nobody is told. A machine that is on has it open, and runs on.
func (w *World) RemoveDiskFile(id types.UID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.folders {
		if pt := f.parts[id]; pt != nil && pt.disk != nil {
			pt.disk, pt.lost = nil, pt.disk
			if w.machines[id] == nil {
				pt.lost = nil
				f.tidy(id)
			}
			return nil
		}
	}
	return fmt.Errorf("machine %s: it has no disk in the simulated world", id)
}

// RestoreDiskFile puts back what RemoveDiskFile has removed. Nobody is told.
func (w *World) RestoreDiskFile(id types.UID) error {
	return w.on(id, func(m *machine) error {
		pt := w.folder(providers.Instance(m.tag)).partsOf(id)
		if pt.lost == nil {
			return fmt.Errorf("machine %s: its disk was not removed", id)
		}
		pt.disk, pt.lost = pt.lost, nil
		return nil
	})
}

// StartByHand lets a machine run that is off, paused or saved. Its network is as it
// is.
func (w *World) StartByHand(id types.UID) error {
	return w.powered(id, func(m *machine) {
		if m.power == providers.PowerOff {
			w.powerOn(m)
		}
		w.resume(m)
	}, providers.PowerOff, providers.PowerPaused, providers.PowerSaved)
}
