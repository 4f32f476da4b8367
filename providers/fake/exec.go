package fake

import (
	"cmp"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
	"sandboxd.dev/sandboxd/providers/fake/internal/shell"
)

// Exec implements providers.Guests.
func (p *Provider) Exec(ctx context.Context, id types.UID, req providers.ExecRequest) (providers.ExecResult, error) {
	var result providers.ExecResult
	c, err := p.reach(ctx, id)
	if err != nil {
		return result, providers.NotReached(err)
	}
	if err := validateExec(id, req); err != nil {
		return result, err
	}
	out := newOutputs(req)
	in := newInput(req, out)
	defer in.close()
	job, err := c.system.Start(guest.Command{
		Args: req.Command, User: req.User, Dir: req.Dir, Env: req.Env,
		Streams: shell.Streams{In: in.r, Out: out.stdout, Err: out.stderr}, Terminal: in.terminal,
	})
	if err != nil {
		return result, startError(id, err)
	}
	in.begin(req)
	var timeout <-chan time.Time
	if req.Timeout > 0 {
		t := p.w.clock.NewTimer(req.Timeout)
		defer t.Stop()
		timeout = t.C()
	}
	select {
	case <-job.Done():
		if job.Halted() {
			err = errNoAgent(id)
		}
	case <-timeout:
		job.Kill()
		<-job.Done()
		result.TimedOut = true
	case inErr := <-in.failed:
		job.Kill()
		err = ownError(id, inErr, "standard input")
	case <-ctx.Done():
		job.Kill()
		err = ctx.Err()
	case <-c.lost:
		err = errNoAgent(id)
	case <-p.closed:
		job.Kill()
		err = providers.Errorf(providers.ErrUnavailable, machineObject(id), "the provider was closed")
	}
	truncated, writeErr := out.detach()
	if err != nil {
		return providers.ExecResult{}, err
	}
	if writeErr != nil {
		return providers.ExecResult{}, ownError(id, writeErr, "output")
	}
	result.Truncated = truncated
	result.ExitCode = job.ExitCode()
	return result, nil
}

// input is what a command reads: a pipe, or a terminal.
type input struct {
	r        *io.PipeReader
	w        *io.PipeWriter
	terminal *guest.Terminal
	failed   chan error
	over     chan struct{}
}

func newInput(req providers.ExecRequest, out *outputs) *input {
	in := &input{failed: make(chan error, 1), over: make(chan struct{})}
	in.r, in.w = io.Pipe()
	if req.TTY {
		in.terminal = guest.NewTerminal(func(p []byte) error {
			_, err := out.stdout.Write(p)
			return err
		})
		select {
		case size, ok := <-req.Resize:
			if ok {
				in.terminal.Resize(size.Width, size.Height)
			}
		default:
		}
	}
	return in
}

// begin passes on what is read and the sizes of the terminal. It goes on until
// the input ends or, after close, something is read.
func (in *input) begin(req providers.ExecRequest) {
	if in.terminal != nil {
		go func() {
			for {
				select {
				case size, ok := <-req.Resize:
					if !ok {
						return
					}
					in.terminal.Resize(size.Width, size.Height)
				case <-in.over:
					return
				}
			}
		}()
	}
	if req.Stdin == nil {
		in.end()
		return
	}
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := req.Stdin.Read(buf)
			if n > 0 && in.pass(buf[:n]) != nil {
				return // nobody reads it
			}
			if errors.Is(err, io.EOF) {
				in.end()
				return
			}
			if err != nil {
				in.failed <- err
				return
			}
		}
	}()
}

func (in *input) pass(p []byte) error {
	if in.terminal != nil {
		return in.terminal.Type(p)
	}
	_, err := in.w.Write(p)
	return err
}

func (in *input) end() {
	_ = in.w.Close()
	if in.terminal != nil {
		in.terminal.End()
	}
}

func (in *input) close() {
	close(in.over)
	_ = in.r.Close()
	if in.terminal != nil {
		in.terminal.Close()
	}
}

func validateExec(id types.UID, req providers.ExecRequest) error {
	invalid := func(format string, args ...any) error {
		return providers.Errorf(providers.ErrInvalid, machineObject(id), format, args...)
	}
	if len(req.Command) == 0 || req.Command[0] == "" {
		return invalid("no command was given")
	}
	for _, a := range req.Command {
		if strings.ContainsRune(a, 0) {
			return invalid("argument %q has a zero byte in it", a)
		}
	}
	for _, kv := range req.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.ContainsRune(kv, 0) {
			return invalid("environment %q is not NAME=value", kv)
		}
	}
	if req.Dir != "" && !path.IsAbs(req.Dir) {
		return invalid("directory %q is not an absolute path", req.Dir)
	}
	if req.Timeout < 0 || req.MaxOutput < 0 {
		return invalid("the timeout or the bound of the output is negative")
	}
	return nil
}

// startError gives the reason why a command could not be started a kind. Only
// the program itself can be missing; what else is missing makes the request wrong.
func startError(id types.UID, err error) error {
	kind := providers.ErrInvalid
	switch {
	case errors.Is(err, guest.ErrNoProgram):
		kind = providers.ErrNotFound
	case errors.Is(err, guest.ErrHalted):
		kind = providers.ErrUnavailable
	case errors.Is(err, syscall.EAGAIN):
		kind = providers.ErrCapacity
	}
	return providers.Errorf(kind, machineObject(id), "the command could not be started: %w", err)
}

// outputs are the bounded streams of one command.
type outputs struct {
	stdout, stderr *sink
}

func newOutputs(req providers.ExecRequest) *outputs {
	limit := cmp.Or(req.MaxOutput, providers.DefaultMaxOutput)
	mu := &sync.Mutex{} // shared, because the writers may be one and the same
	return &outputs{
		stdout: &sink{mu: mu, w: req.Stdout, left: limit},
		stderr: &sink{mu: mu, w: req.Stderr, left: limit},
	}
}

// detach ends both streams: what a command left in the background goes nowhere.
func (o *outputs) detach() (truncated bool, err error) {
	o.stdout.mu.Lock()
	defer o.stdout.mu.Unlock()
	for _, s := range []*sink{o.stdout, o.stderr} {
		truncated = truncated || s.truncated
		err = cmp.Or(err, s.err)
		s.w, s.left = nil, 0
	}
	return truncated, err
}

// sink passes up to a number of bytes on and drops the rest.
type sink struct {
	mu        *sync.Mutex
	w         io.Writer
	left      int64
	truncated bool
	err       error
}

// Write implements io.Writer. It never fails: a guest does not see what
// becomes of its output.
func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(int64(len(p)), s.left)
	if n < int64(len(p)) {
		s.truncated = true
	}
	s.left -= n
	if s.w != nil && n > 0 && s.err == nil {
		_, s.err = s.w.Write(p[:n])
	}
	return len(p), nil
}
