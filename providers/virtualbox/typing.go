package virtualbox

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/keyboard"
)

// A serial port of VirtualBox's goes either to a file or to a socket, and can be told
// so while the machine runs, without a byte being lost. It goes to the log, which
// VirtualBox writes whether sandboxd runs or not, except while somebody types:
//
//	          file,…/console.log                          server,…/tty/ID
//	first ──▶ changeuartmode1 server …/tty/ID ──▶ connect: what is shown is appended to the
//	                                           log, what is typed is sent
//	last  ──▶ changeuartmode1 file …/console.log ──▶ what the socket still has is appended
//
// The socket is there for as long, so that a sandboxd that was killed in between is
// found out: by the next one when it begins and at each look at the machines, and before
// the machine starts. What VirtualBox was given to send while nobody was connected is
// lost, and the log says that something may be missing there.

// socketMost is the longest path of a socket that the system takes, in bytes.
const socketMost = len(syscall.RawSockaddrUnix{}.Path) - 1

const (
	// connectFor is how long VirtualBox may take to listen, connectPause between
	// attempts, and drainFor how long what is left in the socket may take.
	connectFor   = 10 * time.Second
	connectPause = 100 * time.Millisecond
	drainFor     = 10 * time.Second
	// putBackFor bounds one attempt to let a serial port go to the log again.
	putBackFor = 2 * time.Minute
)

// ttys are the sockets of consoles that are typed at. The paths of sockets are short,
// so these are not in the machines' folders, and their names are the UUIDs as short as
// they can be.
func (l layout) ttys() string { return filepath.Join(l.Root, "tty") }

func (l layout) tty(id types.UID) string {
	u, _ := uuid.Parse(string(id)) // checked where it came in
	return filepath.Join(l.ttys(), base64.RawURLEncoding.EncodeToString(u[:]))
}

// ttyOf is the socket in place of a log.
func ttyOf(console string) string {
	machine := filepath.Dir(console)
	l := newLayout(filepath.Dir(filepath.Dir(machine)))
	return l.tty(types.UID(filepath.Base(machine)))
}

// modes of the serial port, as VirtualBox shows them.
func logMode(console string) string { return "file," + console }
func ttyMode(console string) string { return "server," + ttyOf(console) }

// typed tells whether a machine's serial port goes to the socket.
func (p *Provider) typed(m machine) bool { return m.info["uartmode1"] == ttyMode(p.data.console(m.id)) }

// wires are the connections with the consoles that are typed at.
type wires struct {
	mu sync.Mutex
	of map[types.UID]*wire
	// settling are machines whose serial port is being put back.
	settling map[types.UID]bool
	// carried are machines that went off while somebody typed: all that they showed is
	// in the log, although their serial port goes to the socket until they start.
	carried map[types.UID]bool
}

func newWires() *wires {
	return &wires{of: map[types.UID]*wire{}, settling: map[types.UID]bool{}, carried: map[types.UID]bool{}}
}

func (w *wires) get(id types.UID) *wire {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[id]
}

// take removes a wire.
func (w *wires) take(id types.UID) *wire {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.of[id]
	delete(w.of, id)
	return taken
}

// wentOff ends the wire to a machine that is off.
func (w *wires) wentOff(id types.UID) {
	if taken := w.take(id); taken != nil {
		taken.end()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.carried[id] = true
	}
}

