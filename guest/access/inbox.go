package access

import (
	"io"
	"sync"
)

// inboxSize is how many bytes of a client's input are kept before its connection is read
// no further, beyond those of the message that passes it.
const inboxSize = 64 << 10

// inbox holds input between a connection and the command that reads it. All that a
// client says comes over one connection: a size of its terminal must not wait behind
// what was typed before, for a command that begins once the size is known.
//
// Its methods may be called at once from several goroutines.
type inbox struct {
	mu      sync.Mutex
	changed sync.Cond
	held    []byte
	// ended is what a reader gets after the rest, closed that nobody reads any more.
	ended  error
	closed bool
}

func newInbox() *inbox {
	b := &inbox{}
	b.changed.L = &b.mu
	return b
}

// put adds p, which is its own from then on, once there is room. Nothing that comes after
// the end is taken: then, and when nobody reads any more, it gives io.ErrClosedPipe.
func (b *inbox) put(p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && b.ended == nil && len(b.held) >= inboxSize {
		b.changed.Wait()
	}
	if b.closed || b.ended != nil {
		return io.ErrClosedPipe
	}
	if len(b.held) == 0 {
		b.held = p
	} else {
		b.held = append(b.held, p...)
	}
	b.changed.Broadcast()
	return nil
}

// end lets a reader get err, or io.EOF for nil, after the rest. The first end counts.
func (b *inbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		err = io.EOF
	}
	if b.ended == nil {
		b.ended = err
	}
	b.changed.Broadcast()
}

// Read waits for input.
func (b *inbox) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && b.ended == nil && len(b.held) == 0 {
		b.changed.Wait()
	}
	switch {
	case b.closed:
		return 0, io.ErrClosedPipe
	case len(b.held) == 0:
		return 0, b.ended
	}
	n := copy(p, b.held)
	if b.held = b.held[n:]; len(b.held) == 0 {
		b.held = nil // a burst is not kept for a client that is silent
	}
	b.changed.Broadcast()
	return n, nil
}

// Close ends all that waits, and drops what was not read.
func (b *inbox) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.held = true, nil
	b.changed.Broadcast()
	return nil
}
