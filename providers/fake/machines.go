package fake

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// GetMachine implements providers.Machines.
func (p *Provider) GetMachine(ctx context.Context, id types.UID) (got providers.Machine, err error) {
	err = p.look(ctx, func() error {
		m := p.own(id)
		if m == nil {
			return errNoMachine(id)
		}
		got = p.w.describe(m, p.folder().parts[id])
		return nil
	})
	return got, err
}

// describe needs the lock.
func (w *World) describe(m *machine, pt *parts) providers.Machine {
	d := providers.Machine{
		ID: m.id, Power: m.power, Hashes: m.hashes, Agent: providers.AgentDisconnected,
		Network: w.observe(m), PortForwards: slices.Clone(m.forwards), Accelerator: accelerator,
		Drift: w.drift(m, pt),
	}
	if made := pt.made(); made != nil {
		d.ImageRevision = made.image.Revision
	}
	if m.power == providers.PowerPaused {
		d.Paused = m.paused
	}
	if m.power == providers.PowerOff {
		d.OffReason = m.offReason
	} else {
		d.Hashes = m.runningHashes
	}
	switch {
	case m.link != nil:
		d.Agent = providers.AgentConnected
	case m.power == providers.PowerRunning && m.hung:
		d.Agent = providers.AgentUnknown
	}
	if a, ok := w.lease(m); ok && m.power == providers.PowerRunning && m.booted {
		d.Addresses = []v1.GuestAddress{{IP: a.String(), Source: v1.AddressFromLease}}
	}
	return d
}

// onMachine runs a call on a machine in steps. f decides, under the lock, which
// ones; they are made in order.
func (p *Provider) onMachine(ctx context.Context, name string, id types.UID,
	f func(m *machine) ([]namedStep, error),
) error {
	return p.do(ctx, name, string(id), id, func(v *verb) error {
		var steps []namedStep
		err := p.look(ctx, func() (err error) {
			m := p.own(id)
			if m == nil {
				return errNoMachine(id)
			}
			steps, err = f(m)
			return err
		})
		if err != nil {
			return err
		}
		return v.steps(steps...)
	})
}

// still guards a step against what happened to its machine since the last one.
func (p *Provider) still(m *machine, want providers.Power, f func() error) func() error {
	return func() error {
		if p.own(m.id) != m {
			return errNoMachine(m.id)
		}
		if m.power != want {
			return providers.Errorf(providers.ErrBusy, machineObject(m.id),
				"it is %s all of a sudden: somebody else is at work on it", m.power)
		}
		return f()
	}
}

// Start implements providers.Machines.
func (p *Provider) Start(ctx context.Context, id types.UID) error {
	return p.onMachine(ctx, "Start", id, func(m *machine) ([]namedStep, error) {
		begin := namedStep{"create", p.still(m, providers.PowerOff, func() error { return p.begin(m) })}
		restore := namedStep{"restore", p.still(m, providers.PowerSaved, func() error {
			p.w.setPower(m, providers.PowerPaused)
			return nil
		})}
		observe := namedStep{"observe", p.still(m, providers.PowerPaused, func() error {
			return p.requireIsolation(m)
		})}
		resume := namedStep{"resume", p.still(m, providers.PowerPaused, func() error {
			p.w.resume(m)
			return nil
		})}
		switch m.power {
		case providers.PowerOff:
			return []namedStep{begin, observe, resume}, nil
		case providers.PowerSaved:
			return []namedStep{restore, observe, resume}, nil
		case providers.PowerPaused:
			return []namedStep{observe, resume}, nil
		case providers.PowerStopping:
			return nil, providers.Errorf(providers.ErrBusy, machineObject(id),
				"the guest is shutting down: start it once it is off")
		}
		return nil, nil
	})
}

// begin makes a machine that is off Paused. Its disk and its network may have
// been taken away since it was made.
func (p *Provider) begin(m *machine) error {
	if err := p.undamaged(m); err != nil {
		return err
	}
	if pt := p.folder().parts[m.id]; pt == nil || pt.disk == nil {
		return providers.Errorf(providers.ErrNotFound, machineObject(m.id),
			"its disk is gone: ensure the machine again")
	}
	if err := p.joinNetwork(m.spec); err != nil {
		return err
	}
	p.w.powerOn(m)
	return nil
}

