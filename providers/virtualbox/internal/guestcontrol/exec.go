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
	in, err := c.input(ctx, id, req.Stdin)
	if err != nil {
		return providers.ExecResult{}, err
	}
	script := execScript(id, in, req)
	var mu sync.Mutex
	stdout := &bounded{mu: &mu, w: req.Stdout, left: limit}
	stderr := &bounded{mu: &mu, w: req.Stderr, left: limit}
	run := newRun(ctx, id, stdout.deliver, stderr.deliver)
	stop := run.after(req.Timeout)
	var killed error
	err = run.wait(
		func(ctx context.Context) error { return c.sh(ctx, false, run.stdout, run.stderr, script) },
		func() { killed = c.kill(ctx, id) },
	)
	stop()
	result := providers.ExecResult{Truncated: stdout.dropped || stderr.dropped}
	if err == nil {
		result.ExitCode, err = exitCode(run.verdict())
		return result, err
	}
	timeUp := errors.Is(context.Cause(run.ctx), errTimeUp)
	switch {
	case ctx.Err() != nil && !timeUp:
		return providers.ExecResult{}, ctx.Err()
	case !timeUp:
		return providers.ExecResult{}, err
	case killed != nil:
		return providers.ExecResult{}, fmt.Errorf("the command's time was up and it could not be killed: %w", killed)
	}
	result.ExitCode, result.TimedOut = killedCode, true
	return result, nil
}

// execScript runs a command in a session of its own and reports.
func execScript(token string, in input, req providers.ExecRequest) string {
	start := "set -- " + quote(append([]string{req.Dir}, req.Command...)...) + "\n" + pathOf(req.Env) + startScript + becomeCommand(req)
	as := start
	user := ""
	if req.User != "" {
		user = "user=" + quote(req.User) + "\ninner=" + quote(head(token)+start) + "\nas='eval \"$inner\"'\n" + userScript
		as = "eval \"$as\"\n"
	}
	return head(token) + setPath + in.open + user + "report start\n" +
		in.pipe + "{\n" + as + "}" + in.from + " &\n" +
		"child=$!\nexec 3<&-\nwait \"$child\" 2>/dev/null\nreport \"done $?\"\n"
}

// setPath is for guests whose Guest Additions give commands no PATH.
const setPath = `: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
`

// pathOf tells the script start where to look for the command.
func pathOf(env []string) string {
	line := "path=$PATH\n"
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			line = "path=" + quote(path) + "\n" // the last one counts
		}
	}
	return line
}

// becomeCommand is the end of the script start. Variables are set by env: a shell
// has some of its own that it does not let anybody set.
func becomeCommand(req providers.ExecRequest) string {
	words := `"$@"`
	if len(req.Env) > 0 {
		if strings.Contains(req.Command[0], "=") { // env would take it for a variable
			words = `/bin/sh -c 'exec "$@"' sh ` + words
		}
		words = "env " + quote(req.Env...) + " " + words
	}
	return "! command -v setsid >/dev/null || exec setsid -- " + words + "\nexec " + words + "\n"
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
func (c *Client) kill(ctx context.Context, token string) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	var out strings.Builder
	err := c.stream(late, true, killScript, nil, func(p []byte) error {
		out.Write(p[:min(len(p), maxLine-out.Len())])
		return nil
	}, patternOf(token))
	if err != nil {
		return err
	}
	if word := strings.TrimSpace(out.String()); word != "gone" {
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
