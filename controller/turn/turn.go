// Package turn lets one reconciler at a time work on a machine.
//
//	sandbox reconciler ──Try──▶ ┌─────────┐
//	                            │ machine │ ──▶ release ──▶ whoever comes next
//	work on a snapshot ──Take─▶ └─────────┘
//
// Providers put calls on one machine in a row themselves. That is not enough for
// who decides by what a machine looks like: while its state is kept it may stand
// still or be off for moments, and a reconciler that looked then would take it for
// one that crashed.
package turn

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Turns are the machines that somebody works on. They are safe for concurrent
// use.
type Turns struct {
	mu   sync.Mutex
	held map[types.UID]chan struct{} // closed at the release
}

// New makes Turns that nobody has.
func New() *Turns { return &Turns{held: make(map[types.UID]chan struct{})} }

// Try takes the turn on a machine if nobody has it. The caller calls release,
// once, when it is done.
func (t *Turns) Try(id types.UID) (release func(), ok bool) {
	release, _ = t.try(id)
	return release, release != nil
}

// Take waits for the turn on a machine, and returns the context's error when that
// ends before.
func (t *Turns) Take(ctx context.Context, id types.UID) (release func(), err error) {
	for {
		release, released := t.try(id)
		if release != nil {
			return release, nil
		}
		select {
		case <-released:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// try returns either the way to end the turn that was taken, or what is closed
// when the turn of somebody else ends.
func (t *Turns) try(id types.UID) (release func(), released <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other, ok := t.held[id]; ok {
		return nil, other
	}
	mine := make(chan struct{})
	t.held[id] = mine
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.held, id)
		close(mine)
	}, nil
}
