package apiserver

import (
	"container/list"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// maxStrangers is how many connections there may be of clients that have not
	// shown a valid credential yet. When one more comes the oldest is ended, so
	// that strangers keep nobody out who shows one in time.
	maxStrangers = 256
	// keepAlive is how often it is looked whether a silent client is still there.
	keepAlive = 30 * time.Second
)

// door is a listener on TCP that bounds the connections of strangers. How many there
// are in all is the crowd's.
type door struct {
	net.Listener

	mu        sync.Mutex
	strangers *list.List // of *visitor, the oldest first
	known     *shares    // of connections, by user
}

// newDoor makes a door through which one user may have so many connections.
func newDoor(l net.Listener, each int) *door {
	return &door{Listener: l, strangers: list.New(), known: newShareOfEach(int64(max(1, each)))}
}

// visitor is a connection that came through a door.
type visitor struct {
	net.Conn
	door *door
	// entry in the door's strangers; nil once it is none. The door's mu guards it.
	entry *list.Element
	// user whose it counts as, the first one that it showed; guarded too, and gone.
	user string
	gone bool
}

// Accept returns the next connection.
func (d *door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	below := c
	if m, ok := c.(*member); ok {
		below = m.Conn
	}
	if t, ok := below.(*net.TCPConn); ok {
		_ = t.SetKeepAlivePeriod(keepAlive)
	}
	return d.enter(c), nil
}

// enter takes a connection in, which may end another one.
func (d *door) enter(c net.Conn) *visitor {
	d.mu.Lock()
	v := &visitor{Conn: c, door: d}
	v.entry = d.strangers.PushBack(v)
	var oldest *visitor
	if d.strangers.Len() > maxStrangers {
		oldest = d.strangers.Front().Value.(*visitor)
		d.forget(oldest)
	}
	d.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
	return v
}

// forget takes a connection out of the strangers. mu is held.
func (d *door) forget(v *visitor) {
	if v.entry != nil {
		d.strangers.Remove(v.entry)
		v.entry = nil
	}
}

// welcome makes a connection one of a user who is known. It fails when he has too many.
func (v *visitor) welcome(user string) error {
	if v == nil {
		return nil
	}
	v.door.mu.Lock()
	defer v.door.mu.Unlock()
	if v.user != "" || v.gone {
		return nil
	}
	if ok, _ := v.door.known.try(user, 1); !ok {
		return tooMany(fmt.Sprintf("user %q has %d connections, which is the most", user, v.door.known.each))
	}
	v.user = user
	v.door.forget(v)
	return nil
}

// Close ends the connection.
func (v *visitor) Close() error {
	v.door.mu.Lock()
	v.door.forget(v)
	if v.user != "" && !v.gone {
		v.door.known.give(v.user, 1)
	}
	v.gone = true
	v.door.mu.Unlock()
	return v.Conn.Close()
}
