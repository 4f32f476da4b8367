package guestcontrol

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

// run is one script under way: its streams, and what it has reported.
type run struct {
	ctx            context.Context
	cancel         context.CancelCauseFunc
	stdout, stderr *stream
	given          atomic.Bool   // whether the guest was given it
	tellers        int           // streams that report
	started        chan struct{} // closed when the command is started
	ended          chan struct{} // closed when all streams have reported the end
	took           chan string   // numbers of pieces of input that the command has taken
	over           chan struct{} // closed when nobody waits for VBoxManage any more

	mu      sync.Mutex
	word    string // the report of the end
	reports int
	begun   bool
	failed  error // of the caller's writers
}

// newRun makes a run whose output goes to out and errOut; nil discards.
func newRun(ctx context.Context, token string, out, errOut func([]byte) error) *run {
	r := &run{tellers: 2, started: make(chan struct{}), ended: make(chan struct{}), over: make(chan struct{}), took: make(chan string, 1)}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.stdout, r.stderr = newStream(r, token, out), newStream(r, token, errOut)
	return r
}

// wait runs the script until it has reported its end or failed. When the run is
// to end before, halt is called first if there is anything to halt: as long as
// VBoxManage is there, the guest does not lose sight of what it has started.
// Meanwhile no output is taken, so that a command which prints without end comes
// to a halt and leaves the guest time to be killed by.
func (r *run) wait(do func(context.Context) error, halt func()) error {
	client, cancel := context.WithCancel(context.WithoutCancel(r.ctx))
	end := sync.OnceFunc(func() {
		cancel()
		close(r.over)
	})
	defer end()
	done := make(chan error, 1)
	go func() { done <- do(client) }()
	var err error
	select {
	case err = <-done:
	case <-r.ended:
		// VBoxManage goes on as long as something in the background has the
		// streams.
		t := time.AfterFunc(goodbye, end)
		defer t.Stop()
		err = <-done
	case <-r.ctx.Done():
		// Even if no start was reported: it may be on its way to us.
		cause := context.Cause(r.ctx)
		if halt != nil && r.given.Load() && !errors.Is(cause, ErrGone) && !errors.Is(cause, guestio.ErrNotStarted) {
			halt()
		}
		end()
		<-done //nolint:errcheck // the cause says it
		err = context.Cause(r.ctx)
	}
	defer r.cancel(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failed != nil:
		return r.failed
	case r.reports >= r.tellers:
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("%w: its shell ended without a report", guestcall.ErrRefused)
	}
}

func (r *run) verdict() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.word
}

// hasBegun tells whether the script has reported anything.
func (r *run) hasBegun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begun || r.reports > 0
}

// report notes what the script said of itself.
func (r *run) report(word string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if word == "start" {
		if !r.begun {
			r.begun = true
			close(r.started)
		}
		return
	}
	if piece, ok := guestio.Took(word); ok {
		select {
		case r.took <- piece:
		default: // nobody has sent so many
		}
		return
	}
	r.word = word
	if r.reports++; r.reports == r.tellers {
		close(r.ended)
	}
}

// fail notes an error of the caller's and ends the run.
func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
	}
	r.cancel(r.failed)
}

// stream is one that a script prints to. What comes before the report of the start
// is VBoxManage's own.
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

// Write implements io.Writer. It never fails: a writer that did would make
// VBoxManage's end look like its own.
func (s *stream) Write(p []byte) (int, error) {
	if s.split.Ended() {
		return len(p), nil
	}
	select {
	case <-s.run.ctx.Done():
		<-s.run.over
	default:
		s.split.Take(p)
	}
	return len(p), nil
}

func (s *stream) deliver(p []byte) {
	if s.out == nil {
		return
	}
	if err := s.out(p); err != nil {
		s.out = nil
		s.run.fail(err)
	}
}
