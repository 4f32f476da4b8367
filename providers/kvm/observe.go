//go:build linux

package kvm

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// errForeign: libvirt has a domain of that UUID, and it is not ours.
var errForeign = errors.New("made by somebody else")

// machine is what libvirt says of a machine.
type machine struct {
	id     types.UID
	power  providers.Power
	off    providers.OffReason
	record domain.Record
	live   domain.Live
	// managed: libvirt keeps the saved state; otherwise it is in the machine's
	// folder.
	managed bool
	// defined is what the next start of a machine that is on is made from; nil
	// when that is not ours, and where it was not asked for (see lookWhole).
	defined *domain.Outline
	// undefined: there is no next start, because somebody removed its definition.
	undefined bool
	// paused says why a paused machine is, where that is known.
	paused providers.PauseReason
}

// on tells whether the machine's process exists.
func (m machine) on() bool {
	return m.power == providers.PowerRunning || m.power == providers.PowerPaused || m.power == providers.PowerStopping
}

// look asks libvirt about a machine. A domain that is not ours is errForeign,
// which is also ErrNotFound.
func (p *Provider) look(ctx context.Context, id types.UID) (machine, error) {
	return p.lookAt(ctx, id, false)
}

// lookWhole looks also at what a machine that is on is defined as.
func (p *Provider) lookWhole(ctx context.Context, id types.UID) (machine, error) {
	return p.lookAt(ctx, id, true)
}

func (p *Provider) lookAt(ctx context.Context, id types.UID, whole bool) (machine, error) {
	object := machineObject(id)
	if !datafolder.IsUUID(id) {
		return machine{}, providers.Errorf(providers.ErrNotFound, object, "the ID is not a UUID, so there is no such machine")
	}
	type raw struct {
		xml, defined  string
		state, reason int32
		saved, full   bool
		undefined     bool
	}
	r, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), object, libvirtconn.Quick, func(l *libvirt.Libvirt) (r raw, err error) {
		dom := libvirtDomain(id)
		if r.xml, err = l.DomainGetXMLDesc(dom, 0); err != nil {
			return r, err
		}
		if r.state, r.reason, err = l.DomainGetState(dom, 0); err != nil {
			return r, err
		}
		if libvirt.DomainState(r.state) == libvirt.DomainShutoff {
			var has int32
			has, err = l.DomainHasManagedSaveImage(dom, 0)
			r.saved = has == 1
		} else if whole {
			// Of a domain that is defined no more, libvirt shows what runs as that.
			var persistent int32
			if persistent, err = l.DomainIsPersistent(dom); err != nil {
				return r, err
			}
			if r.undefined = persistent == 0; !r.undefined {
				r.defined, err = l.DomainGetXMLDesc(dom, libvirt.DomainXMLInactive)
			}
		}
		if err == nil && libvirt.DomainPausedReason(r.reason) == libvirt.DomainPausedIoerror && libvirt.DomainState(r.state) == libvirt.DomainPaused {
			r.full = outOfSpace(l, dom)
		}
		return r, err
	})
	if err != nil {
		return machine{}, err
	}
	live, err := domain.Parse(r.xml)
	if err != nil || live.Record.Instance != p.opts.Instance {
		return machine{}, providers.Errorf(providers.ErrNotFound, object, "libvirt's machine of that UUID was %w", errForeign)
	}
	m := machine{id: id, record: live.Record, live: live, managed: r.saved, undefined: r.undefined}
	m.power, m.off = power(libvirt.DomainState(r.state), r.reason, r.saved || p.hasMemory(id))
	if r.full {
		m.paused = providers.PausedNoSpace
	}
	if m.power == providers.PowerOff && m.off == providers.OffUnknown && !p.everStarted(id) {
		m.off = providers.OffNeverStarted
	}
	if defined, err := domain.Parse(r.defined); err == nil && defined.Record.Instance == p.opts.Instance {
		m.defined = &defined.Outline
	}
	return m, nil
}

// everStarted tells whether a machine was ever started: only then does it have
// a console log.
func (p *Provider) everStarted(id types.UID) bool {
	logs, _ := filepath.Glob(p.data.console(id) + "*") // the pattern is well formed
	return len(logs) > 0
}

// power translates libvirt's state of a domain.
func power(state libvirt.DomainState, reason int32, saved bool) (providers.Power, providers.OffReason) {
	switch state {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		return providers.PowerRunning, ""
	case libvirt.DomainPaused:
		if libvirt.DomainPausedReason(reason) == libvirt.DomainPausedShuttingDown {
			return providers.PowerStopping, ""
		}
		return providers.PowerPaused, ""
	case libvirt.DomainPmsuspended:
		return providers.PowerPaused, ""
	case libvirt.DomainShutdown:
		return providers.PowerStopping, ""
	case libvirt.DomainCrashed:
		return providers.PowerOff, providers.OffCrashed
	}
	if saved {
		return providers.PowerSaved, ""
	}
	switch libvirt.DomainShutoffReason(reason) {
	case libvirt.DomainShutoffShutdown:
		return providers.PowerOff, providers.OffShutdown
	case libvirt.DomainShutoffDestroyed, libvirt.DomainShutoffSaved: // a saved state that was discarded
		return providers.PowerOff, providers.OffDestroyed
	case libvirt.DomainShutoffCrashed, libvirt.DomainShutoffFailed, libvirt.DomainShutoffDaemon:
		return providers.PowerOff, providers.OffCrashed
	default:
		return providers.PowerOff, providers.OffUnknown
	}
}

