package virtualbox

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// awaitFor is how long a guest's agent is waited for with the short pause.
const awaitFor = 10 * time.Minute

// keepFor is how long a look serves that was kept.
const keepFor = time.Second

// watcher knows what was last seen of the machines.
type watcher struct {
	mu sync.Mutex
	// awaited are running machines whose agent was not seen yet.
	awaited map[types.UID]*awaited
	// up are machines whose agent was seen since they last changed; those of them
	// that nobody was told of yet are news.
	up   map[types.UID]bool
	news []types.UID
	// poked are machines that this process has changed.
	poked map[types.UID]bool
	// kept are looks at machines that were just made, for whoever asks next.
	kept map[types.UID]keptLook
	// waits end when their machines are changed.
	waits map[types.UID]context.CancelFunc
	wake  chan struct{}
}

// awaited is a running machine whose agent was not seen yet.
type awaited struct {
	id             types.UID
	since, looked  time.Time
	spoke, looking bool
}

// keptLook is what was seen of a machine, and when.
type keptLook struct {
	machine machine
	at      time.Time
}

func newWatcher() *watcher {
	return &watcher{
		awaited: map[types.UID]*awaited{}, up: map[types.UID]bool{}, poked: map[types.UID]bool{},
		kept: map[types.UID]keptLook{}, waits: map[types.UID]context.CancelFunc{}, wake: make(chan struct{}, 1),
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

// drop forgets the looks that were kept of machines, and ends the waits for them.
func (w *watcher) drop(ids ...types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.kept, id)
		if end, waits := w.waits[id]; waits {
			end()
		}
	}
}

// ends makes a wait for a machine's guest end when the machine is changed.
func (w *watcher) ends(id types.UID, wait context.CancelFunc) (over func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits[id] = wait
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waits, id)
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

// await notes machines that are on and whose agent was not seen yet, not even by
// who has last looked at them, and forgets those that are off.
func (w *watcher) await(on map[types.UID]bool, fresh []types.UID, now, looked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range fresh {
		if on[id] && !w.up[id] {
			w.awaited[id] = &awaited{id: id, since: now, looked: looked}
		}
	}
	maps.DeleteFunc(w.up, func(id types.UID, _ bool) bool { return !on[id] })
	maps.DeleteFunc(w.awaited, func(id types.UID, a *awaited) bool { return !on[id] || now.Sub(a.since) > awaitFor })
}

// due returns the awaited machines that somebody has to look at now, which is
// noted: those that spoke, and each every lookOff.
func (w *watcher) due(now time.Time, spoke map[types.UID]bool) []*awaited {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*awaited
	for id, a := range w.awaited {
		a.spoke = a.spoke || spoke[id]
		since := now.Sub(a.looked)
		if a.looking || since < lookOff && (!a.spoke || since < lookLogs) {
			continue
		}
		a.looking, a.looked, a.spoke = true, now, false
		list = append(list, a)
	}
	return list
}

// looked notes the end of a look that was due, which found the agent up or not. It
// tells whether that is news: a machine that changed since is for another to look at.
func (w *watcher) looked(a *awaited, m machine, up bool) bool {
	w.mu.Lock()
	a.looking = false
	up = up && w.awaited[a.id] == a
	w.mu.Unlock()
	if up {
		w.seen(a.id)
		w.keep(m)
	}
	return up
}

// tell makes something of a guest news.
func (w *watcher) tell(id types.UID) {
	w.mu.Lock()
	w.news = append(w.news, id)
	w.mu.Unlock()
	w.hurry()
}
