package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

// outlet is one stream of a command under way.
type outlet interface {
	// tail passes on what is there; that nothing is there yet is no error.
	tail(ctx context.Context) error
	// drain passes on the rest of a command that has ended, or was killed.
	drain(ctx context.Context, killed bool) error
	close(ctx context.Context) error
	dropped() bool
	// passed is how many bytes were read so far.
	passed() int64
}

const (
	// smallestFile is what a file of a pumped stream has at least once the next
	// one has begun: 64 reads of a pipe.
	smallestFile = 64
	// stragglers is how long the output of a killed command is waited for, if
	// nothing comes.
	stragglers = 300 * time.Millisecond
)

// pumped is an output that goes through a pipe into a row of files, each of which
// is removed once it was read, so that there is little of it in the guest however
// much it is. run.sh marks its beginning and its end.
type pumped struct {
	c      *Client
	path   string // of the files, without the number
	out    *guestio.Output
	split  *guestio.Splitter
	failed error // of the caller's writer

	n      int // the file that is read
	open   bool
	handle int64
	read   int64 // of this file
	total  int64
}

func newPumped(c *Client, path, token string, out *guestio.Output) *pumped {
	p := &pumped{c: c, path: path, out: out}
	p.split = guestio.NewSplitter(token, func(b []byte) {
		if p.failed == nil {
			p.failed = out.Deliver(b)
		}
	}, func(string) {})
	return p
}

func (p *pumped) file(n int) string { return fmt.Sprintf("%s.%d", p.path, n) }

func (p *pumped) tail(ctx context.Context) error {
	for !p.split.Ended() {
		if !p.open {
			handle, err := p.c.open(ctx, p.file(p.n), "r")
			if errors.Is(err, guestcall.ErrRefused) {
				return nil
			}
			if err != nil {
				return err
			}
			p.handle, p.open, p.read = handle, true, 0
		}
		if err := p.rest(ctx); err != nil || p.split.Ended() || p.read < smallestFile {
			return err
		}
		next, err := p.c.open(ctx, p.file(p.n+1), "r")
		if errors.Is(err, guestcall.ErrRefused) {
			return nil
		}
		if err != nil {
			return err
		}
		// What came between the last look and the beginning of the next file.
		err = first(p.rest(ctx), p.close(ctx), p.remove(ctx))
		p.handle, p.open, p.read = next, true, 0
		p.n++
		if err != nil {
			return err
		}
	}
	return nil
}

// rest reads the open file up to its present end.
func (p *pumped) rest(ctx context.Context) error {
	for !p.split.Ended() {
		data, _, err := p.c.read(ctx, p.handle, chunk)
		if err != nil {
			return err
		}
		p.read += int64(len(data))
		p.total += int64(len(data))
		p.split.Take(data)
		if p.failed != nil {
			return p.failed
		}
		if len(data) < chunk {
			return nil
		}
	}
	return nil
}

func (p *pumped) remove(ctx context.Context) error {
	_, err := p.c.shell(ctx, `rm -f "$1"`, nil, p.file(p.n))
	return err
}

// drain waits for the mark of the end, which a command that was killed does not
// make.
func (p *pumped) drain(ctx context.Context, killed bool) error {
	patience := silence
	if killed {
		patience = stragglers
	}
	var pause pace
	for quiet := time.Now(); !p.split.Ended() && time.Since(quiet) < patience; {
		before := p.total
		if err := p.tail(ctx); err != nil {
			return err
		}
		if p.total != before {
			quiet, pause = time.Now(), pace{}
		}
		if p.split.Ended() {
			break
		}
		if err := pause.pause(ctx); err != nil {
			return err
		}
	}
	return p.close(ctx)
}

func (p *pumped) close(ctx context.Context) error {
	if !p.open {
		return nil
	}
	p.open = false
	return p.c.close(ctx, p.handle)
}

func (p *pumped) dropped() bool { return p.out.Dropped() }

func (p *pumped) passed() int64 { return p.total }
