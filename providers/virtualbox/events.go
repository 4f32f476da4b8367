package virtualbox

import (
	"context"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// VirtualBox tells nobody what happens unless it is asked. One listing for all
// machines is made every so often, and compared with the last:
//
//	machines are on     every 5 seconds
//	machines are there  every 10 seconds
//	none is             never
//
// and never more often than a tenth of the time goes into it. It is made at once
// after this process has changed a machine, and soon after a machine has logged that
// its state changed: their logs are read every second. A listing does not tell whether
// guests are up. One that is awaited is looked at when its machine's log has grown
// after its Guest Additions announced themselves there, and now and then else.
const (
	lookLogs  = time.Second
	lookOn    = 5 * time.Second
	lookOff   = 10 * time.Second
	lookShare = 10
)

// Events implements providers.Provider.
func (p *Provider) Events(ctx context.Context) <-chan providers.Event {
	out := make(chan providers.Event, 64)
	ctx, stop := context.WithCancel(ctx)
	unlink := context.AfterFunc(p.life.Context(), stop)
	send := func(kind providers.EventType, id types.UID) {
		select {
		case out <- providers.Event{Type: kind, ID: id}:
		case <-ctx.Done():
		}
	}
	if !p.life.Go(func() {
		defer close(out)
		defer unlink()
		defer stop()
		p.follow(ctx, send)
	}) {
		unlink()
		stop()
		close(out)
	}
	return out
}

// follow compares listings until the context ends.
func (p *Provider) follow(ctx context.Context, send func(providers.EventType, types.UID)) {
	var last *view
	var due, soonest time.Time // of the next listing
	var poked []types.UID      // since the last listing that worked
	failed := true
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.watch.wake:
		case <-next.C:
		}
		for _, n := range p.watch.takeNews() {
			send(providers.EventGuest, n.machine.id)
			if n.up {
				p.life.Go(func() { p.awaitAddress(ctx, n.machine) })
			}
		}
		begun := time.Now()
		if last != nil {
			turned, spoke := p.logs.read(last.on, p.logPath)
			if turned {
				due = soonest
			}
			for _, a := range p.watch.due(begun, spoke) {
				p.life.Go(func() { p.lookFor(ctx, a) })
			}
		}
		fresh := p.watch.takePoked()
		if poked = append(poked, fresh...); len(fresh) > 0 || !begun.Before(due) {
			now, err := p.viewOf(ctx)
			// Not before: of a machine that was started and died before it was listed no
			// difference will tell.
			for _, id := range fresh {
				send(providers.EventMachine, id)
			}
			pause := lookOff
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				if !failed {
					providers.Logger(ctx, p.log).Info("VirtualBox does not answer", "error", err.Error())
				}
				failed, pause = true, lookLogs
			default:
				if failed {
					send(providers.EventResync, "")
				}
				failed = false
				p.compare(last, now, poked, begun, send)
				poked = nil
				if last = &now; len(now.on) > 0 {
					pause = lookOn
				}
			}
			soonest = begun.Add(lookShare * time.Since(begun))
			if due = begun.Add(pause); due.Before(soonest) {
				due = soonest
			}
		}
		wait := time.Until(due)
		if last != nil && len(last.on) > 0 {
			wait = min(wait, lookLogs)
		}
		next.Reset(wait)
	}
}

// compare sends what has changed between two listings, and is not the doing of this
// process, notes whose guests are awaited, and ends calls into machines that are off. A
// listing of a busy host can be older than what came after it.
func (p *Provider) compare(last *view, now view, poked []types.UID, at time.Time, send func(providers.EventType, types.UID)) {
	var fresh []types.UID
	changed := differences(last, now)
	p.watch.drop(changed, now.on)
	p.guest.listed(now.on, at)
	for _, id := range changed {
		if !slices.Contains(poked, id) {
			fresh = append(fresh, id)
			send(providers.EventMachine, id)
		}
	}
	p.watch.await(now.on, fresh, at, time.Time{})
	p.watch.await(now.on, poked, at, at) // most changes of ours end with a look
	p.trimConsoles(now.on)
	p.settleTyped(now.on)
}

// view is what one listing shows of our machines.
type view struct {
	there, on map[types.UID]bool
}

// viewOf lists our machines. Without any, VirtualBox is left in peace.
func (p *Provider) viewOf(ctx context.Context) (view, error) {
	v := view{there: map[types.UID]bool{}, on: map[types.UID]bool{}}
	ids, err := p.data.machineIDs()
	if err != nil || len(ids) == 0 {
		return v, err
	}
	l, err := p.list(ctx)
	if err != nil {
		return v, err
	}
	for _, id := range ids {
		if l.Registered[string(id)] {
			v.there[id] = true
		}
		if l.On[string(id)] {
			v.on[id] = true
		}
	}
	return v, nil
}

// differences lists the machines that came, went, or changed between on and off.
func differences(last *view, now view) []types.UID {
	if last == nil {
		return slices.Collect(maps.Keys(now.on))
	}
	var ids []types.UID
	for _, pair := range [][2]map[types.UID]bool{{last.there, now.there}, {last.on, now.on}} {
		for _, order := range [][2]map[types.UID]bool{{pair[0], pair[1]}, {pair[1], pair[0]}} {
			for id := range order[0] {
				if !order[1][id] && !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids
}