// GetMachine implements providers.Machines.
func (p *Provider) GetMachine(ctx context.Context, id types.UID) (providers.Machine, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Machine{}, err
	}
	m, err := p.lookWhole(ctx, id)
	if err != nil {
		return providers.Machine{}, err
	}
	out := providers.Machine{
		ID: id, Power: m.power, OffReason: m.off, Paused: m.paused, Hashes: m.record.Hashes,
		ImageRevision: m.record.Image.Revision, PortForwards: m.record.Network.PortForwards,
		Accelerator: m.live.Accelerator, Agent: providers.AgentDisconnected, Drift: domain.Drift(p.sightAlone(m)),
	}
	if !p.keepForwards(ctx, m) {
		// What the record says is not in effect: whoever compares hashes will
		// ensure the machine again and is told why that fails.
		out.PortForwards, out.Hashes.Forwards = nil, ""
	}
	if out.Network, err = p.observeNetwork(ctx, m, false); err != nil {
		return providers.Machine{}, err
	}
	if m.on() && !out.Network.Isolated && !slices.ContainsFunc(out.Drift, func(d providers.Drift) bool { return d.Remedy == providers.RemedyPowerOff }) {
		if d, changed := p.networkDrift(ctx, m); changed {
			out.Drift = append(out.Drift, d)
		}
	}
	if d, lost := p.lostNetwork(ctx, m); lost {
		out.Drift = append(out.Drift, d)
	}
	p.dropStale(ctx, m)
	if m.power == providers.PowerRunning {
		g := p.guestState(ctx, m)
		if g.agent == providers.AgentConnected {
			p.thawLater(id)
		}
		out.Agent = g.agent
		out.Addresses = p.addresses(ctx, m, g)
	}
	return out, nil
}

// keepForwards opens the forwards that a machine ought to have, after a restart
// of the daemon. It tells whether they are open.
func (p *Provider) keepForwards(ctx context.Context, m machine) bool {
	want := m.record.Network.PortForwards
	if !p.fwd.Holds(string(m.id), want) {
		unlock, err := p.locks.Lock(ctx, machineObject(m.id))
		if err != nil {
			return false
		}
		defer unlock()
		now, err := p.look(ctx, m.id) // it may have been changed or deleted meanwhile
		if err != nil {
			return false
		}
		if _, err := p.fwd.Reserve(string(m.id), now.record.Network.PortForwards, nil); err != nil {
			providers.Logger(ctx, p.log).Info("port forwards cannot be opened again", "machine", m.id, "error", err.Error())
			return false
		}
	}
	switch {
	case len(want) == 0:
	case m.on():
		p.aimForwards(ctx, m.id, m.record)
	default:
		p.loseForwards(ctx, m.id)
	}
	return true
}

// restorePause is between attempts to reach libvirt after the daemon's start.
const restorePause = time.Second

// restoreForwards opens the forwards of all machines again when the daemon has
// started.
func (p *Provider) restoreForwards() {
	nat, _ := identity.NetworkOf(p.opts.Instance, "", v1.Network{Mode: v1.NetworkNAT})
	owners, err := p.networkOwners()
	if err != nil {
		p.log.Info("port forwards cannot be restored", "error", err.Error())
		return
	}
	for _, id := range owners[nat.UUID()] {
		for {
			m, err := p.look(p.life.Context(), id)
			if err == nil {
				p.keepForwards(p.life.Context(), m)
			}
			if !errors.Is(err, providers.ErrUnavailable) {
				break
			}
			pause := time.NewTimer(restorePause)
			select {
			case <-pause.C:
			case <-p.life.Context().Done():
				pause.Stop()
				return
			}
		}
	}
}

// loseForwards tells the forwards of a machine that is off that there is no
// guest: its address may become another's.
func (p *Provider) loseForwards(ctx context.Context, id types.UID) {
	if !p.fwd.Aimed(string(id)) {
		return
	}
	unlock, err := p.locks.Lock(ctx, machineObject(id))
	if err != nil {
		return
	}
	defer unlock()
	if now, err := p.look(ctx, id); err == nil && !now.on() { // it may have been started meanwhile
		p.fwd.SetTarget(string(id), netip.Addr{})
	}
}

// aimForwards tells the forwards where the guest is.
func (p *Provider) aimForwards(ctx context.Context, id types.UID, record domain.Record) {
	n, ok := identity.NetworkOf(p.opts.Instance, record.Namespace, record.Network)
	if !ok || n.Mode != v1.NetworkNAT || len(record.Network.PortForwards) == 0 {
		return
	}
	if x, err := p.view.networks.get(ctx, n, false); err == nil {
		if a, ok := reservation(x, mac(id).String()); ok {
			p.fwd.SetTarget(string(id), a)
		}
	}
}
