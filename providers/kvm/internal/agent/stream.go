package agent

import (
	"context"
	"errors"
	"time"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

// shrinkEvery is how often the file of a stream is emptied whose output is
// dropped anyway, so that an endless writer does not fill the guest's disk.
const shrinkEvery = 2 * time.Second

// stream is one output of a command, which grows in a file of the guest.
type stream struct {
	c    *Client
	path string
	out  *guestio.Output

	open   bool
	handle int64
	read   int64 // bytes read from the file
	shrunk time.Time
}

// tail reads what there is while the command runs. That the file cannot be
// opened means that it is not there yet, or not any more: run.sh removes it
// when it reports a short output itself.
func (s *stream) tail(ctx context.Context) error {
	if s.out.Dropped() {
		return s.shrink(ctx)
	}
	if err := s.ensureOpen(ctx); err != nil {
		if errors.Is(err, guestcall.ErrRefused) {
			return nil
		}
		return err
	}
	return s.rest(ctx)
}

func (s *stream) ensureOpen(ctx context.Context) (err error) {
	if !s.open {
		s.handle, err = s.c.open(ctx, s.path, "r")
		s.open = err == nil
	}
	return err
}

// rest reads an open file up to its present end.
func (s *stream) rest(ctx context.Context) error {
	for !s.out.Dropped() {
		data, _, err := s.c.read(ctx, s.handle, chunk)
		if err != nil {
			return err
		}
		if err := s.deliver(data); err != nil {
			return err
		}
		if len(data) < chunk {
			return nil
		}
	}
	return nil
}

// deliver passes output on.
func (s *stream) deliver(data []byte) error {
	s.read += int64(len(data))
	return s.out.Deliver(data)
}

// shrink empties the file. Its writers append, so it starts anew.
func (s *stream) shrink(ctx context.Context) error {
	if time.Since(s.shrunk) < shrinkEvery {
		return nil
	}
	s.shrunk = time.Now()
	_, err := s.c.shell(ctx, `: >"$1"`, nil, s.path)
	return err
}

// drain reads the file to its end.
func (s *stream) drain(ctx context.Context, _ bool) error {
	if s.out.Dropped() {
		return s.close(ctx)
	}
	err := s.ensureOpen(ctx)
	if err == nil {
		err = s.rest(ctx)
	}
	return first(err, s.close(ctx))
}

func (s *stream) dropped() bool { return s.out.Dropped() }

func (s *stream) passed() int64 { return s.read }

func (s *stream) close(ctx context.Context) error {
	if !s.open {
		return nil
	}
	s.open = false
	return s.c.close(ctx, s.handle)
}
