// Package keylock serializes work on things that have names.
//
//	Lock(name) ──▶ one holder │ Share(name) ──▶ many holders
//
// A name takes memory only while somebody holds it or waits for it.
package keylock

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Set is the locks of all names. Its methods may be called from many
// goroutines; use New to make one.
type Set struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	users int
	sem   *semaphore.Weighted
}

const exclusive = 1 << 30

// New makes a Set in which nothing is locked.
func New() *Set { return &Set{held: map[string]*lock{}} }

// Lock waits for the exclusive use of a name, or until the context ends.
func (l *Set) Lock(ctx context.Context, name string) (unlock func(), err error) {
	return l.acquire(ctx, name, exclusive)
}

// Share waits for the use of a name together with others.
func (l *Set) Share(ctx context.Context, name string) (unlock func(), err error) {
	return l.acquire(ctx, name, 1)
}

// TryLock takes a name for exclusive use, if nobody has it.
func (l *Set) TryLock(name string) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] != nil {
		return nil, false
	}
	k := &lock{sem: semaphore.NewWeighted(exclusive), users: 1}
	_ = k.sem.TryAcquire(exclusive)
	l.held[name] = k
	return func() {
		k.sem.Release(exclusive)
		l.leave(name, k)
	}, true
}

// TryShare takes a name for use together with others, if nobody has it for exclusive
// use or waits for that.
func (l *Set) TryShare(name string) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[name]
	if k == nil {
		k = &lock{sem: semaphore.NewWeighted(exclusive)}
	}
	if !k.sem.TryAcquire(1) {
		return nil, false
	}
	l.held[name] = k
	k.users++
	return func() {
		k.sem.Release(1)
		l.leave(name, k)
	}, true
}

func (l *Set) acquire(ctx context.Context, name string, weight int64) (func(), error) {
	l.mu.Lock()
	k := l.held[name]
	if k == nil {
		k = &lock{sem: semaphore.NewWeighted(exclusive)}
		l.held[name] = k
	}
	k.users++
	l.mu.Unlock()

	if err := k.sem.Acquire(ctx, weight); err != nil {
		l.leave(name, k)
		return nil, err
	}
	return func() {
		k.sem.Release(weight)
		l.leave(name, k)
	}, nil
}

func (l *Set) leave(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
	}
}
