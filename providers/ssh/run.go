package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

// bootstrap is all that the user's login shell is told. It is the same in every
// shell: nothing in it is special between single quotes.
const bootstrap = `exec /bin/sh -c 'IFS= read -r s && eval "$(printf %b "$s")"'`

// run is one script under way: its streams, and what it has reported.
type run struct {
	command        string    // what the login shell is told
	line           string    // of the script; empty when command leads to it
	in             io.Reader // what follows; nil for nothing
	terminal       *terminal // what it has for its streams; nil for none
	stdout, stderr *stream
	tellers        int           // streams that report
	live           bool          // it may end before its input does
	starve         func()        // ends the wait for more input, of one that is live
	started        chan struct{} // closed when the command is started
	ended          chan struct{} // closed when all streams have reported the end

	mu      sync.Mutex // held while output is passed on: both streams may have one writer
	begun   bool
	sealed  bool
	reports int
	word    string // the report of the end
	failed  error  // of the caller's writers
	onFail  func()
	exit    error // how the session ended
}

// newRun makes a run whose output goes to out and errOut; nil discards. token
// marks the script's reports.
func newRun(token string, out, errOut func([]byte) error) *run {
	r := &run{command: bootstrap, tellers: 2, started: make(chan struct{}), ended: make(chan struct{}), onFail: func() {}}
	r.stdout, r.stderr = newStream(r, token, out), newStream(r, token, errOut)
	return r
}

// do runs a script until it has reported its end or failed. When the context ends or the input fails, interrupt is called,
// unless it is nil, and the script, whose input ends, gets a while to end too, so
// that what is cleaned up afterwards is not made again.
func (c *connection) do(ctx context.Context, r *run, interrupt func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	r.onFail = func() { cancel(nil) }
	r.mu.Unlock()

	session, stdin, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer guestio.Awaited(r.started, c.limits.start, cancel)()
	gone := make(chan struct{})
	c.running.Go(func() {
		defer close(gone)
		err := session.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.exit = err
	})
	defer func() { _ = session.Close() }()
	if r.terminal != nil {
		c.running.Go(func() { r.terminal.follow(ctx, session) })
	}
	fed := c.feedAndAttend(ctx, r, session, stdin, gone)
	if fed != nil || ctx.Err() != nil {
		if r.terminal != nil {
			_ = session.Close()
			await(c.limits.hangup, c.lost, nil)
		}
		if interrupt != nil {
			interrupt()
		}
		if !r.hasFailed() { // or nobody wants to hear more of it
			await(c.limits.settle, gone, r.ended)
		}
	}
	return r.verdict(ctx, fed)
}

// feedAndAttend feeds the script and waits until it has ended, its input has
// failed, or the context has ended. It returns the input's error. A script that is
// not live reads all of its input, and only then ends.
func (c *connection) feedAndAttend(ctx context.Context, r *run, session *xssh.Session, stdin io.WriteCloser, gone <-chan struct{}) error {
	if !r.live {
		if err := c.feed(ctx, r, session, stdin, nil); err != nil {
			return err
		}
		return r.attend(ctx, gone, nil)
	}
	feeding, starve := context.WithCancel(ctx)
	fedUp := make(chan error, 2)
	var beside sync.WaitGroup
	beside.Go(func() { fedUp <- c.feed(feeding, r, session, stdin, fedUp) })
	err := r.attend(ctx, gone, fedUp)
	if err == nil && ctx.Err() == nil {
		_ = session.Close() // what is left of the input has nowhere to go
	}
	starve()
	r.starve() // it may be waiting for its caller
	beside.Wait()
	return err
}

// attend waits until the script has ended, its input has failed, or the context
// has ended. It returns the input's error.
func (r *run) attend(ctx context.Context, gone <-chan struct{}, fedUp <-chan error) error {
	failed := func() error { // before it ended
		select {
		case err := <-fedUp:
			return err
		default:
			return nil
		}
	}
	for {
		select {
		case <-r.ended:
			await(linger, gone, nil)
			return failed()
		case <-gone:
			return failed()
		case <-ctx.Done():
			return nil
		case err := <-fedUp:
			if err != nil {
				return err
			}
			fedUp = nil
		}
	}
}

// open starts the shell that reads the line. Nothing runs before it has got that,
// so that opening may be tried again.
func (c *connection) open(ctx context.Context, r *run) (*xssh.Session, io.WriteCloser, error) {
	for attempt := 1; ; attempt++ {
		session, stdin, err := c.tryOpen(ctx, r)
		switch {
		case err == nil:
			return session, stdin, nil
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case c.isLost():
			return nil, nil, errLost
		case !errors.Is(err, io.EOF) || attempt == openAttempts:
			return nil, nil, err
		}
		await(linger, ctx.Done(), c.lost)
	}
}

