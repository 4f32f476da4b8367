package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/coder/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/guest/wire"
)

// ExecOptions say what to run in a guest.
type ExecOptions struct {
	// Command and its arguments. No shell is involved.
	Command []string
	// User to run as; empty means the image's.
	User string
	// Dir to run in; empty means the user's choice.
	Dir string
	// Env adds variables, as NAME=value.
	Env []string
	// Stdin is read while the command runs; nil means empty. A Read that blocks when
	// the command has ended is left behind.
	Stdin io.Reader
	// Stdout and Stderr get the output as it comes; nil discards.
	Stdout, Stderr io.Writer
	// TTY gives the command a terminal, which shows everything on Stdout. Resize
	// tells its sizes.
	TTY    bool
	Resize <-chan TerminalSize
	// Timeout after which the command is killed; 0 means none.
	Timeout time.Duration
	// MaxOutput bounds each of stdout and stderr, in bytes; 0 means no bound.
	MaxOutput int64
}

// TerminalSize is that of a terminal, in characters.
type TerminalSize struct{ Width, Height uint16 }

// ExecResult is how a command ended.
type ExecResult struct {
	// ExitCode as the guest reports it.
	ExitCode int
	// NotStarted: the command could not be started; ExitCode is 126, or 127 when
	// the guest has no such program, and Message says why.
	NotStarted bool
	// TimedOut: it was killed because its time was up.
	TimedOut bool
	// Truncated: output beyond MaxOutput was dropped.
	Truncated bool
	// Message says more than the exit code; may be empty.
	Message string
}

// ErrOutcomeUnknown: a command may have run, and nobody saw how it ended. It was
// not run again, and whoever does so must know that it may run twice.
var ErrOutcomeUnknown = errors.New("the command's outcome is unknown")

// maxStdinChunk is the most input in one message, in bytes.
const maxStdinChunk = 32 << 10

// Exec runs a command in the guest of a sandbox and returns when it has ended.
// The command ends with the context. Errors are Status errors, or
// ErrOutcomeUnknown.
func (c *Client) Exec(ctx context.Context, key types.NamespacedName, o ExecOptions) (ExecResult, error) {
	return c.converse(ctx, key, wire.Exec, o)
}

// Attach connects with the serial console of a sandbox, until the machine is gone,
// the context ends or Stdin returns an error other than io.EOF. Of the options
// only the streams count. What cannot be typed at is a Status error when Stdin is
// given.
func (c *Client) Attach(ctx context.Context, key types.NamespacedName, o ExecOptions) error {
	o.Command, o.TTY = nil, true
	_, err := c.converse(ctx, key, wire.Attach, o)
	return err
}

