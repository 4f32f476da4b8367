package controller

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// The delays between tries of a failing object: half a second, doubling up to
// a minute, each within ±50 % at random, for as long as it fails.
const (
	initialInterval = 500 * time.Millisecond
	maxInterval     = time.Minute
)

// rateLimiter spaces the tries of each failing request by its own exponential
// backoff. It is safe for concurrent use.
type rateLimiter struct {
	mu       sync.Mutex
	failures map[reconcile.Request]*failure
}

type failure struct {
	backoff *backoff.ExponentialBackOff
	count   int
	// upcoming is the next delay, when somebody was told of it; 0 when nobody was.
	upcoming time.Duration
}

var _ workqueue.TypedRateLimiter[reconcile.Request] = (*rateLimiter)(nil)

func newRateLimiter() *rateLimiter {
	return &rateLimiter{failures: make(map[reconcile.Request]*failure)}
}

// longest is the most that the n-th failure in a row makes a request wait.
func longest(n int) time.Duration {
	delay := initialInterval
	for range n - 1 {
		if delay *= 2; delay >= maxInterval {
			delay = maxInterval
			break
		}
	}
	return delay + delay/2
}

// When is how long to wait before the next try; each call counts a failure.
func (l *rateLimiter) When(r reconcile.Request) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.of(r)
	delay := f.next()
	f.count++
	f.upcoming = 0
	return delay
}

// Upcoming is what When will return, if a request that is being tried fails.
func (l *rateLimiter) Upcoming(r reconcile.Request) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(r).next()
}

// of returns the failures of a request; the lock is held.
func (l *rateLimiter) of(r reconcile.Request) *failure {
	f, ok := l.failures[r]
	if !ok {
		f = &failure{backoff: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(initialInterval),
			backoff.WithMaxInterval(maxInterval),
			backoff.WithMultiplier(2),
			backoff.WithMaxElapsedTime(0), // never give up
		)}
		l.failures[r] = f
	}
	return f
}

// next draws the next delay, once.
func (f *failure) next() time.Duration {
	if f.upcoming == 0 {
		f.upcoming = f.backoff.NextBackOff()
	}
	return f.upcoming
}

// Forget resets a request after a success.
func (l *rateLimiter) Forget(r reconcile.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.failures, r)
}

// NumRequeues is how often a request failed since its last success.
func (l *rateLimiter) NumRequeues(r reconcile.Request) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.failures[r]; ok {
		return f.count
	}
	return 0
}

// patient is a rate limiter of requests whose work goes on between two of their tries,
// in jobs: that one was begun is no success, and resets nothing.
type patient struct {
	workqueue.TypedRateLimiter[reconcile.Request]
	// working tells whether a job of a request runs, or has ended in a way that was
	// not looked at yet; nil for requests without jobs.
	working func(reconcile.Request) bool
}

// Forget resets a request after a success.
func (p patient) Forget(r reconcile.Request) {
	if p.working == nil || !p.working(r) {
		p.anew(r)
	}
}

// Upcoming is how long a request that fails now will wait, where that is known.
func (p patient) Upcoming(r reconcile.Request) time.Duration {
	if l, ok := p.TypedRateLimiter.(*rateLimiter); ok {
		return l.Upcoming(r)
	}
	return 0
}

// anew resets a request of which everything is different now.
func (p patient) anew(r reconcile.Request) { p.TypedRateLimiter.Forget(r) }

// ownChanges wakes the reconciler of an object when it was made, changed or deleted.
// What was changed is tried at once, and when it fails, its backoff begins anew.
type ownChanges struct {
	handler.EnqueueRequestForObject
	limiter patient
}

// Update implements handler.EventHandler.
func (h *ownChanges) Update(ctx context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	h.limiter.anew(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(e.ObjectNew)})
	h.EnqueueRequestForObject.Update(ctx, e, q)
}
