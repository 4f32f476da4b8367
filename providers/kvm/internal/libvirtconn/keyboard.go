package libvirtconn

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"sandboxd.dev/sandboxd/providers"
)

// Of libvirt's protocol, what go-libvirt does not do: it reads the stream of a
// console and cannot write to it. A packet has a header of seven numbers (length,
// program, version, procedure, type, serial, status); what is written to a stream has
// the serial of the call that opened it.
const (
	headerSize      = 28
	remoteProgram   = 0x20008086
	protocolVersion = 1
	openConsole     = 201

	typeCall, typeReply, typeStream = 0, 1, 3
	statusOK, statusContinue        = 0, 2
)

// farewell is how long libvirt may take to end a stream that we end.
const farewell = time.Second

// Keyboard is what types at the serial console of a machine, over a connection of
// its own. What the console shows comes along as well, and is dropped: the console's
// log has it.
type Keyboard struct {
	s     *session
	tap   *tap
	ended chan struct{}
	err   error // why, once ended
	once  sync.Once
}

// OpenKeyboard opens the way to type at a console. libvirt gives that to one at a
// time: ErrBusy when somebody else has it.
func (c *Client) OpenKeyboard(ctx context.Context, object string, dom libvirt.Domain) (*Keyboard, error) {
	k := &Keyboard{ended: make(chan struct{})}
	var err error
	k.s, err = c.reach(ctx, func(ctx context.Context) (*session, error) {
		return c.dialThrough(ctx, func(raw net.Conn) net.Conn {
			k.tap = &tap{Conn: raw, opened: make(chan struct{})}
			return k.tap
		})
	})
	if err != nil {
		return nil, err
	}
	if !c.spawn(func() {
		defer close(k.ended)
		defer k.s.kill()
		k.err = k.s.lib.DomainOpenConsole(dom, nil, nowhere{}, uint32(libvirt.DomainConsoleSafe))
	}) {
		k.s.kill()
		return nil, c.closedError()
	}
	late := time.NewTimer(Quick)
	defer late.Stop()
	select {
	case <-k.tap.opened:
		go func() { // the connection ends with the client
			select {
			case <-c.closed:
				k.s.kill()
			case <-k.ended:
			}
		}()
		return k, nil
	case <-k.ended:
		err = notOpened(object, k.err)
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.closed:
		err = c.closedError()
	case <-late.C:
		err = providers.Errorf(providers.ErrUnavailable, object, "libvirt has not opened its serial console within %v", Quick)
	}
	k.s.kill()
	<-k.ended
	return nil, err
}

// notOpened words why libvirt does not open a console. It has no code of its own for
// one that is in use, and no other reason for this one.
func notOpened(object string, err error) error {
	switch {
	case err == nil:
		return providers.Errorf(providers.ErrUnavailable, object, "libvirt ended its serial console at once")
	case Code(err) == libvirt.ErrOperationFailed:
		return providers.Errorf(providers.ErrBusy, object,
			"somebody else types at its serial console, as virsh console does: try again when they have left it (%w)", err)
	}
	return Translate(object, err)
}

// Write implements io.Writer. It waits while the guest does not read, until Close:
// libvirt takes a few packets and no more.
func (k *Keyboard) Write(b []byte) (int, error) {
	if err := k.send(b, statusContinue); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (k *Keyboard) send(b []byte, status uint32) error {
	packet := make([]byte, headerSize, headerSize+len(b))
	for i, n := range []uint32{uint32(headerSize + len(b)), remoteProgram, protocolVersion, openConsole, typeStream, k.tap.serial, status} {
		binary.BigEndian.PutUint32(packet[4*i:], n)
	}
	_, err := k.tap.Conn.Write(append(packet, b...)) // a write is never mixed with another
	return err
}

// Ended is closed when the console was closed, by whomever.
func (k *Keyboard) Ended() <-chan struct{} { return k.ended }

// Close ends it. What was written before goes to the guest, as far as libvirt has
// come to it within a moment. It may be repeated.
func (k *Keyboard) Close() error {
	k.once.Do(func() {
		late := time.AfterFunc(farewell, k.s.kill)
		defer late.Stop()
		if k.send(nil, statusOK) != nil {
			k.s.kill()
		}
		<-k.ended
	})
	return nil
}

// nowhere drops what a console shows. An empty message would end the stream.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

// errStarted: a connection opens one console.
var errStarted = errors.New("a second console on one connection")

// tap sees on a connection by which call a console is opened, and that it is.
type tap struct {
	net.Conn
	serial uint32 // of the call; written before opened is closed

	opened chan struct{}
	called bool
	head   []byte // what was read of a packet's header
	left   int    // what is to be read of a packet
}

// Write implements net.Conn. A call comes in one piece.
func (t *tap) Write(b []byte) (int, error) {
	if len(b) >= headerSize && number(b, 3) == openConsole && number(b, 4) == typeCall {
		if t.called {
			return 0, errStarted
		}
		t.called, t.serial = true, number(b, 5)
	}
	return t.Conn.Write(b)
}

// Read implements net.Conn.
func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.see(b[:n])
	return n, err
}

// see follows the packets, wherever they are cut.
func (t *tap) see(b []byte) {
	for len(b) > 0 {
		if t.left > 0 {
			n := min(t.left, len(b))
			t.left, b = t.left-n, b[n:]
			continue
		}
		n := min(headerSize-len(t.head), len(b))
		t.head, b = append(t.head, b[:n]...), b[n:]
		if len(t.head) < headerSize {
			return
		}
		if number(t.head, 3) == openConsole && number(t.head, 4) == typeReply && number(t.head, 6) == statusOK && !t.isOpened() {
			close(t.opened)
		}
		t.left = max(0, int(number(t.head, 0))-headerSize)
		t.head = t.head[:0]
	}
}

func (t *tap) isOpened() bool {
	select {
	case <-t.opened:
		return true
	default:
		return false
	}
}

// number is one of those in a packet's header.
func number(b []byte, i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
