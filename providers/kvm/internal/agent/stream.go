package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// shrinkEvery is how often the file of a stream is emptied whose output is
// dropped anyway, so that an endless writer does not fill the guest's disk.
const shrinkEvery = 2 * time.Second

// stream is one output of a command, which grows in a file of the guest.
type stream struct {
	c     *Client
	path  string
	w     io.Writer // nil discards
	limit int64

	open    bool
	handle  int64
	read    int64 // bytes read from the file
	dropped bool  // output beyond the limit was dropped
	shrunk  time.Time
}

// tail reads what there is while the command runs. That the file cannot be
// opened means that it is not there yet, or not any more: run.sh removes it
// when it reports a short output itself.
func (s *stream) tail(ctx context.Context) error {
	if s.dropped {
		return s.shrink(ctx)
	}
	if err := s.ensureOpen(ctx); err != nil {
		if errors.Is(err, ErrRefused) {
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
	for !s.dropped {
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

// deliver passes output on, up to the limit.
func (s *stream) deliver(data []byte) error {
	room := s.limit - s.read
	s.read += int64(len(data))
	if int64(len(data)) > room {
		data, s.dropped = data[:max(0, room)], true
	}
	if s.w == nil || len(data) == 0 {
		return nil
	}
	if _, err := s.w.Write(data); err != nil {
		return fmt.Errorf("%w: output: %w", ErrCaller, err)
	}
	return nil
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

func (s *stream) close(ctx context.Context) error {
	if !s.open {
		return nil
	}
	s.open = false
	return s.c.close(ctx, s.handle)
}
