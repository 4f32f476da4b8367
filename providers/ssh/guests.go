package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/keylock"
)

// Dialer opens connections to guests.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Options of Guests.
type Options struct {
	// Key that guests know the daemon by.
	Key *Key
	// Password looks up the password of an image's guest user; empty when the
	// image names none. It is asked for each connection and nothing is
	// remembered, so that a password may change. nil means that there are none.
	Password func(ctx context.Context, img *v1.GoldenImage) (string, error)
	// Dialer reaches guests; nil means a net.Dialer.
	Dialer Dialer
}

// Guests reaches into the guests of images that have no agent. It may be used
// concurrently.
type Guests struct {
	o Options
	// locks lets one client after the other log in to a machine: servers refuse
	// more than a few that have not done so yet.
	locks  *keylock.Set
	limits limits
}

// New makes Guests.
func New(o Options) *Guests {
	if o.Dialer == nil {
		o.Dialer = &net.Dialer{}
	}
	return &Guests{o: o, locks: keylock.New(), limits: defaultLimits}
}

// AuthorizedKey is what a guest has to authorize to let the daemon in, as a line
// of an authorized_keys file.
func (g *Guests) AuthorizedKey() (string, error) {
	line, err := g.o.Key.Authorized()
	if err != nil {
		return "", providers.Errorf(providers.ErrUnavailable, "ssh key", "%w", err)
	}
	return line, nil
}

// configureTimeout bounds setting up a guest. An emulated one takes seconds.
const configureTimeout = 30 * time.Second

// ConfigureGuest applies settings as providers.Guests does, but takes less than
// a minute: it is called where others wait. ErrUnsupported when there is no
// way to the guest as its Sandbox is specified.
func (g *Guests) ConfigureGuest(ctx context.Context, p providers.Provider, sbx *v1.Sandbox, img *v1.GoldenImage, cfg providers.GuestConfig) error {
	bounded, cancel := context.WithTimeout(ctx, configureTimeout)
	defer cancel()
	c := g.Open(p, sbx, img)
	defer c.Close()
	err := c.ConfigureGuest(bounded, cfg)
	if ctx.Err() == nil && bounded.Err() != nil && errors.Is(err, bounded.Err()) {
		return providers.Errorf(providers.ErrUnavailable, c.object, "its guest could not be set up over ssh within %v", configureTimeout)
	}
	return err
}

// Client reaches into one guest. The connection is made when it is first needed,
// and again if it was lost. A Client may be used concurrently; each of its
// methods is as that of providers.Guests.
type Client struct {
	g      *Guests
	p      providers.Provider
	sbx    *v1.Sandbox
	img    *v1.GoldenImage
	object string

	mu     sync.Mutex
	conn   *connection
	closed bool
}

// Open makes a Client for the guest of a Sandbox on a provider. The caller closes
// it.
func (g *Guests) Open(p providers.Provider, sbx *v1.Sandbox, img *v1.GoldenImage) *Client {
	return &Client{g: g, p: p, sbx: sbx, img: img, object: fmt.Sprintf("sandbox %s/%s", sbx.Namespace, sbx.Name)}
}

// Close ends the connection, and with it what is under way.
func (c *Client) Close() {
	c.mu.Lock()
	conn := c.conn
	c.conn, c.closed = nil, true
	c.mu.Unlock()
	if conn != nil {
		conn.close()
	}
}

// connect returns the connection, made anew if need be.
func (c *Client) connect(ctx context.Context) (*connection, error) {
	unlock, err := c.g.locks.Lock(ctx, string(c.sbx.UID))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if conn := c.current(); conn != nil {
		return conn, nil
	}
	conn, err := c.login(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.close()
		return nil, errLost
	}
	conn.limits = c.g.limits
	c.conn = conn
	return conn, nil
}

// current is the connection if there is one that was not lost.
func (c *Client) current() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	if c.conn.isLost() {
		c.conn = nil
	}
	return c.conn
}

// inGuest does something over the connection and gives the error a kind.
func (c *Client) inGuest(ctx context.Context, do func(*connection) error) error {
	conn, err := c.connect(ctx)
	if err == nil {
		err = do(conn)
	}
	return c.kind(ctx, err)
}

// kind gives an error a kind; see guestcall.Kind.
func (c *Client) kind(ctx context.Context, err error) error {
	return guestcall.Kind(ctx, c.object, err)
}
