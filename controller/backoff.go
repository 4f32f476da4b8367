package controller

import (
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"k8s.io/client-go/util/workqueue"
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
}

var _ workqueue.TypedRateLimiter[reconcile.Request] = (*rateLimiter)(nil)

func newRateLimiter() *rateLimiter {
	return &rateLimiter{failures: make(map[reconcile.Request]*failure)}
}

// When is how long to wait before the next try; each call counts a failure.
func (l *rateLimiter) When(r reconcile.Request) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	f.count++
	return f.backoff.NextBackOff()
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