func (c *connection) tryOpen(ctx context.Context, r *run) (*xssh.Session, io.WriteCloser, error) {
	o := c.guard(ctx, func() opened {
		if err := c.check(); err != nil {
			return opened{err: err}
		}
		session, err := c.client.NewSession()
		switch {
		case errors.Is(err, io.EOF):
			return opened{err: fmt.Errorf("%w: it opens no session: %w", guestcall.ErrRefused, err)}
		case err != nil:
			return opened{err: fmt.Errorf("%w: it opens no session: %s", guestcall.ErrRefused, guestcall.Printable(err.Error()))}
		}
		session.Stdout, session.Stderr = r.stdout, r.stderr
		stdin, err := session.StdinPipe()
		if err != nil {
			return opened{err: err}
		}
		if r.terminal != nil {
			if err := r.terminal.request(session); err != nil {
				_ = session.Close()
				return opened{err: err}
			}
			stdin = unending{stdin}
		}
		if err = session.Start(r.command); err != nil {
			_ = session.Close()
			return opened{err: fmt.Errorf("%w: it starts no shell: %w", guestcall.ErrRefused, err)}
		}
		return opened{session: session, stdin: stdin}
	})
	return o.session, o.stdin, o.err
}

// feed hands over the line and the input, and ends it. Of its errors only those of
// the reader and the context's are returned: why else the script did not take its
// input, it reports itself. failed is told of the reader's before the script can
// take what there was for all.
func (c *connection) feed(ctx context.Context, r *run, session *xssh.Session, stdin io.WriteCloser, failed chan<- error) error {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		// A write may be waiting for the script to read, or for a server that
		// does not even end the session.
		if !await(goodbye, over, nil) {
			_ = session.Close()
		}
		if !await(goodbye, over, nil) {
			_ = c.client.Close()
		}
	})
	var err error
	if r.line != "" {
		_, err = io.WriteString(stdin, r.line+"\n")
	}
	if err == nil && r.in != nil {
		_, err = io.Copy(stdin, guestcall.Input(ctx, r.in))
	}
	if failed != nil && errors.Is(err, guestcall.ErrCaller) {
		failed <- err
	}
	_ = stdin.Close()
	close(over)
	switch {
	case errors.Is(err, guestcall.ErrCaller):
		stop()
		return err
	case !stop():
		return ctx.Err()
	default:
		return nil
	}
}

// await waits until a or b is closed, but not for long.
func await(most time.Duration, a, b <-chan struct{}) bool {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-a:
		return true
	case <-b:
		return true
	case <-t.C:
		return false
	}
}

func (r *run) hasFailed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed != nil
}

// verdict ends the run: from now on nothing is passed on.
func (r *run) verdict(ctx context.Context, fed error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed = true
	var status *xssh.ExitError
	switch {
	case r.failed != nil:
		return r.failed
	case errors.Is(context.Cause(ctx), guestio.ErrNotStarted):
		return context.Cause(ctx)
	case fed != nil:
		return fed
	case r.reports == r.tellers:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case !r.begun && (r.exit == nil || errors.As(r.exit, &status)):
		return fmt.Errorf("%w: the user's login shell ended without having run /bin/sh", guestcall.ErrRefused)
	case errors.As(r.exit, &status) && status.Signal() != "" && status.ExitStatus() > 128 && status.ExitStatus() < 256:
		r.word = fmt.Sprintf("done %d", status.ExitStatus()) // somebody in the guest killed the script itself
		return nil
	default:
		return fmt.Errorf("%w before the end of the command was known", errLost)
	}
}

// report notes what the script said of itself.
func (r *run) report(word string) {
	if word == "start" {
		if !r.begun {
			r.begun = true
			close(r.started)
		}
		return
	}
	r.word = word
	if r.reports++; r.reports == r.tellers {
		close(r.ended)
	}
}

// stream is one that a script prints to. What comes before the report of the start
// is the login shell's own.
type stream struct {
	run   *run
	split *guestio.Splitter
	out   func([]byte) error // nil discards
}

func newStream(r *run, token string, out func([]byte) error) *stream {
	s := &stream{run: r, out: out}
	s.split = guestio.NewSplitter(token, s.deliver, r.report)
	return s
}

// Write implements io.Writer. It never fails, and goes on when nobody wants the
// output any more, so that the session comes to its end.
func (s *stream) Write(p []byte) (int, error) {
	s.run.mu.Lock()
	defer s.run.mu.Unlock()
	if !s.run.sealed {
		s.split.Take(p)
	}
	return len(p), nil
}

func (s *stream) deliver(p []byte) {
	if s.out == nil || s.run.failed != nil {
		return
	}
	if err := s.out(p); err != nil {
		s.run.failed = err
		s.run.onFail()
	}
}
