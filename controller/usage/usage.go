// Package usage remembers when sandboxes were last used: a command, a copy, a
// console that is read, a connection through a port forward. A use that is under
// way counts as one of now.
//
//	Begin ──▶ in use ──▶ end ──▶ last used then ──▶ Forget
package usage

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// Tracker knows the uses of this process. It is safe for concurrent use.
type Tracker struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	uses  map[types.UID]*uses
}

type uses struct {
	open int
	last time.Time
}

// New makes a Tracker that knows of no use; a nil clock means the real one.
func New(c clock.PassiveClock) *Tracker {
	if c == nil {
		c = clock.RealClock{}
	}
	return &Tracker{clock: c, uses: map[types.UID]*uses{}}
}

// Begin notes that a sandbox is being used, until end is called, once.
func (t *Tracker) Begin(id types.UID) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.uses[id]
	if u == nil {
		u = &uses{}
		t.uses[id] = u
	}
	u.open++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		u.open--
		u.last = t.clock.Now()
	}
}

// Last is when a sandbox was last used; the zero time when it was not by this
// process.
func (t *Tracker) Last(id types.UID) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch u := t.uses[id]; {
	case u == nil:
		return time.Time{}
	case u.open > 0:
		return t.clock.Now()
	default:
		return u.last
	}
}

// Forget drops what is known of a sandbox that is gone.
func (t *Tracker) Forget(id types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.uses, id)
}
