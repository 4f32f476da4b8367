package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

const (
	// aliveInterval is how often a guest is asked for a sign of life, and silence
	// how long it may take to give one.
	aliveInterval = 15 * time.Second
	silence       = 45 * time.Second
	// openTimeout bounds the opening of a session.
	openTimeout = time.Minute
	// openAttempts to open a session, and linger, the time in between and that a
	// session is given to be ended by the server: dropbear 2022.83 sometimes ends
	// a session at once that is opened while the shell of another ends.
	openAttempts = 5
	linger       = 250 * time.Millisecond
	// sessions is how many run over one connection at a time. Servers allow 10 as
	// a rule, and each may need one more that kills it.
	sessions = 4
)

// connection is one login.
//
//	lost ◀── the guest ends it, or is silent for too long, or close
type connection struct {
	client *xssh.Client
	lost   chan struct{} // closed when it is not usable any more
	slots  chan struct{}
	limits limits
	used   atomic.Bool // a session was opened
	// running are the goroutines that end with the connection.
	running sync.WaitGroup
}

func newConnection(client *xssh.Client) *connection {
	c := &connection{client: client, lost: make(chan struct{}), slots: make(chan struct{}, sessions)}
	c.running.Go(func() {
		_ = client.Wait()
		close(c.lost)
	})
	c.running.Go(c.keepAlive)
	return c
}

// close ends the connection and everything on it.
func (c *connection) close() {
	_ = c.client.Close()
	c.running.Wait()
}

// keepAlive gives the connection up when the guest falls silent: the machine may
// have been paused, or be gone.
func (c *connection) keepAlive() {
	tick := time.NewTicker(aliveInterval)
	defer tick.Stop()
	for {
		select {
		case <-c.lost:
			return
		case <-tick.C:
		}
		// Any answer will do; servers refuse what they do not know.
		last := time.AfterFunc(silence, func() { _ = c.client.Close() })
		_, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil)
		last.Stop()
		if err != nil {
			_ = c.client.Close()
			return
		}
	}
}

// abandonAfter is how long an opening is waited for that is to end: the end of the
// connection ends it, unless the library has lost sight of it, as it does when the
// connection ends at the moment of the opening.
const abandonAfter = 2 * time.Second

// opened is a session that opens.
type opened struct {
	session *xssh.Session
	stdin   io.WriteCloser
	err     error
}

// guard waits for an opening, which cannot be interrupted but by the end of the
// connection, and ends that if the context does or the opening takes too long.
func (c *connection) guard(ctx context.Context, open func() opened) opened {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	done := make(chan opened, 1)
	go func() { done <- open() }()
	select {
	case o := <-done:
		return o
	case <-c.lost:
	case <-ctx.Done():
	}
	_ = c.client.Close()
	o := opened{err: errLost}
	late := time.NewTimer(abandonAfter)
	defer late.Stop()
	select {
	case o = <-done:
		if o.session != nil {
			_ = o.session.Close()
		}
	case <-late.C:
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return opened{err: fmt.Errorf("%w: it does not answer", errLost)}
	case ctx.Err() != nil:
		return opened{err: ctx.Err()}
	}
	if o.err == nil {
		o.err = errLost
	}
	return opened{err: o.err}
}

// check sees to it that a connection which had a session is still there. Else its
// end, which is the end of that session, would meet the opening of the next one.
func (c *connection) check() error {
	if !c.used.Swap(true) {
		return nil
	}
	if _, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		return errLost
	}
	return nil
}

func (c *connection) isLost() bool {
	select {
	case <-c.lost:
		return true
	default:
		return false
	}
}

// reserve waits until one more session may run.
func (c *connection) reserve(ctx context.Context) (release func(), err error) {
	select {
	case c.slots <- struct{}{}:
		return func() { <-c.slots }, nil
	case <-c.lost:
		return nil, errLost
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
