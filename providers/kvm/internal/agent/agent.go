// Package agent speaks with QEMU's guest agent: it runs commands in a guest and
// copies files.
//
//	Exec ──guest-exec──▶ run.sh ──▶ command ──▶ DIR/out, DIR/err
//	  │                    │                        │
//	  │◀─ guest-exec-status ┘ exit code, short output │
//	  └◀─ guest-file-read, while it runs ─────────────┘
//
// The agent's own way of capturing output keeps it until the command has
// ended, bounds it, and replies in one message, which libvirt's protocol
// bounds at 4 MiB. So a small shell script in the guest writes the output to
// files of a private directory; what is short comes back with the exit code,
// and what is long or slow is read while the command runs.
//
// Everything that comes from a guest is hostile: replies are bounded by the
// transport and decoded into fixed types, and no answer is used as a path or
// as part of a command. Arguments reach the guest's shell as arguments, never
// as text of a script.
package agent

import (
	"bytes"
	"context"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// Transport sends one command to the agent and returns its reply, both JSON.
// An error that the agent answered wraps guestcall.ErrRefused. The reply's size is
// bounded by the transport.
type Transport func(ctx context.Context, command string) (string, error)

// Client speaks with the agent of one guest.
type Client struct {
	send Transport
}

// New makes a Client.
func New(t Transport) *Client { return &Client{send: t} }

// call sends a command and decodes what it returns; out may be nil.
func (c *Client) call(ctx context.Context, name string, args, out any) error {
	command, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{name, args})
	if err != nil {
		return err
	}
	if len(command) > maxMessage {
		return fmt.Errorf("%w: it is longer than the guest agent takes in one message (%d KiB)", guestcall.ErrBadRequest, maxMessage>>10)
	}
	reply, err := c.send(ctx, string(command))
	if err != nil {
		return err
	}
	var r struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(reply), &r); err != nil {
		return fmt.Errorf("the guest agent's reply to %s is no JSON: %w", name, err)
	}
	if r.Error != nil {
		return fmt.Errorf("%w %s: %s", guestcall.ErrRefused, name, guestcall.Printable(r.Error.Desc))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(r.Return, out); err != nil {
		return fmt.Errorf("the guest agent's reply to %s is not understood: %w", name, err)
	}
	return nil
}

// SetTime sets the guest's clock.
func (c *Client) SetTime(ctx context.Context, t time.Time) error {
	return c.call(ctx, "guest-set-time", map[string]int64{"time": t.UnixNano()}, nil)
}

// Freeze holds the guest's file systems still and returns how many.
func (c *Client) Freeze(ctx context.Context) (int, error) {
	var n int
	err := c.call(ctx, "guest-fsfreeze-freeze", nil, &n)
	return n, err
}

// Thaw lets the guest's file systems go on. It is no error if they do already.
func (c *Client) Thaw(ctx context.Context) error {
	return c.call(ctx, "guest-fsfreeze-thaw", nil, nil)
}

// start runs a program; its own output is kept by the agent.
func (c *Client) start(ctx context.Context, path string, args []string, input []byte) (int64, error) {
	var r struct {
		PID int64 `json:"pid"`
	}
	err := c.call(ctx, "guest-exec", struct {
		Path    string   `json:"path"`
		Args    []string `json:"arg"`
		Input   []byte   `json:"input-data,omitempty"`
		Capture bool     `json:"capture-output"`
	}{path, args, input, true}, &r)
	return r.PID, err
}

// status of a program that start has started.
type status struct {
	Exited bool   `json:"exited"`
	Code   *int   `json:"exitcode"`
	Signal *int   `json:"signal"`
	Out    []byte `json:"out-data"`
	Err    []byte `json:"err-data"`
}

func (c *Client) status(ctx context.Context, pid int64) (status, error) {
	var s status
	err := c.call(ctx, "guest-exec-status", map[string]int64{"pid": pid}, &s)
	return s, err
}

