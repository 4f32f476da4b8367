package virtualbox

import (
	"context"
	"errors"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/hostport"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

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
	defer p.watch.poke(id)
	p.watch.change(id)
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	return do(m)
}

// Start implements providers.Machines.
func (p *Provider) Start(ctx context.Context, id types.UID) error {
	return p.again(ctx, id, func() error { return p.start(ctx, id) })
}

func (p *Provider) start(ctx context.Context, id types.UID) error {
	return p.withMachine(ctx, id, func(m machine) error {
		switch m.power {
		case providers.PowerOff:
			return p.startOff(ctx, m)
		case providers.PowerStopping:
			return providers.Errorf(providers.ErrBusy, machineObject(id), "the guest is shutting down: start it once it is off")
		}
		m, err := p.finishForwards(ctx, m)
		switch {
		case err != nil:
			return err
		case m.power == providers.PowerRunning: // started by a call that was cut off, or by somebody
			if m, err = p.mend(ctx, m); err != nil {
				return err
			}
			return p.judge(ctx, m)
		case m.power == providers.PowerPaused:
			return p.resume(ctx, m)
		}
		return p.startSaved(ctx, m)
	})
}

// startOff starts a machine that is off, and once more if VBoxSVC forgot on the way what
// keeps it isolated: nothing of its guest is lost by that.
func (p *Provider) startOff(ctx context.Context, m machine) error {
	reverted := m.record.Reverted
	for n := 1; ; n++ {
		err := p.powerOn(ctx, m)
		if err == nil || ctx.Err() != nil {
			return err
		}
		var lookErr error
		if m, lookErr = p.look(ctx, m.id); lookErr != nil || m.power != providers.PowerOff {
			return err
		}
		if m, lookErr = p.stillReverted(m, reverted); lookErr != nil {
			return lookErr
		}
		if n > deaths || !errors.As(err, new(forgotten)) {
			return err
		}
	}
}

// startSaved lets a saved machine go on. What it was put back to may be its memory, and
// then its disk, if it is powered off because it cannot go on.
func (p *Provider) startSaved(ctx context.Context, m machine) error {
	reverted := m.record.Reverted
	err := p.powerOn(ctx, m)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if now, lookErr := p.look(ctx, m.id); lookErr == nil && !now.on() {
		if _, writeErr := p.stillReverted(now, reverted); writeErr != nil {
			return writeErr
		}
	}
	return err
}

// stillReverted notes of a machine that was reverted and did not come to run that it is so
// still.
func (p *Provider) stillReverted(m machine, was bool) (machine, error) {
	if !was || m.record.Reverted {
		return m, nil
	}
	m.record.Reverted = true
	return m, p.writeRecord(m.record)
}

// powerOn starts a machine that is off or saved, if VirtualBox shows it isolated.
// The record says that it is being started until it was seen to run as it should:
// whoever finds it running after a crash confirms it first.
func (p *Provider) powerOn(ctx context.Context, m machine) error {
	object := machineObject(m.id)
	if !m.whole() {
		return providers.Errorf(providers.ErrBusy, object, "it is not configured to its end: ensure the machine again")
	}
	if (m.record.Image != providers.ImageRef{}) {
		if _, err := p.readSealed(m.record.Image); err != nil {
			return err
		}
	}
	r := m.record
	if disks := disksOf(m.info); len(disks) > 0 {
		r.Disk = disks[0].path // somebody may have put it back to a snapshot of their own
	}
	if m.power == providers.PowerOff && r.DiscardOnStop && !r.Reverted {
		if err := p.refresh(ctx, &r, m); err != nil {
			return err
		}
	} else if err := p.startable(m); err != nil {
		return err
	}
	if err := p.joinNetwork(ctx, r); err != nil {
		return err
	}
	m, err := p.closeLoopback(ctx, m)
	if err != nil {
		return err
	}
	if m, err = p.mend(ctx, m); err != nil {
		return err
	}
	if m, err = p.toLog(ctx, m); err != nil {
		return err
	}
	// What is put right once it runs is no reason not to go on with a saved machine.
	later := func(f flaw) bool { return m.power == providers.PowerSaved && f.live != nil }
	if isolated, detail := p.isolatedBut(m, later); !isolated {
		return notIsolated(m.id, "it was not started", detail)
	}
	if err := checkOpenable(m.id, r.Network.PortForwards); err != nil {
		return err
	}
	for _, f := range r.SharedFolders {
		if err := checkFolder(object, f); err != nil {
			return err
		}
	}
	r.Fresh, r.Reverted, r.Forced, r.Starting = false, false, false, true
	if err := p.writeRecord(r); err != nil {
		return err
	}
	if err := keepConsole(p.data.console(m.id)); err != nil {
		return p.fileError(object, err)
	}
	if _, err := p.manage(ctx, m.id, vboxmanage.Slow, "startvm", string(m.id), "--type", "headless"); err != nil {
		return p.notStarted(ctx, m.id, err)
	}
	return p.confirm(ctx, m.id)
}

func notIsolated(id types.UID, what, detail string) error {
	return providers.Errorf(providers.ErrUnavailable, machineObject(id), "%s, because it is not isolated as defined: %s", what, detail).WithReason(v1.ReasonNotObserved)
}

