package virtualbox

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// awaitFor is how long it is looked whether a guest's agent is up, unless
	// somebody asks for the machine.
	awaitFor = 10 * time.Minute
	// keepFor is how long a look serves that was kept.
	keepFor = time.Second
	// maxLooks at awaited machines are made at a time.
	maxLooks = 2
)

// watcher knows what was last seen of the machines.
type watcher struct {
	mu sync.Mutex
	// awaited are running machines whose agent was not seen yet.
	awaited map[types.UID]*awaited
	// up are machines whose agent was seen since they last changed; news is what
	// nobody was told yet of these.
	up   map[types.UID]bool
	news []news
	// poked are machines that this process has changed.
	poked map[types.UID]bool
	// kept are looks that were just made, for whoever asks next.
	kept map[types.UID]keptLook
	// waits for guests end when their machines are changed.
	waits map[types.UID]*wait
	wake  chan struct{}
}

// awaited is a running machine whose agent was not seen yet.
type awaited struct {
	id            types.UID
	since, looked time.Time
	// pause until it is looked at for no reason.
	pause          time.Duration
	spoke, looking bool
}

// news of a guest: its agent came up, or else it told an address.
type news struct {
	machine machine
	up      bool
}

// wait for something of a guest.
type wait struct{ end context.CancelFunc }

// keptLook is what was seen of a machine, and when.
type keptLook struct {
	machine machine
	at      time.Time
}

func newWatcher() *watcher {
	return &watcher{
		awaited: map[types.UID]*awaited{}, up: map[types.UID]bool{}, poked: map[types.UID]bool{},
		kept: map[types.UID]keptLook{}, waits: map[types.UID]*wait{}, wake: make(chan struct{}, 1),
	}
}

// change notes that this process is going to change a machine: what is seen of it
// from now on may be old when it is used. A poke ends that.
func (w *watcher) change(id types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.kept, id)
	delete(w.awaited, id)
	w.endWait(id)
}

// poke notes that this process has changed a machine.
func (w *watcher) poke(id types.UID) {
	w.mu.Lock()
	w.poked[id] = true
	delete(w.awaited, id)
	delete(w.up, id)
	w.endWait(id)
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
func (w *watcher) seen(m machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteUp(m)
}

// noteUp is seen for those who hold the lock.
func (w *watcher) noteUp(m machine) {
	delete(w.awaited, m.id)
	if !w.up[m.id] {
		delete(w.kept, m.id)
		w.up[m.id] = true
		w.news = append(w.news, news{m, true})
		w.hurry()
	}
}

// keep notes a look at a machine that was just started. It serves once, and for
// no longer than keepFor.
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
	return k.machine, ok && time.Since(k.at) < keepFor
}

// drop forgets the looks that were kept of machines which somebody has changed,
// and ends the waits for those that are off.
func (w *watcher) drop(ids []types.UID, on map[types.UID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.kept, id)
		if !on[id] {
			w.endWait(id)
		}
	}
}

// ends makes a wait for a machine's guest end when the machine is changed, or
// another such wait begins.
func (w *watcher) ends(id types.UID, end context.CancelFunc) (over func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endWait(id)
	this := &wait{end}
	w.waits[id] = this
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.waits[id] == this {
			delete(w.waits, id)
		}
	}
}

// endWait ends a wait; the lock is held.
func (w *watcher) endWait(id types.UID) {
	if wait, waits := w.waits[id]; waits {
		wait.end()
		delete(w.waits, id)
	}
}

// tell makes it news that a guest told an address.
func (w *watcher) tell(m machine) {
	w.mu.Lock()
	w.news = append(w.news, news{m, false})
	w.mu.Unlock()
	w.hurry()
}

// takeNews returns what there is to tell of guests since the last time.
func (w *watcher) takeNews() []news {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.news
	w.news = nil
	return list
}

// takePoked returns the machines that were changed since the last time.
func (w *watcher) takePoked() []types.UID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := slices.Collect(maps.Keys(w.poked))
	clear(w.poked)
	return ids
}

// await notes machines that are on and whose agent was not seen yet, and when
// somebody has last looked at them, and forgets those that are off.
func (w *watcher) await(on map[types.UID]bool, fresh []types.UID, now, looked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range fresh {
		if on[id] && !w.up[id] {
			w.awaited[id] = &awaited{id: id, since: now, looked: looked, pause: lookOff}
		}
	}
	maps.DeleteFunc(w.up, func(id types.UID, _ bool) bool { return !on[id] })
	maps.DeleteFunc(w.awaited, func(id types.UID, a *awaited) bool { return !on[id] || now.Sub(a.since) > awaitFor })
}

// due returns the awaited machines that somebody has to look at now, which is
// noted: those that spoke, and each after lookOff, twice that, and so on.
func (w *watcher) due(now time.Time, spoke map[types.UID]bool) []*awaited {
	w.mu.Lock()
	defer w.mu.Unlock()
	looks := 0
	for id, a := range w.awaited {
		a.spoke = a.spoke || spoke[id]
		if a.looking {
			looks++
		}
	}
	var list []*awaited
	for _, a := range w.awaited { // in no order, so that each has its turn
		since := now.Sub(a.looked)
		if looks == maxLooks || a.looking || since < a.pause && (!a.spoke || since < lookLogs) {
			continue
		}
		if !a.spoke && !a.looked.IsZero() {
			a.pause *= 2
		}
		a.looking, a.looked, a.spoke = true, now, false
		list = append(list, a)
		looks++
	}
	return list
}

// looked notes the end of a look that was due, which found the agent up or not.
// What a machine was before it was changed is no news.
func (w *watcher) looked(a *awaited, m machine, up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a.looking = false
	if up && w.awaited[a.id] == a {
		w.noteUp(m)
		w.kept[m.id] = keptLook{m, time.Now()}
	}
}
