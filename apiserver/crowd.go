package apiserver

import (
	"container/list"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

const (
	// maxConnections is how many connections there may be at a time, where the
	// process may have as many files open.
	maxConnections = 16 << 10
	// fewConnections is how many there may always be.
	fewConnections = 64
	// refuseTimeout is how long a refusal may take to send, during which nobody else
	// is accepted.
	refuseTimeout = 10 * time.Millisecond
	// crowdInterval is how often the log tells that there are too many.
	crowdInterval = time.Minute
)

// crowd bounds the connections of clients, so that they leave descriptors to the
// store, the hypervisors and the guests. When one more comes than there may be,
// the one that has been idle for the longest time is ended: its client connects
// again when it needs to. Where none is idle, who comes is refused.
//
//	Accept ─▶ idle ◀──▶ at work (a request, a watch, a stream of a guest) ─▶ closed
//	           │ when there are too many, the first of these is ended
type crowd struct {
	most int // of all listeners together
	log  logr.Logger

	mu    sync.Mutex
	count int
	idle  *list.List // of *member, the longest idle first
	told  time.Time  // when the log was told last
}

// member is one of the connections.
type member struct {
	net.Conn
	crowd *crowd
	// entry in the crowd's idle; nil while it is at work. The crowd's mu guards it,
	// and gone.
	entry *list.Element
	gone  bool
}

func newCrowd(most int, log logr.Logger) *crowd {
	return &crowd{most: most, log: log, idle: list.New()}
}

// entrance is a listener whose connections are of the crowd.
type entrance struct {
	net.Listener
	crowd *crowd
	// plain: HTTP is spoken on it, so who is refused can be told.
	plain bool
}

// connectionLimit is how many connections there may be of a process that may have
// so many files open: a quarter is for everything else.
func connectionLimit() int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fewConnections
	}
	return int(max(fewConnections, min(maxConnections, files.Cur/4*3)))
}

// Accept returns the next connection that may stay.
func (e entrance) Accept() (net.Conn, error) {
	for {
		conn, err := e.Listener.Accept()
		if err != nil {
			return nil, err
		}
		m, ended := e.crowd.enter(conn)
		if ended != nil {
			_ = ended.Close()
		}
		if m != nil {
			return m, nil
		}
		if e.plain {
			refuse(conn)
		}
		_ = conn.Close()
	}
}

// enter makes a connection a member, and tells which other has to end for it. It is
// none when there are too many that are at work.
func (c *crowd) enter(conn net.Conn) (m, ended *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= c.most {
		oldest := c.idle.Front()
		c.tell(oldest != nil)
		if oldest == nil {
			return nil, nil
		}
		ended = oldest.Value.(*member)
		ended.leave()
	}
	m = &member{Conn: conn, crowd: c}
	m.entry = c.idle.PushBack(m)
	c.count++
	return m, ended
}

// tell tells the log, now and then. mu is held.
func (c *crowd) tell(ended bool) {
	if now := time.Now(); now.Sub(c.told) > crowdInterval {
		c.told = now
		c.log.Info("There are more connections than there may be", "most", c.most, "idleOnesAreEnded", ended)
	}
}

// refuse answers a connection that cannot stay, without waiting for what it asks.
func refuse(conn net.Conn) {
	const body = `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"ServiceUnavailable","code":503,` +
		`"message":"there are too many connections to the daemon: try again later, and close those that are not needed","details":{"retryAfterSeconds":1}}` + "\n"
	// It fits into a socket's buffer; nobody waits for who does not take it.
	if err := conn.SetDeadline(time.Now().Add(refuseTimeout)); err == nil {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s", len(body), body)
	}
}

// state follows what http.Server does with a connection.
func (c *crowd) state(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if v, ok := conn.(*visitor); ok {
		conn = v.Conn
	}
	m, ok := conn.(*member)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.gone:
	case state == http.StateIdle && m.entry == nil:
		m.entry = c.idle.PushBack(m)
	case (state == http.StateActive || state == http.StateHijacked) && m.entry != nil:
		c.idle.Remove(m.entry)
		m.entry = nil
	}
}

// leave takes the connection out of the crowd. mu is held.
func (m *member) leave() {
	if m.gone {
		return
	}
	m.gone = true
	m.crowd.count--
	if m.entry != nil {
		m.crowd.idle.Remove(m.entry)
		m.entry = nil
	}
}

// Close ends the connection.
func (m *member) Close() error {
	m.crowd.mu.Lock()
	m.leave()
	m.crowd.mu.Unlock()
	return m.Conn.Close()
}