// notStarted forgives a start that somebody else's has come before.
func (p *Provider) notStarted(ctx context.Context, id types.UID, err error) error {
	if ctx.Err() == nil && errors.Is(err, providers.ErrBusy) {
		if m, lookErr := p.look(ctx, id); lookErr == nil && m.power == providers.PowerRunning {
			return p.confirm(ctx, id)
		}
	}
	return err
}

// confirm looks at a machine that was just started: VBoxManage's word for it is
// not enough.
func (p *Provider) confirm(ctx context.Context, id types.UID) error {
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	if !m.on() {
		return providers.Errorf(providers.ErrUnavailable, machineObject(id), "it was started and is %s again: VBoxHeadless ended; its log is %s", m.power, p.logOf(m.record))
	}
	if m, err = p.mend(ctx, m); err != nil {
		return p.refuse(ctx, m, err)
	}
	return p.judge(ctx, m)
}

// judge powers a machine off that is on and must not be, and notes that any other
// one is what it should be.
func (p *Provider) judge(ctx context.Context, m machine) error {
	if seen := p.observeNetwork(m); !seen.Isolated {
		why := notIsolated(m.id, "it was powered off", seen.Detail)
		if m.opensLoopback() {
			why = forgotten{why}
		}
		return p.refuse(ctx, m, why)
	}
	if f, lost := p.lostForward(m); lost {
		return p.refuse(ctx, m, hostport.Error(machineObject(m.id), f, errPortLost))
	}
	if m.record.Starting {
		m.record.Starting = false
		if err := p.writeRecord(m.record); err != nil {
			return err
		}
	}
	p.watch.keep(m)
	providers.Logger(ctx, p.log).V(1).Info("machine runs", "machine", m.id, "network", string(m.record.Network.Mode))
	return nil
}

// refuse powers a machine off that must not run, and returns why.
func (p *Provider) refuse(ctx context.Context, m machine, why error) error {
	if err := p.powerOff(context.WithoutCancel(ctx), m); err != nil {
		return err
	}
	return why
}

// resume lets a paused machine go on, if it is isolated.
func (p *Provider) resume(ctx context.Context, m machine) error {
	m, err := p.mend(ctx, m)
	if err != nil {
		return err
	}
	if seen := p.observeNetwork(m); !seen.Isolated {
		return p.refuse(ctx, m, notIsolated(m.id, "it was powered off", seen.Detail))
	}
	switch m.info["VMState"] {
	case "paused":
	case "gurumeditation":
		return p.refuse(ctx, m, providers.Errorf(providers.ErrUnavailable, machineObject(m.id), "its processor had come to a dead end (guru meditation), so it was powered off: start it again"))
	default:
		return providers.Errorf(providers.ErrBusy, machineObject(m.id), "it is %s: start it once that has ended", m.info["VMState"])
	}
	if _, err := p.manage(ctx, m.id, 0, "controlvm", string(m.id), "resume"); err != nil {
		return err
	}
	return p.confirm(ctx, m.id)
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
		_, err := p.manage(ctx, id, 0, "controlvm", string(id), "acpipowerbutton")
		if err != nil && ctx.Err() == nil {
			if now, lookErr := p.look(ctx, id); lookErr == nil && !now.on() {
				return nil
			}
		}
		return err
	})
}

// offPause is between looks at a machine that is going off.
const offPause = 50 * time.Millisecond

// powerOff takes the power away and discards a saved state. It notes before that
// it is us who did it.
func (p *Provider) powerOff(ctx context.Context, m machine) error {
	if m.power == providers.PowerOff {
		return nil
	}
	r := m.record
	if !r.Forced || r.Starting {
		r.Forced, r.Starting = true, false
		if err := p.writeRecord(r); err != nil {
			return err
		}
	}
	args := []string{"controlvm", string(m.id), "poweroff"}
	if m.power == providers.PowerSaved {
		args = []string{"discardstate", string(m.id)}
	}
	_, err := p.manage(ctx, m.id, vboxmanage.Slow, args...)
	if err != nil && ctx.Err() != nil {
		return err
	}
	// Whatever it said: what counts is whether the machine is off.
	for n := 0; ; n++ {
		now, lookErr := p.look(ctx, m.id)
		switch {
		case lookErr != nil:
			return lookErr
		case now.power == providers.PowerOff:
			p.guest.forget(m.id)
			return nil
		case err != nil && n == 0 && now.on():
			// Its process does not obey: end it.
			_, err = p.manage(ctx, m.id, vboxmanage.Slow, "startvm", string(m.id), "--type", "emergencystop")
		case n == 20:
			if err == nil {
				err = providers.Errorf(providers.ErrUnavailable, machineObject(m.id), "it was powered off and is still %s", now.power)
			}
			return err
		}
		if err := pause(ctx, offPause<<min(n, 4)); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
		_, err := p.manage(ctx, id, vboxmanage.Slow, "controlvm", string(id), "savestate")
		if ctx.Err() != nil {
			return err
		}
		// Whatever it said: what counts is what came of it.
		now, lookErr := p.look(ctx, id)
		switch {
		case lookErr != nil:
			return lookErr
		case now.power == providers.PowerSaved:
			p.guest.forget(id)
			return nil
		case err == nil:
			err = providers.Errorf(providers.ErrUnavailable, machineObject(id), "VirtualBox saved it and it is %s", now.power)
		}
		return err
	})
}

func formatBytes(n int64) string { return strconv.FormatInt(n, 10) }
