package vboxmanage

import (
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The pauses between processes while VBoxSVC does not answer, or there is no
// VBoxManage.
const (
	outageFirst = 100 * time.Millisecond
	outageLast  = 5 * time.Second
)

// outage remembers that VirtualBox could not be reached, so that one call at a time
// finds out whether it can be, and not more often than the backoff allows. Its methods
// may be called from many goroutines.
type outage struct {
	mu    sync.Mutex
	pause backoff.BackOff
	until time.Time // of the next attempt
	err   error     // of the last one; nil when there is no outage
}

func newOutage() *outage {
	return &outage{pause: backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(outageFirst),
		backoff.WithMaxInterval(outageLast),
		backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(0),
	)}
}

// claim tells how long it is to the next attempt, and why there is an outage. With 0
// the caller makes the attempt.
func (o *outage) claim() (time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return 0, nil
	}
	if wait := time.Until(o.until); wait > 0 {
		return wait, o.err
	}
	o.until = time.Now().Add(o.pause.NextBackOff()) // the others wait for this one
	return 0, nil
}

// failed notes that VirtualBox was not reached.
func (o *outage) failed(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.until = time.Now().Add(o.pause.NextBackOff())
	}
	o.err = err
}

// over notes that it was.
func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		o.err = nil
		o.pause.Reset()
	}
}
