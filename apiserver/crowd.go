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
// again when it needs to. Where none is idle, who comes is refused. Those from
// elsewhere may be three quarters of them: whatever they do, the socket is open to
// those who take their credentials back.
//
//	Accept ─▶ idle ◀──▶ at work (a request, a watch, a stream of a guest) ─▶ closed
//	           │ when there are too many, the first of these is ended
type crowd struct {
	most   int // of all listeners together
	remote int // the most from elsewhere
	log    logr.Logger

	mu    sync.Mutex
	count int
	far   int        // of them, from elsewhere
	idle  *list.List // of *member, the longest idle first
	told  time.Time  // when the log was told last
}

// member is one of the connections.
type member struct {
	net.Conn
	crowd *crowd
	// far: it is from elsewhere.
	far bool
	// entry in the crowd's idle; nil while it is at work. The crowd's mu guards it,
	// and gone.
	entry *list.Element
	gone  bool
}

func newCrowd(most int, log logr.Logger) *crowd {
	return &crowd{most: most, remote: max(1, most/4*3), log: log, idle: list.New()}
}

// entrance is a listener whose connections are of the crowd.
type entrance struct {
	net.Listener
	crowd *crowd
	// far: from elsewhere, over TLS. Where HTTP is spoken, who is refused can be told.
	far bool
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
		m, ended := e.crowd.enter(conn, e.far)
		if ended != nil {
			_ = ended.Close()
		}
		if m != nil {
			return m, nil
		}
		if !e.far {
			refuse(conn)
		}
		_ = conn.Close()
	}
}

// enter makes a connection a member, and tells which other has to end for it. It is
// none when there are too many that are at work.
func (c *crowd) enter(conn net.Conn, far bool) (m, ended *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tooFar := far && c.far >= c.remote
	if tooFar || c.count >= c.most {
		ended = c.longestIdle(tooFar)
		c.tell(ended != nil)
		if ended == nil {
			return nil, nil
		}
		ended.leave()
	}
	m = &member{Conn: conn, crowd: c, far: far}
	m.entry = c.idle.PushBack(m)
	c.count++
	if far {
		c.far++
	}
	return m, ended
}

// longestIdle is the connection that has been idle for the longest time, of all or of
// those from elsewhere; nil when none is. mu is held.
func (c *crowd) longestIdle(far bool) *member {
	for e := c.idle.Front(); e != nil; e = e.Next() {
		if m := e.Value.(*member); m.far || !far {
			return m
		}
	}
	return nil
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
	if m.far {
		m.crowd.far--
	}
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
