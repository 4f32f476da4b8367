package access

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"sandboxd.dev/sandboxd/guest/wire"
)

const (
	// pingInterval is how often a connection on which nothing is under way is
	// tried, and pingTimeout how long the answer may take.
	pingInterval = 15 * time.Second
	pingTimeout  = time.Minute
	// maxChunk is the most output in one message, in bytes. Common clients
	// read messages of 32 KiB.
	maxChunk = 32<<10 - 1
)

// session is one command's connection.
//
//	client ──▶ read ──▶ stdin (a pipe: the client waits for the guest)
//	client ◀── write ◀── stdout, stderr, result (the guest waits for the client)
//
// A connection that fails ends the command.
type session struct {
	conn   *websocket.Conn
	cancel context.CancelCauseFunc
	stdin  *io.PipeReader
	feed   *io.PipeWriter
	// stalled counts directions in which somebody waits for somebody else: a
	// ping could not get through then, and its silence would mean nothing.
	stalled atomic.Int32
	// maxStdin bounds the input, and tooMuch tells that there was more.
	maxStdin int64
	tooMuch  atomic.Bool
}

func newSession(conn *websocket.Conn, cancel context.CancelCauseFunc, maxStdin int64) *session {
	conn.SetReadLimit(wire.MaxMessage)
	s := &session{conn: conn, cancel: cancel, maxStdin: maxStdin}
	s.stdin, s.feed = io.Pipe()
	return s
}

// start reads from the connection and keeps it alive until stop is called,
// which waits for both. It goes on when the command's context has ended, so
// that the client can still be told the end.
func (s *session) start(ctx context.Context, wantsStdin bool) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { s.read(ctx, wantsStdin) })
	running.Go(func() { s.keepAlive(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// read takes what the client sends until the connection ends.
func (s *session) read(ctx context.Context, wantsStdin bool) {
	open, size := wantsStdin, int64(0)
	for {
		_, message, err := s.conn.Read(ctx)
		if err != nil {
			_ = s.feed.CloseWithError(errClientGone)
			s.cancel(errClientGone)
			return
		}
		if len(message) == 0 {
			continue
		}
		switch channel, data := message[0], message[1:]; {
		case channel == wire.Close && len(data) > 0 && data[0] == wire.Stdin:
			open = false
			_ = s.feed.Close()
		case channel == wire.Stdin && open:
			size += int64(len(data))
			if size > s.maxStdin {
				open = false
				s.tooMuch.Store(true)
				_ = s.feed.CloseWithError(errStdinTooLarge)
				continue
			}
			s.stalled.Add(1)
			_, err := s.feed.Write(data)
			s.stalled.Add(-1)
			open = err == nil // or nobody reads it any more
		}
		// A new size of a terminal that there is none, and input that nobody
		// wants, are dropped.
	}
}

// overflowed tells whether the client sent more input than is allowed.
func (s *session) overflowed() bool { return s.tooMuch.Load() }

// write sends one message.
func (s *session) write(ctx context.Context, channel byte, data []byte) error {
	s.stalled.Add(1)
	defer s.stalled.Add(-1)
	message := make([]byte, 1, 1+len(data))
	message[0] = channel
	return s.conn.Write(ctx, websocket.MessageBinary, append(message, data...))
}

// writer sends what is written to it on a channel.
func (s *session) writer(ctx context.Context, channel byte) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		for done := 0; done < len(p); {
			n := min(len(p)-done, maxChunk)
			if err := s.write(ctx, channel, p[done:done+n]); err != nil {
				s.cancel(errClientGone)
				return done, err
			}
			done += n
		}
		return len(p), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// keepAlive ends the command when the client no longer answers.
func (s *session) keepAlive(ctx context.Context) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.stalled.Load() > 0 {
			continue
		}
		pingCtx, done := context.WithTimeout(ctx, pingTimeout)
		err := s.conn.Ping(pingCtx)
		done()
		if err != nil && ctx.Err() == nil && (s.stalled.Load() == 0 || !errors.Is(err, context.DeadlineExceeded)) {
			s.cancel(errClientGone)
			return
		}
	}
}
