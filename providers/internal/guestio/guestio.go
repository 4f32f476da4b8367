// Package guestio takes apart what the scripts print that run commands in guests,
// where one stream carries both the command's output and the script's reports.
//
//	banner \001TOKEN start\n output \001TOKEN done CODE\n remains
//	dropped      report      passed on        report      dropped
//
// Nobody in the guest can guess the token in advance. What comes before the
// report of the start and after that of the end is of the way into the guest, or
// of what the command has left in the background.
package guestio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

// maxReport bounds a report, in bytes.
const maxReport = 100

// StartLimit is how long a guest that was given a script may take until it reports
// the start. An interpreted one on a busy host, whose Guest Additions are not ready
// yet, takes minutes; a hostile one never does it.
const StartLimit = 5 * time.Minute

// ErrNotStarted, as the cause of a context's end: the guest has not begun with a
// script in time.
var ErrNotStarted = errors.New("the guest did not start the command")

// Awaited calls f, with an ErrNotStarted, unless a script is started within a limit
// or nobody waits for it any more.
func Awaited(started <-chan struct{}, limit time.Duration, f func(error)) (stop func()) {
	t := time.AfterFunc(limit, func() {
		select {
		case <-started:
		default:
			f(fmt.Errorf("%w within %v", ErrNotStarted, limit))
		}
	})
	return func() { t.Stop() }
}

// Splitter takes one stream apart. It is not safe for concurrent use.
type Splitter struct {
	mark   []byte
	out    func([]byte)
	report func(word string)

	held  []byte // what may be the beginning of a report
	begun bool
	ended bool
}

// NewSplitter makes a Splitter that passes output on to out and what the script
// says of itself, "start" first, what Took reads in between, and one other word last,
// to report.
func NewSplitter(token string, out func([]byte), report func(word string)) *Splitter {
	return &Splitter{mark: []byte("\x01" + token + " "), out: out, report: report}
}

// Take takes the next piece of the stream, cut anywhere.
func (s *Splitter) Take(p []byte) {
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
		word := strings.TrimSuffix(string(rest[:max(0, end)]), "\r") // terminals add it
		_, took := Took(word)
		s.begun, s.ended = true, word != "start" && !took
		s.report(word)
		p = rest[end+1:]
	}
}

// Took reads the report that the command has taken a piece of its input.
func Took(word string) (piece string, ok bool) { return strings.CutPrefix(word, "took ") }

// Ended tells whether the script has reported its end: the rest is dropped.
func (s *Splitter) Ended() bool { return s.ended }

func (s *Splitter) deliver(p []byte) {
	if len(p) > 0 && s.begun {
		s.out(p)
	}
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

// Output passes one stream of a command on to its caller, up to a limit. Both
// outputs of a command may be used at the same time.
type Output struct {
	mu      *sync.Mutex // both may have one writer
	w       io.Writer
	left    int64
	dropped bool
}

// Outputs makes those of a command, as its request bounds them.
func Outputs(req providers.ExecRequest) (stdout, stderr *Output) {
	limit := req.MaxOutput
	if limit == 0 {
		limit = providers.DefaultMaxOutput
	}
	mu := new(sync.Mutex)
	return &Output{mu: mu, w: req.Stdout, left: limit}, &Output{mu: mu, w: req.Stderr, left: limit}
}

// Deliver passes on what fits. An error of the writer is guestcall.ErrCaller.
func (o *Output) Deliver(p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if int64(len(p)) > o.left {
		p, o.dropped = p[:o.left], true
	}
	o.left -= int64(len(p))
	if o.w == nil || len(p) == 0 {
		return nil
	}
	if _, err := o.w.Write(p); err != nil {
		return guestcall.OutputError(err)
	}
	return nil
}

// Dropped tells whether there was more than the limit.
func (o *Output) Dropped() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// After calls f so long after a command was started, unless it is stopped before;
// 0 means never.
func After(started <-chan struct{}, timeout time.Duration, f func()) (stop func()) {
	if timeout == 0 {
		return func() {}
	}
	over := make(chan struct{})
	go func() {
		select {
		case <-started:
		case <-over:
			return
		}
		t := time.NewTimer(timeout)
		defer t.Stop()
		select {
		case <-t.C:
			f()
		case <-over:
		}
	}()
	return func() { close(over) }
}
