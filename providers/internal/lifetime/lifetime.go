// Package lifetime is the end of something that has goroutines of its own.
//
//	New ──▶ Go, Go … ──▶ End: Context ends, nothing new begins ──▶ Wait: all that was begun has ended
package lifetime

import (
	"context"
	"sync"
)

// Lifetime is used by as many goroutines as like.
type Lifetime struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex     // held while it ends and while work is added
	work sync.WaitGroup // nothing is added once it has ended
}

// New begins a Lifetime.
func New() *Lifetime {
	l := &Lifetime{}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Context ends with the Lifetime.
func (l *Lifetime) Context() context.Context { return l.ctx }

// Over tells whether it has ended.
func (l *Lifetime) Over() bool { return l.ctx.Err() != nil }

// Go calls f in a goroutine that Wait waits for, unless the Lifetime has ended.
func (l *Lifetime) Go(f func()) (begun bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Over() {
		return false
	}
	l.work.Go(f)
	return true
}

// End may be repeated.
func (l *Lifetime) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel()
}

// Wait waits for all that Go began, after End.
func (l *Lifetime) Wait() { l.work.Wait() }
