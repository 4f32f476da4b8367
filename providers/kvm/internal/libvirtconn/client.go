// Package libvirtconn keeps connections to a libvirt daemon and makes calls on
// them that end.
//
//	             ┌─ lifecycle link ── 4 calls in flight ─┐
//	Client ──────┼─ agent links    ── 2 × 4 in flight   ─┼──▶ libvirtd
//	             ├─ event link     ── events, heartbeat ─┤
//	             └─ Keyboard       ── one for each console that is typed at
//
// libvirt's calls take no context and its daemon serves a client only five
// requests at a time (max_client_requests). So calls are limited below that,
// each has a time limit of its own, and a call that does not return costs its
// connection: the link drops it and makes a new one at the next call. Calls to
// guest agents, which wait for guests nobody trusts, go over links of their own
// and can never hold up a lifecycle call.
//
// All links share one view of an outage: after a failed connect, calls fail at
// once with providers.ErrDown until the next attempt is due
// (exponential, with jitter). The first success on any link ends it for all.
package libvirtconn

import (
	"context"
	"errors"
	"hash/fnv"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/go-logr/logr"

	"sandboxd.dev/sandboxd/providers"
)

const (
	// callsPerLink stays below libvirtd's max_client_requests (5), beyond
	// which the daemon stops reading the socket.
	callsPerLink = 4
	// agentLinks times callsPerLink stays well below libvirtd's max_workers
	// (20), so that hung guests leave workers for everything else.
	agentLinks = 2
	// connectTimeout bounds the making of a connection.
	connectTimeout = 10 * time.Second
)

// Options of a Client.
type Options struct {
	// URI of the driver, such as qemu:///system.
	URI string
	// Socket of the daemon.
	Socket string
	// BeforeChange is called before each call that changes something or makes
	// libvirt start programs (with a limit above Quick), by the goroutine that
	// makes the call; may be nil.
	BeforeChange func()
	// Logger gets changes of the connection's state.
	Logger logr.Logger
}

// Client is a set of connections to one libvirt daemon. It connects when it
// is first used, and again after an outage. Its methods may be called from
// many goroutines.
type Client struct {
	opts   Options
	outage *outage

	lifecycle *Link
	agents    []*Link
	events    *Link

	epoch  atomic.Uint64
	closed chan struct{}

	mu    sync.Mutex
	done  bool           // closed is closed; guarded by mu
	calls sync.WaitGroup // nothing is added once done is set
}

// New makes a Client; nothing is connected yet.
func New(opts Options) *Client {
	c := &Client{opts: opts, outage: newOutage(time.Now), closed: make(chan struct{})}
	c.lifecycle = newLink(c, "lifecycle")
	c.events = newLink(c, "events")
	for range agentLinks {
		c.agents = append(c.agents, newLink(c, "agent"))
	}
	return c
}

// Lifecycle is the link for all calls but those to guest agents.
func (c *Client) Lifecycle() *Link { return c.lifecycle }

// Agent is the link for calls to the agent of one guest. A guest always gets
// the same link.
func (c *Client) Agent(id string) *Link {
	h := fnv.New32a()
	_, _ = io.WriteString(h, id)
	return c.agents[h.Sum32()%uint32(len(c.agents))]
}

// Epoch counts the connections made for lifecycle calls. What was heard in an
// earlier one may not be true any more.
func (c *Client) Epoch() uint64 { return c.epoch.Load() }

// Close ends all connections. Calls under way and later ones fail with
// providers.ErrUnavailable.
func (c *Client) Close() {
	c.mu.Lock()
	if !c.done {
		c.done = true
		close(c.closed)
	}
	c.mu.Unlock()
	for _, l := range append([]*Link{c.lifecycle, c.events}, c.agents...) {
		l.close()
	}
	c.calls.Wait()
}

// spawn runs something that Close waits for; not after it.
func (c *Client) spawn(do func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done {
		c.calls.Go(do)
	}
	return !c.done
}

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// object is what errors of the connection itself are about.
func (c *Client) object() string { return "libvirt at " + c.opts.Socket }

// unreachable words a failure to connect.
func (c *Client) unreachable(err error) error {
	var hint string
	switch {
	case errors.Is(err, os.ErrNotExist):
		hint = "is it installed and started (systemctl start libvirtd)?"
	case errors.Is(err, os.ErrPermission):
		hint = "run sandboxd as root, or as a member of the group that owns the socket"
	default:
		hint = "is libvirtd running?"
	}
	return providers.Errorf(providers.ErrDown, c.object(), "it cannot be reached: %w; %s", cause(err), hint)
}

// cause strips the dial's own words from an error of the system.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// session is one connection.
type session struct {
	lib  *libvirt.Libvirt
	conn *watchedConn
}

// dial makes a connection and opens the driver.
func (c *Client) dial(ctx context.Context) (*session, error) {
	return c.dialThrough(ctx, func(raw net.Conn) net.Conn { return raw })
}

// dialThrough is dial for whoever has to see what is sent and received.
func (c *Client) dialThrough(ctx context.Context, through func(net.Conn) net.Conn) (*session, error) {
	raw, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "unix", c.opts.Socket)
	if err != nil {
		return nil, err
	}
	conn := &watchedConn{Conn: through(raw), dead: make(chan struct{})}
	s := &session{lib: libvirt.NewWithDialer(givenConn{conn}), conn: conn}

	done := make(chan error, 1)
	if !c.spawn(func() { done <- s.lib.ConnectToURI(libvirt.ConnectURI(c.opts.URI)) }) {
		s.kill()
		return nil, net.ErrClosed
	}
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = errors.New("the daemon accepts the connection and does not answer")
	}
	if err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

// kill closes the connection; calls under way on it fail.
func (s *session) kill() { _ = s.conn.Close() }

// alive tells whether the connection was not seen to be dead.
func (s *session) alive() bool {
	select {
	case <-s.conn.dead:
		return false
	default:
		return true
	}
}

// watchedConn tells when a connection is over, whoever ended it.
type watchedConn struct {
	net.Conn
	once sync.Once
	dead chan struct{}
}

func (w *watchedConn) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.over()
	}
	return n, err
}

func (w *watchedConn) Close() error {
	w.over()
	return w.Conn.Close()
}

func (w *watchedConn) over() { w.once.Do(func() { close(w.dead) }) }

// givenConn is a dialer that returns a connection made before.
type givenConn struct{ conn net.Conn }

func (g givenConn) Dial() (net.Conn, error) { return g.conn, nil }
