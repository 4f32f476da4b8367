package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// acceptPause keeps a port that cannot accept from spinning.
const acceptPause = 50 * time.Millisecond

// dialer makes a connection; net.Dialer has one.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// tcpPort serves one TCP port.
type tcpPort struct {
	listener net.Listener
	dest     func() (string, bool)
	used     func() (end func())
	dial     dialer
	slots    chan struct{}
	conns    connections
	life     context.Context // ends with Close
	end      context.CancelFunc
	work     sync.WaitGroup
}

func listenTCP(at string, dest func() (string, bool), used func() (end func()), dial dialer) (*tcpPort, error) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	p := &tcpPort{listener: l, dest: dest, used: used, dial: dial, slots: make(chan struct{}, maxConnections)}
	p.life, p.end = context.WithCancel(context.Background())
	p.work.Go(p.accept)
	return p, nil
}

func (p *tcpPort) Addr() net.Addr { return p.listener.Addr() }

func (p *tcpPort) Close() {
	p.end()
	_ = p.listener.Close()
	p.conns.close()
	p.work.Wait()
}

func (p *tcpPort) accept() {
	for {
		p.slots <- struct{}{} // beyond the limit, clients wait in the kernel's backlog
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, or the client is gone already
			<-p.slots
			time.Sleep(acceptPause)
			continue
		}
		p.work.Go(func() {
			defer func() { <-p.slots }()
			p.handle(c)
		})
	}
}

func (p *tcpPort) handle(client net.Conn) {
	if !p.conns.add(client) {
		return
	}
	defer p.conns.end(client)
	to, ok := p.dest()
	if !ok {
		return
	}
	guest, err := p.dial(p.life, "tcp", to)
	if err != nil || !p.conns.add(guest) {
		return
	}
	defer p.conns.end(guest)
	defer p.used()()
	var copying sync.WaitGroup
	copying.Go(func() { pass(guest, client) })
	pass(client, guest)
	copying.Wait()
}

// pass copies one direction and passes its end on, so that either side may
// finish first. An error ends both directions.
func pass(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	if t, ok := to.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

// connections can be closed all at once.
type connections struct {
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// add keeps a connection, or closes it if it came too late.
func (c *connections) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return false
	}
	if c.open == nil {
		c.open = map[net.Conn]struct{}{}
	}
	c.open[conn] = struct{}{}
	return true
}

func (c *connections) end(conn net.Conn) {
	_ = conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		_ = conn.Close()
	}
}
