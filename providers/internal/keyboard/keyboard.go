// Package keyboard lets many type at one serial console, of which there is one line.
//
//	first Join ──▶ open ──▶ Line ◀── one goroutine ◀── Write of any typist
//	last Close ──▶ what was handed over is passed on, for a moment ──▶ Line closed
//	End        ──▶ Line closed; the next Write opens one anew
//
// All who type share the line: what they type at the same time is mixed, in pieces.
// A guest that does not read makes them wait, and nobody else: a Write returns when
// its bytes were taken over, when its typist has gone, or when there is no line any
// more.
package keyboard

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// piece is the most that is passed on at once, in bytes.
	piece = 4 << 10
	// farewell is how long a guest may take for what was typed last.
	farewell = time.Second
	// attempts bounds how often a Write finds a line that ends before it is used.
	attempts = 3
)

// Line leads to a console.
type Line interface {
	// Write waits for a guest that does not read, until Close.
	io.WriteCloser
	// Ended is closed when the line has ended by itself.
	Ended() <-chan struct{}
}

// Set keeps the lines, one to a machine.
type Set struct {
	spawn func(func()) bool

	mu    sync.Mutex
	lines map[types.UID]*shared
}

// New makes a Set. spawn runs something in a goroutine, unless it is too late for
// that.
func New(spawn func(func()) bool) *Set {
	return &Set{spawn: spawn, lines: map[types.UID]*shared{}}
}

// shared is a line and those who type at it.
type shared struct {
	typed  chan []byte
	ready  chan struct{} // closed when line or err is there
	line   Line
	err    error
	idle   chan struct{} // closed when nobody types any more
	ended  chan struct{} // closed to end it at once
	end    sync.Once
	over   chan struct{} // closed when the line is closed
	typing int           // guarded by the set's mu
}

// Join gives a typist the line to a machine's console, opened by open if there is
// none. It ends with the context.
func (s *Set) Join(ctx context.Context, id types.UID, open func(context.Context) (Line, error)) (io.WriteCloser, error) {
	t := &typist{ctx: ctx, set: s, id: id, open: open, closed: make(chan struct{})}
	sh, err := s.join(ctx, id, open)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sh = sh
	t.stop = context.AfterFunc(ctx, func() { _ = t.Close() })
	return t, nil
}