// drop ends the wire to a machine that is on or not, and tells whether all that it
// showed is in its log.
func (w *wires) drop(id types.UID, on bool) (whole bool) {
	taken := w.take(id)
	if taken != nil {
		taken.end()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	whole = taken != nil || w.carried[id] && !on // what is on may have been started by somebody else
	delete(w.carried, id)
	return whole
}

// wire is a connection with a console. What the guest shows is written to the log as
// it comes, so nothing of it gathers here.
type wire struct {
	conn  net.Conn
	log   *os.File
	ended chan struct{}
}

// carry writes what is shown to the log until the other end closes. What does not fit
// there is lost, as it is when VirtualBox writes.
func (w *wire) carry(life context.Context) {
	defer close(w.ended)
	defer context.AfterFunc(life, func() { _ = w.conn.Close() })()
	defer func() { _ = w.log.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := w.conn.Read(buf)
		_, _ = w.log.Write(buf[:n])
		if err != nil {
			return
		}
	}
}

// over tells whether VirtualBox has closed its end, as when the machine was started anew
// by somebody else.
func (w *wire) over() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// end lets what is on its way come in, from an end that was closed, and closes.
func (w *wire) end() {
	_ = w.conn.SetReadDeadline(time.Now().Add(drainFor))
	<-w.ended
	_ = w.conn.Close()
}

// TypeAtConsole implements providers.Guests.
func (p *Provider) TypeAtConsole(ctx context.Context, id types.UID) (io.WriteCloser, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	return p.keys.Join(ctx, id, func(ctx context.Context) (keyboard.Line, error) { return p.openLine(ctx, id) })
}

// line is a wire that is typed at.
type line struct {
	*wire
	left func()
}

// Write implements io.Writer.
func (l line) Write(b []byte) (int, error) { return l.conn.Write(b) }

// Ended is closed when the machine has closed its end.
func (l line) Ended() <-chan struct{} { return l.ended }

// Close ends a Write under way. The wire stays until the port is put back.
func (l line) Close() error {
	err := l.conn.SetWriteDeadline(time.Unix(1, 0))
	l.left()
	return err
}

// openLine turns a machine's serial port to the socket and connects with it.
func (p *Provider) openLine(ctx context.Context, id types.UID) (keyboard.Line, error) {
	object := machineObject(id)
	unlock, err := p.locks.Lock(ctx, object)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m, err := p.look(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case m.power != providers.PowerRunning:
		return nil, providers.Errorf(providers.ErrBusy, object, "it is %s: nobody would read what is typed", m.power)
	case len(p.data.tty(id)) > socketMost:
		return nil, providers.Errorf(providers.ErrUnsupported, object,
			"its serial console can only be read, because %s is too long for the path of a socket: leave out the input (-i), or choose a shorter --data-dir", p.data.tty(id))
	}
	w := p.wires.get(id)
	if w == nil || w.over() || !p.typed(m) {
		if w, err = p.connect(ctx, m); err != nil {
			p.settleSoon(id)
			return nil, err
		}
	}
	if err := w.conn.SetWriteDeadline(time.Time{}); err != nil {
		p.settleSoon(id)
		return nil, providers.Errorf(providers.ErrUnavailable, object, "its serial console has just gone away: %w", err)
	}
	return line{w, func() { p.settleSoon(id) }}, nil
}

// connect makes the wire to a machine whose lock is held.
func (p *Provider) connect(ctx context.Context, m machine) (*wire, error) {
	object, tty, log := machineObject(m.id), p.data.tty(m.id), p.data.console(m.id)
	whole := p.wires.drop(m.id, true) // of an earlier run of the machine
	if !p.typed(m) {
		whole = true
		if err := os.Remove(tty); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, p.fileError(object, err)
		}
		if _, err := p.manage(ctx, m.id, 0, "controlvm", string(m.id), "changeuartmode1", "server", tty); err != nil {
			return nil, err
		}
	}
	if err := keepConsole(log); err != nil {
		return nil, p.fileError(object, err)
	}
	if !whole { // it goes to the socket since an earlier process
		if err := noteGap(log); err != nil {
			return nil, p.fileError(object, err)
		}
	}
	kept, err := os.OpenFile(consoleParts(log)[1], os.O_WRONLY|os.O_APPEND|os.O_CREATE, consoleMode)
	if err != nil {
		return nil, p.fileError(object, err)
	}
	conn, err := dialTTY(ctx, tty)
	if err != nil {
		_ = kept.Close()
		return nil, providers.Errorf(providers.ErrUnavailable, object, "VirtualBox does not let its serial console be connected with: %w", err)
	}
	w := &wire{conn: conn, log: kept, ended: make(chan struct{})}
	if !p.life.Go(func() { w.carry(p.life.Context()) }) {
		return nil, errors.Join(p.ready(ctx), conn.Close(), kept.Close())
	}
	p.wires.mu.Lock()
	defer p.wires.mu.Unlock()
	p.wires.of[m.id] = w
	return w, nil
}

