package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

var (
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	userPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)
)

// check refuses what cannot be passed to a guest.
func check(req providers.ExecRequest) error {
	if len(req.Command) == 0 || req.Command[0] == "" {
		return fmt.Errorf("%w: the command is empty", errBadRequest)
	}
	size := 0
	for _, s := range append(append([]string{req.Dir}, req.Command...), req.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: an argument contains a NUL byte", errBadRequest)
		}
		size += len(s) + 1
	}
	for _, e := range req.Env {
		if !envPattern.MatchString(e) {
			return fmt.Errorf("%w: %.50q is not of the form NAME=value", errBadRequest, e)
		}
	}
	switch {
	case size > maxArguments:
		return fmt.Errorf("%w: command and environment are longer than %d KiB", errBadRequest, maxArguments>>10)
	case req.User != "" && !userPattern.MatchString(req.User):
		return fmt.Errorf("%w: %q is not a user name", errBadRequest, req.User)
	case req.Dir != "" && !path.IsAbs(req.Dir):
		return fmt.Errorf("%w: the directory %q is not absolute", errBadRequest, req.Dir)
	case req.MaxOutput < 0 || req.Timeout < 0:
		return fmt.Errorf("%w: a limit is negative", errBadRequest)
	}
	return nil
}

var errTimeUp = errors.New("the command's time is up")

// killedCode is the exit code of a command that was killed.
const killedCode = 128 + 9

// Exec runs a command.
func (c *Client) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	if err := check(req); err != nil {
		return providers.ExecResult{}, c.kind(ctx, err)
	}
	var result providers.ExecResult
	err := c.inGuest(ctx, func(conn *connection) (err error) {
		release, err := conn.reserve(ctx)
		if err != nil {
			return err
		}
		defer release()
		result, err = conn.exec(ctx, req)
		return err
	})
	return result, err
}

func (c *connection) exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	limit := req.MaxOutput
	if limit == 0 {
		limit = providers.DefaultMaxOutput
	}
	id, dir := token(), "/tmp/.sandboxd-"+token()
	mode, data, err := c.input(ctx, dir+".in", req.Stdin)
	if err != nil {
		return providers.ExecResult{}, err
	}
	args := append([]string{id, dir, mode, data, req.User, guestscript.Inner, req.Dir, strconv.Itoa(len(req.Env))}, req.Env...)
	line := lineOf(execScript, append(args, req.Command...)...)

	stdout, stderr := &output{w: req.Stdout, left: limit}, &output{w: req.Stderr, left: limit}
	r := newRun(id, stdout.deliver, stderr.deliver)
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer after(r.started, req.Timeout, func() { cancel(errTimeUp) })()
	var killed error
	err = c.do(inner, r, line, nil, func() { killed = c.kill(ctx, dir) })

	result := providers.ExecResult{Truncated: stdout.dropped || stderr.dropped}
	switch {
	case err == nil:
		result.ExitCode, err = exitCode(r.word)
	case errors.Is(err, errCaller):
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(context.Cause(inner), errTimeUp) && killed != nil:
		err = fmt.Errorf("the command's time was up and it could not be killed: %w", killed)
	case errors.Is(context.Cause(inner), errTimeUp):
		result.ExitCode, result.TimedOut, err = killedCode, true, nil
	}
	return result, err
}

// after calls f so long after a command was started, unless it is stopped before;
// 0 means never.
func after(started <-chan struct{}, timeout time.Duration, f func()) (stop func()) {
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

// kill ends a command with what it has started, as far as the guest still
// answers.
func (c *connection) kill(ctx context.Context, dir string) error {
	out, err := c.late(ctx, killScript, dir)
	if err != nil {
		return err
	}
	if word := strings.TrimSpace(out); word != "gone" {
		return fmt.Errorf("%w: it does not die", errRefused)
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
	n, err := io.ReadFull(reader{ctx, stdin}, head)
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
		err = refusal("temp")
	}
	if err != nil {
		_, _ = c.late(ctx, `rm -f "$1"`, path)
	}
	return "file", "", err
}

// exitCode reads the report of a command's end.
func exitCode(report string) (int, error) {
	switch word, rest, _ := strings.Cut(report, " "); word {
	case "done":
		if code, err := strconv.ParseUint(rest, 10, 8); err == nil {
			return int(code), nil
		}
	case "refused":
		return 0, refusal(rest)
	}
	return 0, fmt.Errorf("%w: its report on the command is not understood: %q", errRefused, printable(report))
}

// refusal words why exec.sh did not start the command.
func refusal(word string) error {
	switch word {
	case "missing":
		return fmt.Errorf("%w in the guest", errNoProgram)
	case "denied":
		return fmt.Errorf("%w: the program is not executable", errBadRequest)
	case "directory":
		return fmt.Errorf("%w: the guest has no such directory to run in", errBadRequest)
	case "user":
		return fmt.Errorf("%w: the guest has no such user", errBadRequest)
	case "su":
		return fmt.Errorf("%w: only root may run commands as others, and the image's guest.user is not root", errBadRequest)
	case "temp":
		return fmt.Errorf("%w: it cannot write to its /tmp; is the disk full?", errRefused)
	default:
		return fmt.Errorf("%w: its report on the command is not understood: %q", errRefused, printable(word))
	}
}