// open opens a file and returns the agent's handle of it.
func (c *Client) open(ctx context.Context, path, mode string) (int64, error) {
	var handle int64
	err := c.call(ctx, "guest-file-open", map[string]string{"path": path, "mode": mode}, &handle)
	return handle, err
}

// read returns up to len bytes, and whether the end was reached.
func (c *Client) read(ctx context.Context, handle int64, length int) ([]byte, bool, error) {
	var r struct {
		Count int    `json:"count"`
		Data  []byte `json:"buf-b64"`
		EOF   bool   `json:"eof"`
	}
	err := c.call(ctx, "guest-file-read", map[string]int64{"handle": handle, "count": int64(length)}, &r)
	if err == nil && (len(r.Data) > length || len(r.Data) != r.Count) {
		err = fmt.Errorf("the guest agent's reply to guest-file-read is not understood: %d bytes, said to be %d, of %d", len(r.Data), r.Count, length)
	}
	return r.Data, r.EOF, err
}

func (c *Client) write(ctx context.Context, handle int64, data []byte) error {
	for len(data) > 0 {
		var r struct {
			Count int `json:"count"`
		}
		err := c.call(ctx, "guest-file-write", map[string]any{
			"handle": handle, "buf-b64": base64.StdEncoding.EncodeToString(data),
		}, &r)
		if err != nil {
			return err
		}
		if r.Count <= 0 || r.Count > len(data) {
			return fmt.Errorf("the guest agent says it wrote %d of %d bytes", r.Count, len(data))
		}
		data = data[r.Count:]
	}
	return nil
}

func (c *Client) close(ctx context.Context, handle int64) error {
	return c.call(ctx, "guest-file-close", map[string]int64{"handle": handle}, nil)
}

// AddSSHKeys replaces a user's authorized keys by the agent's own means.
func (c *Client) addSSHKeys(ctx context.Context, user string, keys []string) error {
	if keys == nil {
		keys = []string{}
	}
	return c.call(ctx, "guest-ssh-add-authorized-keys", map[string]any{
		"username": user, "keys": keys, "reset": true,
	}, nil)
}

// helperTimeout bounds the scripts that are ours, which do little.
const helperTimeout = 60 * time.Second

// shell runs a script of ours to its end and returns what it printed.
func (c *Client) shell(ctx context.Context, script string, input []byte, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout, errSlow)
	defer cancel()
	pid, err := c.start(ctx, shellPath, append([]string{"-c", script, "sandboxd"}, args...), input)
	if err != nil {
		return nil, noShell(err)
	}
	s, err := c.wait(ctx, pid)
	if err != nil {
		return nil, err
	}
	return s.Out, nil
}

var errSlow = errors.New("the guest is too slow")

const shellPath = "/bin/sh"

// noShell words the agent's refusal to start the shell.
func noShell(err error) error {
	if errors.Is(err, guestcall.ErrRefused) {
		return fmt.Errorf("the guest has no /bin/sh, which commands and copies need: %w", err)
	}
	return err
}

// wait polls until a program has ended.
func (c *Client) wait(ctx context.Context, pid int64) (status, error) {
	var p pace
	for {
		s, err := c.status(ctx, pid)
		if err != nil || s.Exited {
			return s, err
		}
		if err := p.pause(ctx); err != nil {
			return s, err
		}
	}
}

// pace is the pause between two polls: short at first, for most commands are,
// and longer as a command lasts.
type pace struct{ last time.Duration }

const (
	firstPause = 4 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

func (p *pace) next() time.Duration {
	p.last = min(max(firstPause, p.last*3/2), lastPause)
	return p.last
}

func (p *pace) pause(ctx context.Context) error {
	t := time.NewTimer(p.next())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// first is the first error that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// cutLine splits off the first line, which must be short.
func cutLine(b []byte) (string, []byte) {
	line, rest, found := bytes.Cut(b, []byte("\n"))
	if !found || len(line) > guestscript.MaxLine {
		return "", nil
	}
	return string(line), rest
}

//go:embed scripts/*.sh
var scripts embed.FS

// runScript runs in guests of this agent only.
var runScript = guestscript.Load(scripts, "run")