// join is Join for whoever leaves again.
func (s *Set) join(ctx context.Context, id types.UID, open func(context.Context) (Line, error)) (*shared, error) {
	for {
		sh, first, wait := s.at(id)
		if wait {
			select {
			case <-sh.over:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if first {
			s.opened(ctx, id, sh, open)
		}
		select {
		case <-sh.ready:
		case <-ctx.Done():
			s.leave(sh)
			return nil, ctx.Err()
		}
		switch {
		case sh.err == nil:
			return sh, nil
		case first || !errors.Is(sh.err, context.Canceled) && !errors.Is(sh.err, context.DeadlineExceeded):
			return nil, sh.err
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		// Whoever opened it has gone away meanwhile.
	}
}

// at finds the line to a machine or begins one. One that is being closed has to be
// waited for.
func (s *Set) at(id types.UID) (sh *shared, first, wait bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh = s.lines[id]; sh != nil {
		select {
		case <-sh.idle:
			return sh, false, true
		case <-sh.ended:
			return sh, false, true
		default:
			sh.typing++
			return sh, false, false
		}
	}
	sh = &shared{
		typed: make(chan []byte), ready: make(chan struct{}), idle: make(chan struct{}),
		ended: make(chan struct{}), over: make(chan struct{}), typing: 1,
	}
	s.lines[id] = sh
	return sh, true, false
}

// opened opens a line and lets it be used.
func (s *Set) opened(ctx context.Context, id types.UID, sh *shared, open func(context.Context) (Line, error)) {
	defer close(sh.ready)
	if sh.line, sh.err = open(ctx); sh.err == nil && !s.spawn(func() { s.pass(id, sh) }) {
		_ = sh.line.Close()
		sh.err = os.ErrClosed
	}
	if sh.err != nil {
		s.forget(id, sh)
	}
}

// forget takes a line out that nobody can use any more.
func (s *Set) forget(id types.UID, sh *shared) {
	sh.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines[id] == sh {
		delete(s.lines, id)
	}
	close(sh.over)
}

func (sh *shared) stop() { sh.end.Do(func() { close(sh.ended) }) }

// pass passes on what is typed until the line ends or nobody types any more.
func (s *Set) pass(id types.UID, sh *shared) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		select {
		case <-sh.ended:
		case <-sh.line.Ended():
		case <-sh.idle:
			select {
			case <-sh.ended: // all is passed on
			case <-sh.line.Ended():
			case <-time.After(farewell):
			}
		}
		sh.stop()
		_ = sh.line.Close()
	}()
	for open := true; open; {
		select {
		case b := <-sh.typed:
			_, err := sh.line.Write(b)
			open = err == nil
		case <-sh.idle:
			open = false
		case <-sh.ended:
			open = false
		}
	}
	sh.stop()
	<-closed
	s.forget(id, sh)
}

// leave takes one of those who type away.
func (s *Set) leave(sh *shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.typing--; sh.typing == 0 {
		close(sh.idle)
	}
}

// Typed tells whether there is a line to a machine's console, or is about to be.
func (s *Set) Typed(id types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.lines[id]
	if sh == nil {
		return false
	}
	select {
	case <-sh.ended:
		return false
	default:
		return true
	}
}

// End closes the line to a machine, if there is one, and waits for that.
func (s *Set) End(ctx context.Context, id types.UID) error {
	s.mu.Lock()
	sh := s.lines[id]
	s.mu.Unlock()
	if sh == nil {
		return nil
	}
	sh.stop()
	select {
	case <-sh.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends all lines. It waits for none.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.lines {
		sh.stop()
	}
}

// typist is one of those who type.
type typist struct {
	ctx  context.Context
	set  *Set
	id   types.UID
	open func(context.Context) (Line, error)
	stop func() bool

	writing sync.Mutex
	mu      sync.Mutex
	sh      *shared // nil when it has left
	once    sync.Once
	closed  chan struct{}
}

// Write implements io.Writer. A line that has ended since, because the machine or the
// hypervisor's daemon was started anew, is opened again.
func (t *typist) Write(b []byte) (n int, err error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	for len(b) > 0 {
		part := append([]byte(nil), b[:min(len(b), piece)]...)
		if err := t.hand(part); err != nil {
			return n, err
		}
		n, b = n+len(part), b[len(part):]
	}
	return n, nil
}

// hand hands a piece over.
func (t *typist) hand(part []byte) error {
	for range attempts {
		t.mu.Lock()
		sh := t.sh
		t.mu.Unlock()
		if sh == nil || t.ctx.Err() != nil {
			return t.left()
		}
		select {
		case <-sh.ended:
		default:
			select {
			case sh.typed <- part:
				return nil
			case <-t.closed:
				return t.left()
			case <-sh.ended:
			}
		}
		if err := t.again(sh); err != nil {
			return err
		}
	}
	return io.ErrClosedPipe
}

// again joins the line that comes after one that has ended.
func (t *typist) again(was *shared) error {
	sh, err := t.set.join(t.ctx, t.id, t.open)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sh == nil {
		t.set.leave(sh)
		return t.left()
	}
	t.sh = sh
	t.set.leave(was)
	return nil
}

func (t *typist) left() error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	return os.ErrClosed
}

// Close implements io.Closer. It does not wait.
func (t *typist) Close() error {
	t.once.Do(func() {
		close(t.closed)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.set.leave(t.sh)
		t.sh = nil
		if t.stop != nil {
			t.stop()
		}
	})
	return nil
}
