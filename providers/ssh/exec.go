package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// Exec runs a command.
func (c *Client) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	if err := guestcall.CheckExec(req); err != nil {
		return providers.ExecResult{}, c.kind(ctx, err)
	}
	var result providers.ExecResult
	reached := false
	err := c.inGuest(ctx, func(conn *connection) (err error) {
		reached = true
		release, err := conn.reserve(ctx)
		if err != nil {
			return err
		}
		defer release()
		result, err = conn.exec(ctx, req)
		return err
	})
	if !reached {
		err = providers.NotReached(err)
	}
	return result, err
}

func (c *connection) exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	dir := "/tmp/.sandboxd-" + guestscript.Token()
	stdout, stderr := guestio.Outputs(req)
	feeding, starve := context.WithCancel(ctx)
	defer starve()
	var ahead *guestio.Gather
	if req.Stdin != nil {
		ahead = guestio.NewGather(guestcall.Input(ctx, req.Stdin), readAhead)
		defer ahead.Close()
	}
	prepare := c.prepare
	if req.TTY {
		prepare = c.prepareTerminal
	}
	r, err := prepare(feeding, dir, req, ahead, stdout, stderr)
	if err != nil {
		return providers.ExecResult{}, err
	}
	r.live, r.starve = true, starve
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer guestio.After(r.started, req.Timeout, func() { cancel(guestcall.ErrTimeUp) })()
	var killed error
	interrupted := false
	err = c.do(inner, r, func() { killed, interrupted = c.kill(ctx, dir, req.TTY || isClosed(r.started)), true })
	if err != nil && req.TTY && !interrupted {
		c.forget(ctx, dir)
	}

	result := providers.ExecResult{Truncated: stdout.Dropped() || stderr.Dropped()}
	switch {
	case err == nil:
		result.ExitCode, err = guestscript.ExitCode(r.word)
	case errors.Is(err, guestcall.ErrCaller):
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(context.Cause(inner), guestcall.ErrTimeUp) && killed != nil:
		err = fmt.Errorf("the command's time was up and it could not be killed: %w", killed)
	case errors.Is(context.Cause(inner), guestcall.ErrTimeUp):
		result.ExitCode, result.TimedOut, err = guestcall.KilledCode, true, nil
	}
	return result, err
}

// prepare makes the run of a command. ahead is its input; nil for none.
func (c *connection) prepare(ctx context.Context, dir string, req providers.ExecRequest, ahead *guestio.Gather, stdout, stderr *guestio.Output) (*run, error) {
	id, mode, data := guestscript.Token(), "none", ""
	var in io.Reader
	if ahead != nil {
		var err error
		if mode, data, in, err = input(ctx, ahead); err != nil {
			return nil, err
		}
	}
	args := append([]string{id, dir, mode, data, req.User, guestscript.Inner, req.Dir, strconv.Itoa(len(req.Env))}, req.Env...)
	r := newRun(id, stdout.Deliver, stderr.Deliver)
	r.line, r.in = lineOf(execScript, append(args, req.Command...)...), in
	return r, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// kill ends a command with what it has started, as far as the guest still
// answers. begun tells that its directory was made.
func (c *connection) kill(ctx context.Context, dir string, begun bool) error {
	word := ""
	if begun {
		word = "begun"
	}
	out, err := c.late(ctx, killScript, dir, word)
	if err != nil {
		return err
	}
	if word := strings.TrimSpace(out); word != "gone" {
		return fmt.Errorf("%w: it does not die", guestcall.ErrRefused)
	}
	return nil
}

const (
	// readAhead is how much of an input is read before it is wanted, in bytes.
	readAhead = 256 << 10
	// settle is how long a short input is waited for, which then travels with its
	// command.
	settle = 20 * time.Millisecond
)

// input is what a command is given to read: a short text that travels with it, or
// a stream.
func input(ctx context.Context, ahead *guestio.Gather) (mode, data string, in io.Reader, err error) {
	all, ended, err := ahead.Settle(ctx, settle)
	switch {
	case err != nil:
		return "", "", nil, err
	case ended && len(all) == 0:
		return "none", "", nil, nil
	case ended && len(all) <= inlineMax && !strings.ContainsRune(string(all), 0):
		return "inline", string(all), nil, nil
	default:
		return "stream", "", ahead.Reader(ctx), nil
	}
}
