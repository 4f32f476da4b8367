package fake

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// The methods below play what happens on a host besides sandboxd. Those that
// name a machine fail when there is none, or when it is in no state for it.

// on runs f on a machine under the lock.
func (w *World) on(id types.UID, f func(m *machine) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.machines[id]
	if !ok {
		return fmt.Errorf("machine %s: no such machine in the simulated world", id)
	}
	return f(m)
}

// powered runs f on a machine that is in one of the given states.
func (w *World) powered(id types.UID, f func(m *machine), states ...providers.Power) error {
	return w.on(id, func(m *machine) error {
		if !slices.Contains(states, m.power) {
			return fmt.Errorf("machine %s: it is %s, not one of %v", id, m.power, states)
		}
		f(m)
		return nil
	})
}

// LoseHypervisor makes every call fail as unavailable. Machines go on.
func (w *World) LoseHypervisor() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.ids() {
		w.disconnect(w.machines[id])
	}
	w.down = true
}

// RestoreHypervisor ends LoseHypervisor and tells every provider to look at
// everything again.
func (w *World) RestoreHypervisor() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.down {
		return
	}
	w.down = false
	for _, id := range w.ids() {
		if m := w.machines[id]; m.power == providers.PowerRunning && m.booted {
			w.connect(m)
		}
	}
	for s := range w.subs {
		s.add(providers.Event{Type: providers.EventResync})
	}
}

// RebootHost turns every machine off that is on; saved ones stay so.
func (w *World) RebootHost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.ids() {
		if m := w.machines[id]; m.power != providers.PowerSaved {
			w.powerOff(m, providers.OffUnknown)
		}
	}
}

// ids needs the lock.
func (w *World) ids() []types.UID { return slices.Sorted(maps.Keys(w.machines)) }

// Crash ends a machine that is on, as when its process dies.
func (w *World) Crash(id types.UID) error {
	return w.powered(id, func(m *machine) { w.powerOff(m, providers.OffCrashed) },
		providers.PowerRunning, providers.PowerPaused, providers.PowerStopping)
}

// ShutDownGuest makes a running guest power off by itself.
func (w *World) ShutDownGuest(id types.UID) error {
	return w.powered(id, w.shutDown, providers.PowerRunning)
}

// Destroy forces a machine off, by hand.
func (w *World) Destroy(id types.UID) error {
	return w.powered(id, func(m *machine) { w.powerOff(m, providers.OffDestroyed) },
		providers.PowerRunning, providers.PowerPaused, providers.PowerStopping, providers.PowerSaved)
}

// Pause halts the CPUs of a running machine, by hand.
func (w *World) Pause(id types.UID) error {
	return w.powered(id, func(m *machine) { w.freeze(m, providers.PowerPaused) }, providers.PowerRunning)
}

// Starve takes away the space for what a running guest writes: it is halted, as
// often as it is started, until Feed.
func (w *World) Starve(id types.UID) error {
	return w.powered(id, func(m *machine) {
		m.starved = true
		w.starve(m)
	}, providers.PowerRunning)
}

// Feed ends Starve. The machine stays halted until it is started.
func (w *World) Feed(id types.UID) error {
	return w.on(id, func(m *machine) error {
		m.starved = false
		return nil
	})
}

// Undefine removes a machine from the hypervisor, whatever it does, and leaves
// its disk and its other files.
func (w *World) Undefine(id types.UID) error {
	return w.on(id, func(m *machine) error {
		w.remove(m)
		return nil
	})
}

// SetNetworkFault changes a machine's network on the host behind our back, so
// that it is not seen to be isolated; an empty fault mends it.
func (w *World) SetNetworkFault(id types.UID, fault string) error {
	return w.on(id, func(m *machine) error {
		m.fault = fault
		w.emit(providers.Instance(m.tag), providers.EventMachine, id)
		return nil
	})
}

// SetAgentHung makes the agent of a guest that is on stop or go on answering.
func (w *World) SetAgentHung(id types.UID, hung bool) error {
	return w.on(id, func(m *machine) error {
		m.hung = hung
		if hung {
			w.disconnect(m)
		} else if m.link == nil && m.power == providers.PowerRunning && m.booted {
			w.connect(m)
		}
		return nil
	})
}

// SetIgnoresShutdown makes a guest ignore requests to shut down, or obey them
// again.
func (w *World) SetIgnoresShutdown(id types.UID, ignores bool) error {
	return w.on(id, func(m *machine) error {
		m.deaf = ignores
		return nil
	})
}

// OccupyPort makes another program of the host listen on a TCP port of
// 127.0.0.1 that was free, and returns it.
func (w *World) OccupyPort() (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ports.occupy()
}

// ReleasePort ends OccupyPort.
func (w *World) ReleasePort(port int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports.vacate(port)
}

// AddForeign places a machine that is not ours. tag is what others marked it
// with, such as another instance or nothing.
func (w *World) AddForeign(id types.UID, tag string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.machines[id]; ok {
		return fmt.Errorf("machine %s: it exists already", id)
	}
	w.machines[id] = &machine{id: id, tag: tag, power: providers.PowerOff, offReason: providers.OffNeverStarted}
	return nil
}

// RemoveForeign takes away a machine that AddForeign has placed.
func (w *World) RemoveForeign(id types.UID) error {
	return w.on(id, func(m *machine) error {
		delete(w.machines, id)
		return nil
	})
}
