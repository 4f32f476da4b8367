package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

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
	id, dir := guestscript.Token(), "/tmp/.sandboxd-"+guestscript.Token()
	mode, data, err := c.input(ctx, dir+".in", req.Stdin)
	if err != nil {
		return providers.ExecResult{}, err
	}
	args := append([]string{id, dir, mode, data, req.User, guestscript.Inner, req.Dir, strconv.Itoa(len(req.Env))}, req.Env...)
	line := lineOf(execScript, append(args, req.Command...)...)

	stdout, stderr := guestio.Outputs(req)
	r := newRun(id, stdout.Deliver, stderr.Deliver)
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer guestio.After(r.started, req.Timeout, func() { cancel(guestcall.ErrTimeUp) })()
	var killed error
	err = c.do(inner, r, line, nil, func() { killed = c.kill(ctx, dir) })

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

// kill ends a command with what it has started, as far as the guest still
// answers.
func (c *connection) kill(ctx context.Context, dir string) error {
	out, err := c.late(ctx, killScript, dir)
	if err != nil {
		return err
	}
	if word := strings.TrimSpace(out); word != "gone" {
		return fmt.Errorf("%w: it does not die", guestcall.ErrRefused)
	}
	return nil
}

// input reads what a command is given to read: nothing, a short text that travels
// with it, or a file that is written to path.
func (c *connection) input(ctx context.Context, path string, stdin io.Reader) (mode, data string, err error) {
	if stdin == nil {
		return "none", "", nil
	}
	head := make([]byte, inlineMax+1)
	n, err := io.ReadFull(guestcall.Input(ctx, stdin), head)
	head = head[:n]
	switch {
	case errors.Is(err, io.EOF):
		return "none", "", nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return "", "", err
	case n <= inlineMax && !strings.ContainsRune(string(head), 0):
		return "inline", string(head), nil
	}
	var said string
	err = c.stream(ctx, `umask 077; cat >"$1" 2>/dev/null && echo ok`, io.MultiReader(strings.NewReader(string(head)), stdin), nil,
		func(p []byte) error { said += string(p[:min(len(p), maxReply-len(said))]); return nil }, path)
	if err == nil && strings.TrimSpace(said) != "ok" {
		err = guestscript.Refusal("temp")
	}
	if err != nil {
		_, _ = c.late(ctx, `rm -f "$1"`, path)
	}
	return "file", "", err
}
