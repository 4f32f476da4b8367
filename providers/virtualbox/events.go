package virtualbox

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// VirtualBox tells nobody what happens unless it is asked. One listing for all
// machines is made every so often, and compared with the last:
//
//	awaited guests      every second, with their run levels
//	machines are on     every 2 seconds
//	machines are there  every 10 seconds
//	none is             never
//
// and never more often than a tenth of the time goes into it. What this process
// does itself is reported at once.
const (
	lookAwaited = time.Second
	lookOn      = 2 * time.Second
	lookOff     = 10 * time.Second
	lookShare   = 10
)

// awaitFor is how long a guest's agent is waited for with the short pause.
const awaitFor = 10 * time.Minute

// watcher knows what was last seen of the machines.
type watcher struct {
	mu sync.Mutex
	// awaited are running machines whose agent was not seen yet, since when.
	awaited map[types.UID]time.Time
	// up are machines whose agent was seen since they last changed; those of them
	// that nobody was told of yet are news.
	up   map[types.UID]bool
	news []types.UID
	// poked are machines that this process has changed.
	poked map[types.UID]bool
	// kept are looks at machines that were just started, for whoever asks next.
	kept map[types.UID]keptLook
	wake chan struct{}
}

// keptLook is what was seen of a machine, and when.
type keptLook struct {
	machine machine
	at      time.Time
}

func newWatcher() *watcher {
	return &watcher{
		awaited: map[types.UID]time.Time{}, up: map[types.UID]bool{}, poked: map[types.UID]bool{},
		kept: map[types.UID]keptLook{}, wake: make(chan struct{}, 1),
	}
}

// poke notes that this process has changed a machine.
func (w *watcher) poke(id types.UID) {
	w.mu.Lock()
	w.poked[id] = true
	delete(w.awaited, id)
	delete(w.up, id)
	w.mu.Unlock()
	w.hurry()
}

// hurry makes the next look come at once.
func (w *watcher) hurry() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// seen notes that a running machine's agent was seen.
func (w *watcher) seen(ids ...types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.awaited, id)
		if !w.up[id] {
			delete(w.kept, id)
			w.up[id] = true
			w.news = append(w.news, id)
			w.hurry()
		}
	}
}

// keep notes a look at a machine that was just started. It serves once, and for
// no longer than there is between two listings of awaited machines.
func (w *watcher) keep(m machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept[m.id] = keptLook{m, time.Now()}
}

// take returns the look that was kept of a machine, if it still holds.
func (w *watcher) take(id types.UID) (machine, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.kept[id]
	delete(w.kept, id)
	return k.machine, ok && time.Since(k.at) < lookAwaited
}

// drop forgets the looks that were kept of machines.
func (w *watcher) drop(ids ...types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.kept, id)
	}
}

// takeNews returns the machines whose agent came up since the last time.
func (w *watcher) takeNews() []types.UID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.news
	w.news = nil
	return ids
}

// takePoked returns the machines that were changed since the last time.
func (w *watcher) takePoked() []types.UID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := slices.Collect(maps.Keys(w.poked))
	clear(w.poked)
	return ids
}

// await notes machines that are on and whose agent was not seen yet, and forgets
// those that are off.
func (w *watcher) await(on map[types.UID]bool, fresh []types.UID, now time.Time) (waiting bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range fresh {
		if on[id] && !w.up[id] {
			w.awaited[id] = now
		}
	}
	maps.DeleteFunc(w.up, func(id types.UID, _ bool) bool { return !on[id] })
	for id, since := range w.awaited {
		if !on[id] || now.Sub(since) > awaitFor {
			delete(w.awaited, id)
		}
	}
	return len(w.awaited) > 0
}

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

// view is what one listing shows of our machines.
type view struct {
	there, on map[types.UID]bool
}

// follow compares listings until the context ends.
func (p *Provider) follow(ctx context.Context, send func(providers.EventType, types.UID)) {
	var last *view
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
		for _, id := range p.watch.takeNews() {
			send(providers.EventGuest, id)
		}
		poked := p.watch.takePoked()
		begun := time.Now()
		now, err := p.viewOf(ctx)
		// Not before: of a machine that was started and died before it was listed no
		// difference will tell.
		for _, id := range poked {
			send(providers.EventMachine, id)
		}
		wait := lookOff
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failed {
				p.log.Info("VirtualBox does not answer", "error", err.Error())
			}
			failed, wait = true, lookOn
		default:
			if failed {
				send(providers.EventResync, "")
			}
			failed = false
			changed := differences(last, now)
			p.watch.drop(changed...)
			for _, id := range changed {
				if !now.on[id] {
					p.guest.forget(id)
				}
				if !slices.Contains(poked, id) {
					send(providers.EventMachine, id)
				}
			}
			if p.watch.await(now.on, slices.Concat(changed, poked), begun) {
				p.watch.seen(p.connected(ctx, now.on)...)
				wait = lookAwaited
			} else if len(now.on) > 0 {
				wait = lookOn
			}
			p.trimConsoles(now.on)
			last = &now
		}
		if !next.Stop() {
			select {
			case <-next.C:
			default:
			}
		}
		next.Reset(max(wait, lookShare*time.Since(begun)))
	}
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

// connected lists those of our machines that are on whose Guest Additions are up.
// Others' machines are in the listing too; they are nobody's news.
func (p *Provider) connected(ctx context.Context, on map[types.UID]bool) []types.UID {
	out, err := p.vbox.Run(ctx, vboxmanage.Call{Object: "VirtualBox", Args: []string{"list", "--long", "runningvms"}})
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			p.log.V(1).Info("guests cannot be looked at", "error", err.Error())
		}
		return nil
	}
	return slices.DeleteFunc(parseConnected(string(out.Stdout)), func(id types.UID) bool { return !on[id] })
}

// parseConnected reads the run levels out of a long listing, in which a machine's
// UUID comes before what its guest has a say in.
func parseConnected(s string) []types.UID {
	var connected []types.UID
	var id types.UID
	for line := range strings.Lines(s) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "UUID":
			if datafolder.IsUUID(types.UID(value)) {
				id = types.UID(value)
			}
		case "Additions run level":
			if id != "" && (value == "2" || value == "3") {
				connected = append(connected, id)
				id = ""
			}
		}
	}
	return connected
}
