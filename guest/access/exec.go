package access

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
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
	stdin, stdout, stderr bool
}

// parseExec reads the parameters of a request.
func parseExec(q url.Values) (execRequest, error) {
	r := execRequest{ExecRequest: providers.ExecRequest{
		Command: q[wire.ParamCommand], User: q.Get(wire.ParamUser), Dir: q.Get(wire.ParamDir), Env: q[wire.ParamEnv],
	}}
	if len(r.Command) == 0 || r.Command[0] == "" {
		return r, badRequestf("no command was given: repeat the parameter %q for each argument", wire.ParamCommand)
	}
	if len(r.Command) > maxArguments || len(r.Env) > maxArguments {
		return r, badRequestf("a command has at most %d arguments and %d variables", maxArguments, maxArguments)
	}
	var tty bool
	for _, p := range []struct {
		name  string
		value *bool
	}{{wire.ParamStdin, &r.stdin}, {wire.ParamStdout, &r.stdout}, {wire.ParamStderr, &r.stderr}, {wire.ParamTTY, &tty}} {
		var err error
		if *p.value, err = parseBool(q, p.name); err != nil {
			return r, err
		}
	}
	if tty {
		return r, badRequestf("a terminal is not available: commands run without one, so leave out tty")
	}
	if text := q.Get(wire.ParamTimeout); text != "" {
		var err error
		if r.Timeout, err = time.ParseDuration(text); err != nil || r.Timeout <= 0 || r.Timeout > maxTimeout {
			return r, badRequestf("timeout %q is not a duration between 1ns and %v, such as 30s", text, maxTimeout)
		}
	}
	if text := q.Get(wire.ParamMaxOutput); text != "" {
		var err error
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
		if err := checkUpgrade(r); err != nil {
			return err
		}
		if req.User, err = h.userOf(r.Context(), m, req.User); err != nil {
			return err
		}
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols: []string{wire.Protocol},
			// The socket admits those who may; a browser's origin says nothing.
			InsecureSkipVerify: true,
			CompressionMode:    websocket.CompressionDisabled,
		})
		if err != nil {
			return nil // Accept has answered
		}
		h.run(r.Context(), conn, m, req)
		return nil
	})
}

// checkUpgrade refuses what cannot become a WebSocket of our protocol.
func checkUpgrade(r *http.Request) error {
	upgrade := strings.ToLower(r.Header.Get("Upgrade"))
	if strings.HasPrefix(upgrade, "spdy/") {
		return badRequestf("SPDY is not spoken here: use a client that executes over WebSocket, such as kubectl 1.31 or later")
	}
	if upgrade != "websocket" {
		return badRequestf("exec needs a WebSocket: ask for the upgrade with the subprotocol %s", wire.Protocol)
	}
	var offered []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			offered = append(offered, strings.TrimSpace(p))
		}
	}
	if !slices.Contains(offered, wire.Protocol) {
		return badRequestf("the subprotocol %s is needed, and the client offers %q", wire.Protocol, offered)
	}
	return nil
}

// run runs the command and tells its end over the connection.
func (h *Handlers) run(ctx context.Context, conn *websocket.Conn, m machine, req execRequest) {
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := newSession(conn, cancel, h.o.MaxStdin)
	if req.stdin {
		req.Stdin = s.stdin
	}
	if req.stdout {
		req.Stdout = s.writer(ctx, wire.Stdout)
	}
	if req.stderr {
		req.Stderr = s.writer(ctx, wire.Stderr)
	}
	defer s.start(ctx, req.stdin)()
	result, err := m.Exec(ctx, req.ExecRequest)
	_ = s.stdin.Close() // what still comes goes nowhere
	if errors.Is(context.Cause(ctx), errClientGone) {
		return
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer done()
	switch {
	case err != nil && s.overflowed():
		err = providers.Errorf(providers.ErrInvalid, m.object,
			"%w: it has more than %d KiB: copy it into the guest as a file first", errStdinTooLarge, h.o.MaxStdin>>10)
	case err != nil && ctx.Err() != nil:
		err = providers.Errorf(providers.ErrUnavailable, m.object, "the command was told to end, because the daemon is stopping")
	}
	if raw, err := json.Marshal(outcome(last, m, result, err)); err == nil {
		_ = s.write(last, wire.Result, raw)
	}
	_ = conn.Close(websocket.StatusNormalClosure, "")
}

// farewell is how long a client may take to be told the end of its command.
const farewell = 30 * time.Second

// outcome is the Status that tells how a command ended.
func outcome(ctx context.Context, m machine, result providers.ExecResult, err error) metav1.Status {
	switch {
	case err == nil:
		end := wire.End{ExitCode: result.ExitCode, TimedOut: result.TimedOut, Truncated: result.Truncated}
		if end.TimedOut {
			end.Message = "the command was killed because its time was up"
		}
		return end.Status()
	case errors.Is(err, errStdinTooLarge):
		return statusOf(m.object, err)
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

// errStdinTooLarge: the client sent more input than a command may get.
var errStdinTooLarge = errors.New("standard input is too large")

// errClientGone ends a command whose client has gone away.
var errClientGone = errors.New("the client has gone away")