func (p *Provider) requireIsolation(m *machine) error {
	o := p.w.observe(m)
	if o.Isolated {
		return nil
	}
	p.w.powerOff(m, providers.OffDestroyed)
	return providers.Errorf(providers.ErrUnavailable, machineObject(m.id),
		"it was powered off before it ran, because its network is not as defined: %s", o.Detail).
		WithReason(v1.ReasonNotObserved)
}

// Stop implements providers.Machines.
func (p *Provider) Stop(ctx context.Context, id types.UID, mode providers.StopMode) error {
	return p.onMachine(ctx, "Stop", id, func(m *machine) ([]namedStep, error) {
		if m.power == providers.PowerOff {
			return nil, nil
		}
		if mode == providers.StopForce {
			return []namedStep{{"power off", func() error {
				if p.own(id) == m {
					p.w.powerOff(m, providers.OffDestroyed)
				}
				return nil
			}}}, nil
		}
		switch m.power {
		case providers.PowerPaused, providers.PowerSaved:
			return nil, providers.Errorf(providers.ErrBusy, machineObject(id),
				"it is %s: no guest runs that could be asked to shut down", m.power)
		case providers.PowerStopping:
			return nil, nil
		}
		return []namedStep{{"ask", p.still(m, providers.PowerRunning, func() error {
			if !m.deaf {
				p.w.shutDown(m)
			}
			return nil
		})}}, nil
	})
}

// shutDown lets the guest shut down; it needs the lock.
func (w *World) shutDown(m *machine) {
	w.disconnect(m)
	w.setPower(m, providers.PowerStopping)
	w.after(m, w.latency.Shutdown, func() { w.powerOff(m, providers.OffShutdown) })
}

// Suspend implements providers.Machines.
func (p *Provider) Suspend(ctx context.Context, id types.UID) error {
	return p.onMachine(ctx, "Suspend", id, func(m *machine) ([]namedStep, error) {
		switch m.power {
		case providers.PowerSaved:
			return nil, nil
		case providers.PowerOff, providers.PowerStopping:
			return nil, providers.Errorf(providers.ErrBusy, machineObject(id),
				"it is %s: only a machine that is on can be suspended", m.power)
		}
		if m.system.Mounted() {
			return nil, providers.Errorf(providers.ErrUnsupported, machineObject(id),
				"it has shared folders mounted, whose state cannot be saved: unmount them or stop it")
		}
		halt := namedStep{"halt", p.still(m, providers.PowerRunning, func() error {
			p.w.freeze(m, providers.PowerPaused)
			return nil
		})}
		save := namedStep{"save", p.still(m, providers.PowerPaused, func() error {
			p.folder().partsOf(id).saved = true
			p.w.setPower(m, providers.PowerSaved)
			return nil
		})}
		if m.power == providers.PowerPaused {
			return []namedStep{save}, nil
		}
		return []namedStep{halt, save}, nil
	})
}

// Reset implements providers.Machines.
func (p *Provider) Reset(ctx context.Context, id types.UID) error {
	return p.onMachine(ctx, "Reset", id, func(m *machine) ([]namedStep, error) {
		if m.power != providers.PowerOff {
			return nil, providers.Errorf(providers.ErrBusy, machineObject(id),
				"it is %s: its disk can be replaced while it is off only", m.power)
		}
		return []namedStep{{"disk", p.still(m, providers.PowerOff, func() error {
			pt := p.folder().parts[id]
			had := pt.made()
			if had == nil {
				return providers.Errorf(providers.ErrNotFound, machineObject(id),
					"its disk is gone: ensure the machine again")
			}
			pt.reverted = false
			if m.spec.Install != nil {
				pt.disk, pt.lost = &disk{Disk: guest.NewDisk(had.Size())}, nil
				return nil
			}
			pt.disk, pt.lost = p.folder().golden(had.image, had.from, had.Size()), nil
			return nil
		})}}, nil
	})
}
