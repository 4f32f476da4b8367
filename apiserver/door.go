package apiserver

import (
	"container/list"
	"net"
	"sync"
	"time"
)

const (
	// maxStrangers is how many connections there may be of clients that have not
	// shown a valid credential yet. When one more comes the oldest is ended, so
	// that strangers keep nobody out who shows one in time.
	maxStrangers = 256
	// maxVisitors is how many connections there may be in all.
	maxVisitors = 16_384
	// keepAlive is how often it is looked whether a silent client is still there.
	keepAlive = 30 * time.Second
)

// door is a listener on TCP that bounds its connections.
type door struct {
	net.Listener

	mu        sync.Mutex
	strangers *list.List // of *visitor, the oldest first
	visitors  int
}

func newDoor(l net.Listener) *door { return &door{Listener: l, strangers: list.New()} }

// visitor is a connection that came through a door.
type visitor struct {
	net.Conn
	door *door
	// entry in the door's strangers; nil once it is none. The door's mu guards it.
	entry *list.Element
	once  sync.Once
}

// Accept returns the next connection. Those that are too many are ended.
func (d *door) Accept() (net.Conn, error) {
	for {
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
		if v := d.enter(c); v != nil {
			return v, nil
		}
		_ = c.Close()
	}
}

// enter counts a connection; nil when there are too many.
func (d *door) enter(c net.Conn) *visitor {
	d.mu.Lock()
	if d.visitors >= maxVisitors {
		d.mu.Unlock()
		return nil
	}
	d.visitors++
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

// welcome makes a connection one of a client that is known.
func (v *visitor) welcome() {
	v.door.mu.Lock()
	defer v.door.mu.Unlock()
	v.door.forget(v)
}

// Close ends the connection.
func (v *visitor) Close() error {
	v.once.Do(func() {
		v.door.mu.Lock()
		defer v.door.mu.Unlock()
		v.door.forget(v)
		v.door.visitors--
	})
	return v.Conn.Close()
}
