package kvm

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// locks serializes work on things by name, for as long as somebody wants them.
// Holders are either many readers or one writer.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	users int
	sem   *semaphore.Weighted
}

const exclusive = 1 << 30

func newLocks() *locks { return &locks{held: map[string]*lock{}} }

// lock waits for the exclusive use of a name, or until the context ends.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	return l.acquire(ctx, name, exclusive)
}

// share waits for the use of a name together with others.
func (l *locks) share(ctx context.Context, name string) (unlock func(), err error) {
	return l.acquire(ctx, name, 1)
}

func (l *locks) acquire(ctx context.Context, name string, weight int64) (func(), error) {
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

func (l *locks) leave(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
	}
}
