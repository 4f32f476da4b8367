package guestio

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// Gather reads ahead of who passes an input on to a guest, so that what is there
// goes in few pieces and what is typed goes at once.
//
//	reader ──▶ at most so many bytes ──Take──▶ guest
//
// Its reading goes on until the reader ends, or delivers something after Close.
type Gather struct {
	most int

	mu      sync.Mutex
	buf     []byte
	err     error
	closed  bool
	changed chan struct{} // closed and replaced at every change
}

// NewGather begins to read.
func NewGather(r io.Reader, most int) *Gather {
	g := &Gather{most: most, changed: make(chan struct{})}
	go g.read(r)
	return g
}

// wake needs the lock.
func (g *Gather) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Gather) read(r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		g.mu.Lock()
		for len(g.buf) > 0 && len(g.buf)+n > g.most && !g.closed {
			changed := g.changed
			g.mu.Unlock()
			<-changed
			g.mu.Lock()
		}
		g.buf = append(g.buf, buf[:n]...)
		g.err = err
		g.wake()
		over := err != nil || g.closed
		g.mu.Unlock()
		if over {
			return
		}
	}
}

// Settle waits a moment for the end of a short input. It returns what there is,
// which Take still gives, and whether that is all; or the error of a reader that
// fails at once.
func (g *Gather) Settle(ctx context.Context, moment time.Duration) (all []byte, ended bool, err error) {
	t := time.NewTimer(moment)
	defer t.Stop()
	for {
		g.mu.Lock()
		all, changed, err := g.buf, g.changed, g.err
		g.mu.Unlock()
		switch {
		case errors.Is(err, io.EOF):
			return all, true, nil
		case err != nil:
			return nil, false, err
		}
		select {
		case <-changed:
		case <-t.C:
			return all, false, nil
		case <-ctx.Done():
			return all, false, nil
		}
	}
}

// Take waits for something, or for the end or an error of the reader, and returns
// all that there is.
func (g *Gather) Take(ctx context.Context) ([]byte, error) {
	for {
		g.mu.Lock()
		data, changed, err := g.buf, g.changed, g.err
		if len(data) > 0 {
			g.buf = nil
			g.wake()
			err = nil
		}
		g.mu.Unlock()
		if len(data) > 0 || err != nil {
			return data, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Reader reads what Take gives, until the context ends.
func (g *Gather) Reader(ctx context.Context) io.Reader { return &gathered{g: g, ctx: ctx} }

type gathered struct {
	g    *Gather
	ctx  context.Context
	rest []byte
}

// Read implements io.Reader.
func (r *gathered) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		var err error
		if r.rest, err = r.g.Take(r.ctx); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close says that nobody will take anything any more.
func (g *Gather) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.wake()
}
