package fake

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// maxConsole bounds the log of a console, in bytes; the oldest go first.
const maxConsole = 1 << 20

// console is the log of a serial console.
type console struct {
	mu      sync.Mutex
	buf     []byte
	dropped int64         // bytes that came before buf
	changed chan struct{} // closed and replaced at every change
	gone    bool
}

func newConsole() *console { return &console{changed: make(chan struct{})} }

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, p...)
	if over := len(c.buf) - maxConsole; over > 0 {
		// Half is dropped at a time, so that a full log stays cheap to write.
		over = max(over, maxConsole/2)
		c.buf = append([]byte(nil), c.buf[over:]...)
		c.dropped += int64(over)
	}
	c.wake()
	return len(p), nil
}

func (c *console) printf(format string, args ...any) { fmt.Fprintf(c, format, args...) }

// remove ends those who follow the log.
func (c *console) remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	c.wake()
}

// wake needs the lock.
func (c *console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// consoleReader reads a log from a position on.
type consoleReader struct {
	ctx    context.Context
	cancel context.CancelFunc
	c      *console
	next   int64
	follow bool
}

// reader starts tail bytes before the end, or at the beginning if tail is
// negative.
func (c *console) reader(ctx context.Context, tail int64, follow bool) *consoleReader {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := c.dropped
	if end := c.dropped + int64(len(c.buf)); tail >= 0 {
		start = max(start, end-tail)
	}
	ctx, cancel := context.WithCancel(ctx)
	return &consoleReader{ctx: ctx, cancel: cancel, c: c, next: start, follow: follow}
}

// Read implements io.Reader.
func (r *consoleReader) Read(p []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		n, changed, gone := r.take(p)
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if gone || !r.follow {
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
		}
	}
}

func (r *consoleReader) take(p []byte) (n int, changed chan struct{}, gone bool) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.next = max(r.next, r.c.dropped)
	n = copy(p, r.c.buf[r.next-r.c.dropped:])
	r.next += int64(n)
	return n, r.c.changed, r.c.gone
}

// Close implements io.Closer.
func (r *consoleReader) Close() error {
	r.cancel()
	return nil
}
