package guestcontrol

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

var (
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	userPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)
)

// check refuses what cannot be passed to a guest.
func check(req providers.ExecRequest) error {
	if len(req.Command) == 0 || req.Command[0] == "" {
		return fmt.Errorf("%w: the command is empty", ErrBadRequest)
	}
	size := 0
	for _, s := range append(append([]string{req.Dir}, req.Command...), req.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: an argument contains a NUL byte", ErrBadRequest)
		}
		size += len(s) + 1
	}
	for _, e := range req.Env {
		if !envPattern.MatchString(e) {
			return fmt.Errorf("%w: %.50q is not of the form NAME=value", ErrBadRequest, e)
		}
	}
	switch {
	case size > maxArguments:
		return fmt.Errorf("%w: command and environment are longer than %d KiB", ErrBadRequest, maxArguments>>10)
	case req.User != "" && !userPattern.MatchString(req.User):
		return fmt.Errorf("%w: %q is not a user name", ErrBadRequest, req.User)
	case req.Dir != "" && !path.IsAbs(req.Dir):
		return fmt.Errorf("%w: the directory %q is not absolute", ErrBadRequest, req.Dir)
	case req.MaxOutput < 0 || req.Timeout < 0:
		return fmt.Errorf("%w: a limit is negative", ErrBadRequest)
	}
	return nil
}

var errTimeUp = errors.New("the command's time is up")

// killedCode is the exit code of a command that was killed.
const killedCode = 128 + 9

// Exec runs a command; see providers.Guests. The kinds of errors are the
// caller's to add.
func (c *Client) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	if err := check(req); err != nil {
		return providers.ExecResult{}, err
	}
	limit := req.MaxOutput
	if limit == 0 {
		limit = providers.DefaultMaxOutput
	}
	id := token()
	dir := "/tmp/.sandboxd-" + id
	mode, data, err := c.input(ctx, dir+".in", req.Stdin)
	if err != nil {
		return providers.ExecResult{}, err
	}
	if mode == dir+".in" {
		mode = "file"
	}
	args := append([]string{id, dir, mode, data, req.User, req.Dir, strconv.Itoa(len(req.Env))}, req.Env...)
	args = append(args, req.Command...)

	var mu sync.Mutex
	stdout := &bounded{mu: &mu, w: req.Stdout, left: limit}
	stderr := &bounded{mu: &mu, w: req.Stderr, left: limit}
	run := newRun(ctx, id, stdout.deliver, stderr.deliver)
	stop := run.after(req.Timeout)
	err = run.wait(func(ctx context.Context) error { return c.sh(ctx, run.stdout, run.stderr, execScript, args...) })
	stop()
	result := providers.ExecResult{Truncated: stdout.dropped || stderr.dropped}
	if err == nil {
		result.ExitCode, err = exitCode(run.verdict())
		return result, err
	}
	timeUp := errors.Is(context.Cause(run.ctx), errTimeUp)
	if ctx.Err() == nil && !timeUp && !errors.Is(err, ErrCaller) {
		return providers.ExecResult{}, err
	}
	killed := c.kill(ctx, dir)
	switch {
	case !timeUp && ctx.Err() != nil:
		return providers.ExecResult{}, ctx.Err()
	case !timeUp:
		return providers.ExecResult{}, err
	case killed != nil:
		return providers.ExecResult{}, fmt.Errorf("the command's time was up and it could not be killed: %w", killed)
	}
	result.ExitCode, result.TimedOut = killedCode, true
	return result, nil
}

// after ends a run so long after its command was started; 0 means never.
func (r *run) after(timeout time.Duration) (stop func()) {
	if timeout == 0 {
		return func() {}
	}
	over := make(chan struct{})
	go func() {
		select {
		case <-r.started:
		case <-over:
			return
		}
		t := time.NewTimer(timeout)
		defer t.Stop()
		select {
		case <-t.C:
			r.cancel(errTimeUp)
		case <-over:
		}
	}()
	return func() { close(over) }
}

// kill ends a command with what it has started, because its time is up or its
// caller is gone, as far as the guest still answers.
func (c *Client) kill(ctx context.Context, dir string) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	out, err := c.shell(late, killScript, nil, dir)
	if err != nil {
		return err
	}
	if word := strings.TrimSpace(out); word != "gone" {
		return fmt.Errorf("%w: it does not die", ErrRefused)
	}
	return nil
}

// exitCode reads the report of a command's end.
func exitCode(report string) (int, error) {
	word, rest, _ := strings.Cut(report, " ")
	if word == "done" {
		code, err := strconv.ParseUint(rest, 10, 8)
		if err == nil {
			return int(code), nil
		}
	}
	switch report {
	case "refused missing":
		return 0, fmt.Errorf("%w in the guest", ErrNoProgram)
	case "refused denied":
		return 0, fmt.Errorf("%w: the program is not executable", ErrBadRequest)
	case "refused directory":
		return 0, fmt.Errorf("%w: the guest has no such directory to run in", ErrBadRequest)
	case "refused user":
		return 0, fmt.Errorf("%w: the guest has no such user", ErrBadRequest)
	case "refused su":
		return 0, fmt.Errorf("%w: only root may run commands as others, and the image's guest.user is not root", ErrBadRequest)
	case "refused temp":
		return 0, fmt.Errorf("%w: it cannot write to the guest's /tmp; is the disk full?", ErrRefused)
	}
	return 0, fmt.Errorf("the guest's report on the command is not understood: %q", Printable(report))
}
