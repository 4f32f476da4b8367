package access

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

// Bounds of a request to run a command.
const (
	// maxArguments bounds the number of arguments and of variables each.
	maxArguments = 4096
	// maxTimeout is the longest time a command may be given.
	maxTimeout = 30 * 24 * time.Hour
)

// execRequest is a parsed request.
type execRequest struct {
	providers.ExecRequest
	wanted
}

// parseWanted reads which streams a client asks for, and of which container.
func parseWanted(q url.Values) (wanted, error) {
	var want wanted
	if name := q.Get(wire.ParamContainer); name != "" && name != wire.Guest {
		return want, badRequestf("there is no container %q: a sandbox has one, %s", name, wire.Guest)
	}
	for _, p := range []struct {
		name  string
		value *bool
	}{{wire.ParamStdin, &want.stdin}, {wire.ParamStdout, &want.stdout}, {wire.ParamStderr, &want.stderr}, {wire.ParamTTY, &want.tty}} {
		var err error
		if *p.value, err = parseBool(q, p.name); err != nil {
			return want, err
		}
	}
	if want.tty {
		want.stderr = false // a terminal shows both in one
	}
	return want, nil
}

// parseExec reads the parameters of a request.
func parseExec(q url.Values) (execRequest, error) {
	r := execRequest{ExecRequest: providers.ExecRequest{
		Command: q[wire.ParamCommand], User: q.Get(wire.ParamUser), Dir: q.Get(wire.ParamDir), Env: q[wire.ParamEnv],
		MaxOutput: providers.NoMaxOutput,
	}}
	if len(r.Command) == 0 || r.Command[0] == "" {
		return r, badRequestf("no command was given: repeat the parameter %q for each argument", wire.ParamCommand)
	}
	if len(r.Command) > maxArguments || len(r.Env) > maxArguments {
		return r, badRequestf("a command has at most %d arguments and %d variables", maxArguments, maxArguments)
	}
	var err error
	if r.wanted, err = parseWanted(q); err != nil {
		return r, err
	}
	r.TTY = r.tty
	if text := q.Get(wire.ParamTimeout); text != "" {
		if r.Timeout, err = time.ParseDuration(text); err != nil || r.Timeout <= 0 || r.Timeout > maxTimeout {
			return r, badRequestf("timeout %q is not a duration between 1ns and %v, such as 30s", text, maxTimeout)
		}
	}
	if text := q.Get(wire.ParamMaxOutput); text != "" {
		if r.MaxOutput, err = strconv.ParseInt(text, 10, 64); err != nil || r.MaxOutput <= 0 {
			return r, badRequestf("maxOutput %q is not a number of bytes above 0", text)
		}
	}
	return r, nil
}

func parseBool(q url.Values, name string) (bool, error) {
	text := q.Get(name)
	if text == "" {
		return q.Has(name), nil // ?stdin alone means true
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequestf("%s %q is neither true nor false", name, text)
	}
	return b, nil
}

// Exec runs a command in the guest of a Sandbox, as Kubernetes does in the
// container of a pod.
func (h *Handlers) Exec(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.enter(w, r, parent, func(m machine) error {
		req, err := parseExec(r.URL.Query())
		if err != nil {
			return err
		}
		if req.User, err = h.userOf(r.Context(), m, req.User); err != nil {
			return err
		}
		client, err := accept(w, r, req.wanted)
		if err != nil || client == nil {
			return err
		}
		h.run(r.Context(), client, m, func(ctx context.Context) metav1.Status {
			return exec(ctx, client, m, req)
		})
		return nil
	})
}

// run does something for a client until it is done or the client goes away, and
// tells how it ended.
func (h *Handlers) run(ctx context.Context, client remote, m machine, do func(context.Context) metav1.Status) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer client.start(ctx, cancel)()
	status := do(ctx)
	_ = client.stdin().Close() // what still comes goes nowhere
	if errors.Is(context.Cause(ctx), errClientGone) {
		return
	}
	if ctx.Err() != nil && status.Status == metav1.StatusFailure && status.Reason != wire.ReasonNonZeroExitCode && status.Reason != wire.ReasonOutcomeUnknown {
		status = statusOf(m.object, providers.Errorf(providers.ErrUnavailable, m.object, "it was told to end, because the daemon is stopping"))
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer done()
	client.end(last, status)
}

// exec runs the command.
func exec(ctx context.Context, client remote, m machine, req execRequest) metav1.Status {
	if req.stdin {
		req.Stdin = client.stdin()
	}
	if req.stdout {
		req.Stdout = client.output(ctx, wire.Stdout)
	}
	if req.stderr {
		req.Stderr = client.output(ctx, wire.Stderr)
	}
	if req.tty {
		req.Resize = sized(ctx, client.sizes())
	}
	result, err := m.Exec(ctx, req.ExecRequest)
	if err != nil && ctx.Err() != nil {
		err = providers.Errorf(providers.ErrUnavailable, m.object, "the command was told to end, because the daemon is stopping")
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer done()
	return outcome(last, m, result, err)
}

// sizeTimeout is how long the first size of a client's terminal is waited for.
const sizeTimeout = 250 * time.Millisecond

// sized passes sizes on once the first one is there, so that the command begins
// with it; not every client tells one.
func sized(ctx context.Context, from <-chan providers.TerminalSize) <-chan providers.TerminalSize {
	to := newLatest()
	t := time.NewTimer(sizeTimeout)
	defer t.Stop()
	select {
	case size := <-from:
		to.put(size)
	case <-t.C:
	case <-ctx.Done():
	}
	go func() {
		for {
			select {
			case size := <-from:
				to.put(size)
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

// outcome is the Status that tells how a command ended.
func outcome(ctx context.Context, m machine, result providers.ExecResult, err error) metav1.Status {
	if err == nil {
		end := wire.End{ExitCode: result.ExitCode, TimedOut: result.TimedOut, Truncated: result.Truncated}
		if end.TimedOut {
			end.Message = "the command was killed because its time was up"
		}
		return end.Status()
	}
	code := 0
	switch providers.KindOf(err) {
	case providers.ErrUnavailable:
		if providers.ReasonOf(err) != providers.ReasonNotReached {
			return unknown(m, err)
		}
	case providers.ErrInvalid:
		code = wire.ExitCannotStart
	case providers.ErrNotFound: // of the program, or of the machine
		if _, gone := m.provider.GetMachine(ctx, m.id); gone == nil {
			code = wire.ExitNotFound
		}
	}
	if code == 0 {
		return statusOf(m.object, err)
	}
	return wire.End{ExitCode: code, NotStarted: true, Message: message(m.object, err)}.Status()
}

// unknown is the Status of a command that may have run, and whose end nobody saw.
func unknown(m machine, err error) metav1.Status {
	s := statusOf(m.object, err)
	s.Reason = wire.ReasonOutcomeUnknown
	s.Message += ": whether and how the command ended is unknown, and it was not run again"
	return s
}
