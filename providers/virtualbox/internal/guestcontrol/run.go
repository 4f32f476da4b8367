package guestcontrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
)

// run is one script under way: its streams, and what it has reported.
type run struct {
	ctx            context.Context
	cancel         context.CancelCauseFunc
	stdout, stderr *stream
	started        chan struct{} // closed when the command is started
	ended          chan struct{} // closed when both streams have reported the end
	over           chan struct{} // closed when nobody waits for VBoxManage any more

	mu      sync.Mutex
	word    string // the report of the end
	reports int
	begun   bool
	failed  error // of the caller's writers
}

// newRun makes a run whose output goes to out and errOut; nil discards.
func newRun(ctx context.Context, token string, out, errOut func([]byte) error) *run {
	r := &run{started: make(chan struct{}), ended: make(chan struct{}), over: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	mark := []byte("\x01" + token + " ")
	r.stdout = &stream{run: r, mark: mark, out: out}
	r.stderr = &stream{run: r, mark: mark, out: errOut}
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
		select {
		case <-r.started:
			if halt != nil && !errors.Is(context.Cause(r.ctx), ErrGone) {
				halt()
			}
		default: // there is but the shell, which ends with VBoxManage
		}
		end()
		<-done
		err = context.Cause(r.ctx)
	}
	defer r.cancel(nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failed != nil:
		return r.failed
	case r.reports == 2:
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("%w: its shell ended without a report", ErrRefused)
	}
}

func (r *run) verdict() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.word
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
	r.word = word
	if r.reports++; r.reports == 2 {
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

// maxReport bounds a report, in bytes.
const maxReport = 100

// stream passes on what a script prints and takes the reports out of it. What
// comes before the report of the start and after that of the end is VBoxManage's
// own, or of what the command left in the background, and dropped.
type stream struct {
	run  *run
	mark []byte
	out  func([]byte) error

	held  []byte // what may be the beginning of a report
	begun bool
	ended bool
}

// Write implements io.Writer. It never fails: a writer that did would make
// VBoxManage's end look like its own.
func (s *stream) Write(p []byte) (int, error) {
	n := len(p)
	if s.ended {
		return n, nil
	}
	select {
	case <-s.run.ctx.Done():
		<-s.run.over
		return n, nil
	default:
	}
	if len(s.held) > 0 {
		p = append(s.held, p...)
		s.held = nil
	}
	for len(p) > 0 && !s.ended {
		i := bytes.Index(p, s.mark)
		if i < 0 {
			keep := overlap(p, s.mark)
			s.deliver(p[:len(p)-keep])
			s.held = bytes.Clone(p[len(p)-keep:])
			break
		}
		s.deliver(p[:i])
		rest := p[i+len(s.mark):]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 && len(rest) < maxReport {
			s.held = bytes.Clone(p[i:])
			break
		}
		word := string(rest[:max(0, end)])
		s.begun, s.ended = true, word != "start"
		s.run.report(word)
		p = rest[end+1:]
	}
	return n, nil
}

// overlap is how many bytes at the end of p may be the beginning of mark.
func overlap(p, mark []byte) int {
	for n := min(len(p), len(mark)-1); n > 0; n-- {
		if bytes.HasSuffix(p, mark[:n]) {
			return n
		}
	}
	return 0
}

func (s *stream) deliver(p []byte) {
	if len(p) == 0 || s.out == nil || !s.begun {
		return
	}
	if err := s.out(p); err != nil {
		s.out = nil
		s.run.fail(fmt.Errorf("%w: output: %w", ErrCaller, err))
	}
}

// bounded passes at most limit bytes on to a writer; nil discards.
type bounded struct {
	mu      *sync.Mutex // both streams may have one writer
	w       io.Writer
	left    int64
	dropped bool
}

func (b *bounded) deliver(p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if int64(len(p)) > b.left {
		p, b.dropped = p[:b.left], true
	}
	b.left -= int64(len(p))
	if b.w == nil || len(p) == 0 {
		return nil
	}
	_, err := b.w.Write(p)
	return err
}

// Printable makes guest text fit for a message: one line of at most 200 printable
// characters.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s[:min(len(s), 400)])
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "..."
	}
	return s
}