// converse holds a conversation of the protocol of exec.
func (c *Client) converse(ctx context.Context, key types.NamespacedName, endpoint string, o ExecOptions) (ExecResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, c.sandboxURL(key, endpoint, o.query()), &websocket.DialOptions{
		HTTPClient: c.http, Subprotocols: []string{wire.Protocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return ExecResult{}, dialError(err, response)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(wire.MaxMessage)
	if o.TTY && o.Resize != nil {
		go sendSizes(ctx, conn, o.Resize)
	}
	if o.Stdin != nil {
		go sendStdin(ctx, conn, o.Stdin)
	}
	return receive(ctx, conn, o)
}

func (o ExecOptions) query() url.Values {
	q := url.Values{wire.ParamCommand: o.Command, wire.ParamEnv: o.Env}
	flag := func(name string, on bool) {
		if on {
			q.Set(name, "true")
		}
	}
	flag(wire.ParamStdin, o.Stdin != nil)
	flag(wire.ParamStdout, o.Stdout != nil)
	flag(wire.ParamStderr, o.Stderr != nil && !o.TTY)
	flag(wire.ParamTTY, o.TTY)
	for name, value := range map[string]string{wire.ParamUser: o.User, wire.ParamDir: o.Dir} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if o.Timeout > 0 {
		q.Set(wire.ParamTimeout, o.Timeout.String())
	}
	if o.MaxOutput > 0 {
		q.Set(wire.ParamMaxOutput, strconv.FormatInt(o.MaxOutput, 10))
	}
	return q
}

// dialError finds the Status in an answer that is no WebSocket.
func dialError(err error, response *http.Response) error {
	var unreachable *UnreachableError
	switch {
	case errors.As(err, &unreachable):
		return unreachable
	case response == nil || response.Body == nil || response.StatusCode == http.StatusSwitchingProtocols:
		return err
	}
	defer func() { _ = response.Body.Close() }()
	return responseError(response)
}

// maxStatus bounds how much of an error's answer is read, in bytes. The
// WebSocket library keeps 1 KiB of it.
const maxStatus = 64 << 10

// responseError is the Status error of an answer that tells of a failure.
func responseError(response *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxStatus))
	if err != nil {
		return fmt.Errorf("the daemon's answer %s could not be read: %w", response.Status, err)
	}
	var s metav1.Status
	if json.Unmarshal(raw, &s) == nil && s.Status == metav1.StatusFailure && s.Message != "" {
		return &apierrors.StatusError{ErrStatus: s}
	}
	return fmt.Errorf("the daemon answered %s", response.Status)
}

// sendStdin sends what r delivers, and its end.
func sendStdin(ctx context.Context, conn *websocket.Conn, r io.Reader) {
	message := make([]byte, 1+maxStdinChunk)
	message[0] = wire.Stdin
	for {
		n, err := r.Read(message[1:])
		if n > 0 && conn.Write(ctx, websocket.MessageBinary, message[:1+n]) != nil {
			return // the receiving side finds out why
		}
		if err != nil {
			_ = conn.Write(ctx, websocket.MessageBinary, []byte{wire.Close, wire.Stdin})
			return
		}
	}
}

// sendSizes sends the sizes of the terminal.
func sendSizes(ctx context.Context, conn *websocket.Conn, sizes <-chan TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			raw, err := json.Marshal(size)
			if err != nil || conn.Write(ctx, websocket.MessageBinary, append([]byte{wire.Resize}, raw...)) != nil {
				return
			}
		}
	}
}

// receive passes output on until the command's end is told.
func receive(ctx context.Context, conn *websocket.Conn, o ExecOptions) (ExecResult, error) {
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return ExecResult{}, ctx.Err()
			}
			return ExecResult{}, fmt.Errorf("the connection to the daemon broke before it told how the command ended: %w (%v)", ErrOutcomeUnknown, err)
		}
		if len(message) == 0 {
			continue
		}
		var to io.Writer
		switch message[0] {
		case wire.Stdout:
			to = o.Stdout
		case wire.Stderr:
			to = o.Stderr
		case wire.Result:
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return resultOf(message[1:])
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(message[1:]); err != nil {
			return ExecResult{}, fmt.Errorf("output could not be written: %w", err)
		}
	}
}

func resultOf(raw []byte) (ExecResult, error) {
	end, status, ended, err := wire.ParseEnd(raw)
	if err != nil {
		return ExecResult{}, err
	}
	if !ended && status.Reason == wire.ReasonOutcomeUnknown {
		return ExecResult{}, unknownOutcome{&apierrors.StatusError{ErrStatus: status}}
	}
	if !ended {
		return ExecResult{}, &apierrors.StatusError{ErrStatus: status}
	}
	return ExecResult{
		ExitCode: end.ExitCode, NotStarted: end.NotStarted, TimedOut: end.TimedOut, Truncated: end.Truncated, Message: end.Message,
	}, nil
}

// unknownOutcome is what the daemon says of a command that was lost.
type unknownOutcome struct{ *apierrors.StatusError }

func (u unknownOutcome) Unwrap() error { return u.StatusError }

func (unknownOutcome) Is(target error) bool { return target == ErrOutcomeUnknown }
