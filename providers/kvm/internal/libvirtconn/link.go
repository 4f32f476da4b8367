package libvirtconn

import (
	"context"
	"time"

	"github.com/digitalocean/go-libvirt"

	"sandboxd.dev/sandboxd/providers"
)

// Time limits of calls, after which the connection is given up. They are far
// above what the calls take (libvirt answers most in milliseconds): a call
// that reaches its limit hangs.
const (
	// Quick is for questions.
	Quick = 30 * time.Second
	// Slow is for calls that change something or start and stop processes. libvirt has been seen
	// to take 86 s for a start when it must probe QEMU anew.
	Slow = 3 * time.Minute
	// Save is for writing a guest's memory to disk.
	Save = 30 * time.Minute

	// settle is how long a call that changes something may still take once its
	// context has ended, so that the next call finds its work done and not
	// under way.
	settle = 5 * time.Second
)

// Link is one connection that is remade when it is lost.
type Link struct {
	client *Client
	name   string
	slots  chan struct{} // one per call in flight
	making chan struct{} // held while a connection is looked up or made
	cur    *session      // guarded by making
}

func newLink(c *Client, name string) *Link {
	return &Link{
		client: c, name: name,
		slots:  make(chan struct{}, callsPerLink),
		making: make(chan struct{}, 1),
	}
}

// Do makes a call that returns nothing; see Get.
func Do(ctx context.Context, l *Link, object string, limit time.Duration, call func(*libvirt.Libvirt) error) error {
	_, err := Get(ctx, l, object, limit, func(v *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, call(v)
	})
	return err
}

// Get makes a call about an object. It returns when the call has, or soon after
// the context ends, with its error; the call then goes on and its result is
// dropped. After limit
// the call is taken to hang and its connection is closed. Errors are
// translated to the kinds of package providers; what the connection lost is
// ErrUnavailable.
func Get[T any](ctx context.Context, l *Link, object string, limit time.Duration, call func(*libvirt.Libvirt) (T, error)) (T, error) {
	var none T
	changes := limit > Quick
	if changes && l.client.opts.BeforeChange != nil {
		l.client.opts.BeforeChange()
	}
	if err := l.acquire(ctx, object, limit); err != nil {
		return none, err
	}
	s, err := l.session(ctx)
	if err != nil {
		<-l.slots
		return none, err
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	ok := l.client.spawn(func() {
		defer func() { <-l.slots }()
		hang := time.AfterFunc(limit, func() {
			l.client.opts.Logger.Info("libvirt call hangs, its connection is given up", "link", l.name, "object", object, "limit", limit)
			s.kill()
		})
		defer hang.Stop()
		v, err := call(s.lib)
		done <- result{v, err}
	})
	if !ok {
		<-l.slots
		return none, l.client.closedError()
	}
	select {
	case r := <-done:
		return r.value, Translate(object, r.err)
	case <-ctx.Done():
	}
	if changes {
		late := time.NewTimer(settle)
		defer late.Stop()
		select {
		case <-done:
		case <-late.C:
		}
	}
	return none, ctx.Err()
}

// acquire waits for a free slot.
func (l *Link) acquire(ctx context.Context, object string, limit time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.slots <- struct{}{}:
		return nil
	default:
	}
	busy := time.NewTimer(limit)
	defer busy.Stop()
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.client.closed:
		return l.client.closedError()
	case <-busy.C:
		return providers.Errorf(providers.ErrUnavailable, object, "libvirt is busy with other calls and has not answered for %v", limit)
	}
}

func (c *Client) closedError() error {
	return providers.Errorf(providers.ErrUnavailable, c.object(), "the connection was closed, because sandboxd is stopping")
}

// session returns a live connection, made if need be.
func (l *Link) session(ctx context.Context) (*session, error) {
	select {
	case l.making <- struct{}{}:
		defer func() { <-l.making }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c := l.client
	if c.isClosed() {
		return nil, c.closedError()
	}
	if l.cur != nil && l.cur.alive() {
		return l.cur, nil
	}
	s, err := c.reach(ctx, c.dial)
	if err != nil {
		return nil, err
	}
	if l == c.lifecycle {
		c.epoch.Add(1)
	}
	l.cur = s
	return s, nil
}

// reach makes a connection, and keeps book of the outage.
func (c *Client) reach(ctx context.Context, dial func(context.Context) (*session, error)) (*session, error) {
	if err := c.outage.check(); err != nil {
		return nil, err
	}
	s, err := dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if c.isClosed() {
			return nil, c.closedError()
		}
		err = c.unreachable(err)
		if c.outage.failed(err) {
			c.opts.Logger.Info("libvirt is lost", "socket", c.opts.Socket, "error", err.Error())
		}
		return nil, err
	}
	if c.outage.over() {
		c.opts.Logger.Info("libvirt is back", "socket", c.opts.Socket)
	}
	return s, nil
}

// close ends the connection, if there is one.
func (l *Link) close() {
	l.making <- struct{}{}
	defer func() { <-l.making }()
	if l.cur != nil {
		l.cur.kill()
		l.cur = nil
	}
}
