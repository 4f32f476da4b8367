package guestcontrol

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// Exec runs a command; see providers.Guests. The kinds of errors are the
// caller's to add.
func (c *Client) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	if err := guestcall.CheckExec(req); err != nil {
		return providers.ExecResult{}, err
	}
	id := token()
	p, err := c.plan(ctx, id, req)
	defer p.end()
	if err != nil {
		return providers.ExecResult{}, err
	}
	stdout, stderr := guestio.Outputs(req)
	run := newRun(ctx, id, stdout.Deliver, stderr.Deliver)
	if req.TTY { // a terminal shows both in one
		run.tellers, run.stderr.out = 1, nil
	}
	feeding := c.feed(run, p)
	stop := guestio.After(run.started, req.Timeout, func() { run.cancel(guestcall.ErrTimeUp) })
	var killed error
	err = run.wait(
		func(ctx context.Context) error { return c.sh(ctx, false, run, p.script) },
		func() {
			feeding.stop()
			killed = c.kill(ctx, id, p.dir, run.hasBegun())
		},
	)
	stop()
	feeding.stop()
	c.tidy(ctx, p.in, run, err)
	result := providers.ExecResult{Truncated: stdout.Dropped() || stderr.Dropped()}
	if err == nil {
		result.ExitCode, err = guestscript.ExitCode(run.verdict())
		return result, err
	}
	timeUp := errors.Is(context.Cause(run.ctx), guestcall.ErrTimeUp)
	switch {
	case ctx.Err() != nil && !timeUp:
		return providers.ExecResult{}, ctx.Err()
	case !timeUp:
		return providers.ExecResult{}, err
	case killed != nil:
		return providers.ExecResult{}, fmt.Errorf("the command's time was up and it could not be killed: %w", killed)
	}
	result.ExitCode, result.TimedOut = guestcall.KilledCode, true
	return result, nil
}

// execScript runs a command in a session of its own and reports.
func execScript(token string, in input, req providers.ExecRequest) string {
	return head(token) + setPath + in.open() + asUser(req, head(token)+startOf(req, readScript)+becomeCommand, "") + "report start\n" +
		"{\n" + "eval \"$as\"\n" + "}" + in.from() + " &\n" +
		"child=$!\nexec 3<&-\nwait \"$child\" 2>/dev/null\nreport \"done $?\"\n"
}

// startOf goes to the command's directory and sees to it that it can be started; then
// it is in the arguments. variables puts those that it is given into $vars.
func startOf(req providers.ExecRequest, variables string) string {
	words := quote(append([]string{req.Dir}, req.Command...)...)
	if len(req.Env) == 0 {
		return "path=$PATH\nset -- " + words + "\n" + startScript
	}
	return variables + variablesScript + "set -- " + words + "\n" + startScript + withVariables(req.Command[0])
}

// asUser leaves in $as what runs a text as the user of a request. tty is empty for one
// that runs at no terminal.
func asUser(req providers.ExecRequest, text, tty string) string {
	script := "inner=" + quote(text) + "\nas='eval \"sandboxd_own=yes\n$inner\"'\n"
	if req.User == "" {
		return script
	}
	return script + "tty=" + tty + "\nuser=" + quote(req.User) + "\n" + userScript
}

// setPath is for guests whose Guest Additions give commands no PATH.
const setPath = `: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
`

// withVariables comes before becomeCommand. Variables are set by env: a shell has
// some of its own that it does not let anybody set.
func withVariables(command string) string {
	words := `\"\$@\"`
	if strings.Contains(command, "=") { // env would take it for a variable
		words = `/bin/sh -c 'exec \"\$@\"' sh ` + words
	}
	return `eval "set -- env $vars ` + words + "\"\n"
}

// becomeCommand is the end of the script start. Somebody else has got his session
// before su, whose own one would make setsid a process that does not wait.
const becomeCommand = `[ -z "$sandboxd_own" ] || ! command -v setsid >/dev/null || exec setsid -- "$@"
exec "$@"
`

// kill ends a command with what it has started, because its time is up or its
// caller is gone, as far as the guest still answers. It removes dir, if there is one, with the script
// that what runs at a terminal may not have come to remove.
func (c *Client) kill(ctx context.Context, token, dir string, begun bool) error {
	limit := unheard
	if begun {
		limit = afterwards
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	script := killScript
	if dir != "" {
		// As a pattern, for what has the token in its arguments is killed.
		all := strings.TrimSuffix(dir, token) + patternOf(token)
		script = "trap 'rm -rf " + all + " " + all + ".in' EXIT\n" + script
	}
	var out strings.Builder
	err := c.stream(late, true, script, nil, func(p []byte) error {
		out.Write(p[:min(len(p), guestscript.MaxLine-out.Len())])
		return nil
	}, patternOf(token))
	if err != nil {
		return err
	}
	if word := strings.TrimSpace(out.String()); word != "gone" {
		return fmt.Errorf("%w: it does not die", guestcall.ErrRefused)
	}
	return nil
}