// dialTTY connects with a socket that VirtualBox has just been told to listen at.
func dialTTY(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		if pause(ctx, connectPause) != nil {
			return nil, err
		}
	}
}

// settleSoon puts a serial port back in the background, unless that is being done.
func (p *Provider) settleSoon(id types.UID) {
	p.wires.mu.Lock()
	defer p.wires.mu.Unlock()
	if p.wires.settling[id] {
		return
	}
	p.wires.settling[id] = p.life.Go(func() {
		ctx, cancel := context.WithTimeout(p.life.Context(), putBackFor)
		defer cancel()
		err := p.settle(ctx, id)
		p.wires.mu.Lock()
		delete(p.wires.settling, id)
		p.wires.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			p.log.Info("a serial console does not go to its log again yet", "machine", id, "error", err.Error())
		}
	})
}

// settleTyped finds consoles at which nobody types any more and that do not go to their
// logs: what was to put them back has failed, or ended with an earlier process.
func (p *Provider) settleTyped(on map[types.UID]bool) {
	for id := range on {
		if files.Exists(p.data.tty(id)) && !p.keys.Typed(id) {
			p.settleSoon(id)
		}
	}
}

// settleLeft does so for those that an earlier process has left, before anything else is
// done: what they show meanwhile is lost.
func (p *Provider) settleLeft() {
	left, err := os.ReadDir(p.data.ttys())
	if err != nil {
		p.log.Info("the consoles that somebody typed at are not known yet", "error", err.Error())
	}
	for _, e := range left {
		if b, err := base64.RawURLEncoding.DecodeString(e.Name()); err == nil {
			if u, err := uuid.FromBytes(b); err == nil {
				p.settleSoon(types.UID(u.String()))
			}
		}
	}
}

// settle puts the serial port of a machine back at which nobody types. One that is off
// is put back before it starts.
func (p *Provider) settle(ctx context.Context, id types.UID) error {
	unlock, err := p.locks.Lock(ctx, machineObject(id))
	if err != nil {
		return err
	}
	defer unlock()
	if p.keys.Typed(id) {
		return nil
	}
	m, err := p.look(ctx, id)
	switch {
	case errors.Is(err, providers.ErrNotFound):
		p.wires.drop(id, false)
		return nil
	case err != nil:
		return err
	case !m.on():
		p.wires.wentOff(id)
		return nil
	}
	_, err = p.toLog(ctx, m)
	return err
}

// toLog lets the serial port of a machine go to its log, whose lock is held. It may be
// repeated, and does nothing to one that does.
func (p *Provider) toLog(ctx context.Context, m machine) (machine, error) {
	object, log := machineObject(m.id), p.data.console(m.id)
	if !p.typed(m) {
		p.wires.drop(m.id, m.on()) // of an earlier run of the machine
		if err := os.Remove(p.data.tty(m.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return m, p.fileError(object, err)
		}
		return m, nil
	}
	if err := keepConsole(log); err != nil { // of a process that came no further
		return m, p.fileError(object, err)
	}
	args := []string{"modifyvm", string(m.id), "--uart-mode1", "file", log}
	if m.on() {
		args = []string{"controlvm", string(m.id), "changeuartmode1", "file", log}
	}
	if _, err := p.manage(ctx, m.id, 0, args...); err != nil {
		return m, err
	}
	if !p.wires.drop(m.id, m.on()) {
		if err := noteGap(log); err != nil {
			return m, p.fileError(object, err)
		}
	}
	return p.look(ctx, m.id)
}

// endTyping puts all serial ports back, before the provider is closed.
func (p *Provider) endTyping() {
	p.wires.mu.Lock()
	var ids []types.UID
	for id := range p.wires.of {
		ids = append(ids, id)
	}
	p.wires.mu.Unlock()
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), goodbye)
			defer cancel()
			if p.keys.End(ctx, id) == nil {
				_ = p.settle(ctx, id)
			}
		})
	}
	all.Wait()
}
