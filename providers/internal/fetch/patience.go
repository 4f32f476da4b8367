package fetch

import (
	"context"
	"errors"
	"io"
	"time"
)

// errStalled ends a request whose server sends nothing.
var errStalled = errors.New("the server sent nothing")

// patience ends a request whose server is waited for too long. What the own disk takes is
// no part of that: a host that is slow to write has no server that says nothing. A nil
// one waits for ever.
type patience struct {
	limit time.Duration
	timer *time.Timer
}

// newPatience ends a request by cancel.
func newPatience(limit time.Duration, cancel context.CancelCauseFunc) *patience {
	p := &patience{limit: limit, timer: time.AfterFunc(limit, func() { cancel(errStalled) })}
	p.rest()
	return p
}

// wait is called before the server is waited for, and rest after.
func (p *patience) wait() {
	if p != nil {
		p.timer.Reset(p.limit)
	}
}

func (p *patience) rest() {
	if p != nil {
		p.timer.Stop()
	}
}

// awaited is the body of an answer, each part of which is waited for.
type awaited struct {
	io.ReadCloser
	patience *patience
}

func (a awaited) Read(p []byte) (int, error) {
	a.patience.wait()
	defer a.patience.rest()
	return a.ReadCloser.Read(p)
}
