package fake

import (
	"cmp"
	"fmt"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// on tells whether a machine has a process.
func (m *machine) on() bool {
	return m.power != providers.PowerOff && m.power != providers.PowerSaved
}

// defined is the spec that a machine's connections are to be as: what runs, or what
// is saved, is connected as it was started.
func (m *machine) defined() providers.MachineSpec {
	if m.power == providers.PowerOff {
		return m.spec
	}
	return m.runningSpec
}

// drift is what others changed of a machine; it needs the lock.
func (w *World) drift(m *machine, pt *parts) (all []providers.Drift) {
	found := func(reason string, r providers.Remedy, detail string, args ...any) {
		all = append(all, providers.Drift{Reason: reason, Remedy: r, Detail: fmt.Sprintf(detail, args...)})
	}
	// The definition of what runs takes effect at the next start, which comes after
	// it was put back.
	whenOff := providers.RemedyEnsure
	if m.power != providers.PowerOff {
		whenOff = providers.RemedyOff
	}
	e := m.edits
	switch {
	case m.moved != "":
		found(v1.ReasonNetworkChanged, providers.RemedyPowerOff, "its network card is connected to %q, which is not its network", m.moved)
	case e.card != "":
		found(v1.ReasonNetworkChanged, whenOff, "its network card is defined to be connected to %q, which is not its network", e.card)
	}
	if !w.connected(m) {
		found(v1.ReasonNetworkChanged, providers.RemedyEnsure, "the network that it is to be connected to is gone")
	}
	if e.disk != "" {
		found(v1.ReasonDiskChanged, whenOff, "its disk is defined to be %q, which is not its own", e.disk)
	}
	if e.memory != 0 {
		found(v1.ReasonDefinitionChanged, whenOff, "its memory is %d MiB, and was made as %d MiB", e.memory>>20, m.spec.MemoryBytes>>20)
	}
	if e.cpus != 0 {
		found(v1.ReasonDefinitionChanged, whenOff, "it has %d CPUs, and was made with %d", e.cpus, m.spec.CPUs)
	}
	if e.device != "" {
		found(v1.ReasonDefinitionChanged, whenOff, "it has a device %q that it was not made with", e.device)
	}
	if e.name != "" {
		found(v1.ReasonDefinitionChanged, providers.RemedyEnsure, "its name is %q, and was made as %q", e.name, m.spec.Namespace+"/"+m.spec.Name)
	}
	return append(all, w.damage(m, pt)...)
}

// damage is the drift that only people can mend; it needs the lock.
func (w *World) damage(m *machine, pt *parts) (all []providers.Drift) {
	if pt != nil && pt.lost != nil {
		d := providers.Drift{
			Reason: v1.ReasonDiskLost, Remedy: providers.RemedyNone, Detail: "the file of its disk is gone",
			Advice: fmt.Sprintf("put the file back, or have a fresh disk made with sandboxd revert %s golden -n %s, or delete the sandbox", m.spec.Name, m.spec.Namespace),
		}
		if m.on() {
			d.Detail += "; what the guest has written is lost once it is off"
			d.Advice = "copy out what is needed while it runs; then " + d.Advice
		}
		all = append(all, d)
	}
	if n := m.edits.snapshots; n > 0 {
		all = append(all, providers.Drift{
			Reason: v1.ReasonForeignSnapshots, Remedy: providers.RemedyNone,
			Detail: fmt.Sprintf("it has snapshots that were taken by hand: %d", n),
			Advice: "delete them on the hypervisor, or delete the sandbox",
		})
	}
	return all
}

// undamaged is an error while a machine has drift that only people can mend; it
// needs the lock.
func (p *Provider) undamaged(m *machine) error {
	all := p.w.damage(m, p.folder().parts[m.id])
	if len(all) == 0 {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, machineObject(m.id), "%s: %s", all[0].Detail, all[0].Advice).
		WithReason(all[0].Reason)
}

// mendOn puts right what can be while a machine is on; it needs the lock.
func (p *Provider) mendOn(s providers.MachineSpec) error {
	m := p.own(s.ID)
	if m == nil {
		return errNoMachine(s.ID)
	}
	if m.edits.name != "" {
		m.edits.name = ""
		p.w.emit(p.instance, providers.EventMachine, m.id)
	}
	if p.w.connected(m) {
		return nil
	}
	p.w.emit(p.instance, providers.EventMachine, m.id)
	return p.joinNetwork(m.runningSpec)
}

// mended puts back what was defined by hand; it needs the lock.
func (m *machine) mended() (changed bool) {
	own := edits{snapshots: m.edits.snapshots}
	changed = m.edits != own
	m.edits = own
	return changed
}

// edited is the spec with which a machine starts: what others defined counts.
func (m *machine) edited() providers.MachineSpec {
	s := m.spec
	if m.edits.memory != 0 {
		s.MemoryBytes = m.edits.memory
	}
	if m.edits.cpus != 0 {
		s.CPUs = m.edits.cpus
	}
	return s
}

// made is the disk that a machine was made with, also when it was lost.
func (p *parts) made() *disk {
	if p == nil {
		return nil
	}
	return cmp.Or(p.disk, p.lost)
}
