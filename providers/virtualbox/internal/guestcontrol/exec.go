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
	if req.TTY {
		return providers.ExecResult{}, fmt.Errorf("%w: VirtualBox's guest control makes no terminals: leave out the terminal (-t), or reach the guest by ssh", guestcall.ErrGuestLacks)
	}
	id := token()
	in, err := c.input(ctx, id, req.Env, req.Stdin)
	if err != nil {
		return providers.ExecResult{}, err
	}
	script := execScript(id, in, req)
	stdout, stderr := guestio.Outputs(req)
	run := newRun(ctx, id, stdout.Deliver, stderr.Deliver)
	stop := guestio.After(run.started, req.Timeout, func() { run.cancel(guestcall.ErrTimeUp) })
	var killed error
	err = run.wait(
		func(ctx context.Context) error { return c.sh(ctx, false, run, script) },
		func() { killed = c.kill(ctx, id, run.hasBegun()) },
	)
	stop()
	c.tidy(ctx, in, run, err)
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
	words := quote(append([]string{req.Dir}, req.Command...)...)
	start := "path=$PATH\nset -- " + words + "\n" + startScript
	if len(req.Env) > 0 {
		start = variablesScript + "set -- " + words + "\n" + startScript + withVariables(req.Command[0])
	}
	start += becomeCommand
	as := start
	user := ""
	if req.User != "" {
		user = "user=" + quote(req.User) + "\ninner=" + quote(head(token)+start) + "\nas='eval \"$inner\"'\n" + userScript
		as = "eval \"$as\"\n"
	}
	return head(token) + setPath + in.open() + user + "report start\n" +
		"{\n" + as + "}" + in.from() + " &\n" +
		"child=$!\nexec 3<&-\nwait \"$child\" 2>/dev/null\nreport \"done $?\"\n"
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

// becomeCommand is the end of the script start.
const becomeCommand = `! command -v setsid >/dev/null || exec setsid -- "$@"
exec "$@"
`

// kill ends a command with what it has started, because its time is up or its
// caller is gone, as far as the guest still answers.
func (c *Client) kill(ctx context.Context, token string, begun bool) error {
	limit := unheard
	if begun {
		limit = afterwards
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var out strings.Builder
	err := c.stream(late, true, killScript, nil, func(p []byte) error {
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
