package libvirtconn

import (
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// outage remembers that the daemon could not be reached, so that callers fail
// at once and it is not asked more often than the backoff allows.
type outage struct {
	now func() time.Time

	mu    sync.Mutex
	pause backoff.BackOff
	until time.Time
	err   error
}

func newOutage(now func() time.Time) *outage {
	return &outage{now: now, pause: backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(5*time.Second),
		backoff.WithMaxElapsedTime(0),
	)}
}

// check returns the last error while the next attempt is not due.
func (o *outage) check() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil && o.now().Before(o.until) {
		return o.err
	}
	return nil
}

// wait is how long to the next attempt.
func (o *outage) wait() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return max(0, o.until.Sub(o.now()))
}

// failed records a failed attempt and tells whether the outage begins with it.
func (o *outage) failed(err error) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	began := o.err == nil
	o.err = err
	o.until = o.now().Add(o.pause.NextBackOff())
	return began
}

// over records a success and tells whether it ended an outage.
func (o *outage) over() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	ended := o.err != nil
	o.err, o.until = nil, time.Time{}
	o.pause.Reset()
	return ended
}
