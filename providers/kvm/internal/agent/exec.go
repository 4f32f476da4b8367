package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// Sizes, in bytes.
const (
	// inlineMax is what travels in one message with its command or its
	// result; longer things go by files.
	inlineMax = 48 << 10
	// chunk of a file in one message. Measured with QEMU 7.2 under TCG: larger
	// ones are no faster (64 KiB: write 2.5 MB/s, read 9 MB/s), and from 128 KiB
	// on the agent's reading of its channel stalls.
	chunk = 64 << 10
	// maxMessage bounds a command to the agent, for the same reason.
	maxMessage = 160 << 10
)

const (
	// tailAfter is when output is read of a command that has not ended yet.
	tailAfter = 200 * time.Millisecond
	// silence is how long an agent may fail to answer while a command runs.
	silence = 45 * time.Second
	// afterwards bounds killing and cleaning up once the caller is gone.
	afterwards = 30 * time.Second
)

// run is one command under way.
type run struct {
	c       *Client
	dir     string // private directory in the guest
	pid     int64  // of run.sh
	started time.Time
	streams [2]outlet
	feeder  *feeder     // nil when the input travels with the command
	moved   atomic.Bool // something went in since the last look
	starved bool        // the input could not be passed on
}

// settle is how long a short input is waited for, which then travels with its
// command.
const settle = 20 * time.Millisecond

// Exec runs a command; see providers.Guests. The kinds of errors are the
// caller's to add: those of package guestcall, a context's, or the transport's.
func (c *Client) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	if err := guestcall.CheckExec(req); err != nil {
		return providers.ExecResult{}, err
	}
	token := guestscript.Token()
	r := &run{c: c, dir: "/tmp/.sandboxd-" + token}
	stdout, stderr := guestio.Outputs(req)
	if pumps(req) {
		r.streams = [2]outlet{newPumped(c, r.dir+"/out", token, stdout), newPumped(c, r.dir+"/err", token, stderr)}
	} else {
		token = ""
		r.streams = [2]outlet{&stream{c: c, path: r.dir + "/out", out: stdout}, &stream{c: c, path: r.dir + "/err", out: stderr}}
	}
	var in *guestio.Gather
	if req.Stdin != nil {
		in = guestio.NewGather(req.Stdin, piece)
		defer in.Close()
	}
	if err := r.start(ctx, req, in, token); err != nil {
		return providers.ExecResult{}, err
	}
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, req.Timeout, guestcall.ErrTimeUp)
		defer cancel()
	}
	code, err := r.attend(ctx, req)
	return r.outcome(ctx, code, err)
}

// pumps tells whether the output of a command may be more than the guest is to
// keep.
func pumps(req providers.ExecRequest) bool {
	return req.TTY || req.MaxOutput > providers.DefaultMaxOutput
}

// attend feeds the command, and follows it to its end.
func (r *run) attend(ctx context.Context, req providers.ExecRequest) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	if r.feeder != nil {
		beside.Go(func() {
			if err := r.feeder.feed(ctx, func() { r.moved.Store(true) }); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	if req.TTY {
		beside.Go(func() { r.resize(ctx, req.Resize) })
	}
	code, err := r.follow(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	beside.Wait()
	if r.feeder != nil {
		late, done := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
		defer done()
		r.feeder.stop(late)
	}
	if err != nil && cause != nil {
		err, r.starved = cause, true
	}
	return code, err
}

// outcome tells how the command ended, and ends it if it has not.
func (r *run) outcome(ctx context.Context, code int, err error) (providers.ExecResult, error) {
	switch {
	case err != nil && ctx.Err() != nil:
		return r.abandon(ctx)
	case errors.Is(err, guestcall.ErrCaller), r.starved:
		_, _ = r.abandon(ctx)
	}
	return providers.ExecResult{ExitCode: code, Truncated: r.truncated()}, lost(err)
}

// resize passes on the sizes of the terminal.
func (r *run) resize(ctx context.Context, sizes <-chan providers.TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			// A guest without stty has a terminal that keeps its size.
			_, _ = r.c.shell(ctx, `exec stty rows "$2" cols "$3" <"$(cat "$1/tty")" 2>/dev/null`, nil,
				r.dir, strconv.Itoa(int(size.Height)), strconv.Itoa(int(size.Width)))
		}
	}
}

// lost words the error of a transport that ended a command under way. That the
// machine is off or gone by then would otherwise say that it was never begun.
func lost(err error) error {
	if kind := providers.KindOf(err); kind == providers.ErrBusy || kind == providers.ErrNotFound {
		return fmt.Errorf("the machine went off while the command ran: %v", err) //nolint:errorlint // its kind is that of another call
	}
	return err
}

// encode makes arguments fit for JSON, which carries text only: if one is not
// valid UTF-8, all are written for printf's %b.
func encode(args []string) (encoded []string, coded string) {
	if !slices.ContainsFunc(args, func(a string) bool { return !utf8.ValidString(a) }) {
		return args, "no"
	}
	for _, a := range args {
		var b strings.Builder
		for _, c := range []byte(a) {
			fmt.Fprintf(&b, "\\0%03o", c)
		}
		encoded = append(encoded, b.String())
	}
	return encoded, "yes"
}

// start starts the command, with its input if that is short.
func (r *run) start(ctx context.Context, req providers.ExecRequest, in *guestio.Gather, token string) error {
	mode := "none"
	var inline []byte
	if in != nil {
		all, ended, err := in.Settle(ctx, settle)
		if err != nil {
			return guestcall.InputError(err)
		}
		if mode = "inline"; !ended || len(all) > inlineMax || req.TTY {
			mode = "fifo"
			r.feeder = &feeder{c: r.c, dir: r.dir, tty: req.TTY, in: in}
		} else {
			inline = all
		}
	}
	words := slices.Concat([]string{req.Dir, strconv.Itoa(len(req.Env))}, req.Env, req.Command)
	tty := ""
	if req.TTY {
		tty = "yes"
		select {
		case size, ok := <-req.Resize:
			if ok {
				tty = fmt.Sprintf("%d %d", size.Height, size.Width)
			}
		default:
		}
		words = []string{guestscript.Quote(guestscript.Inner), guestscript.Quote(words...)}
	}
	rest, coded := encode(words)
	args := append([]string{
		"-c", runScript, "sandboxd", r.dir, req.User, mode, strconv.Itoa(inlineMax), guestscript.Inner, coded, token, tty,
	}, rest...)
	pid, err := r.c.start(ctx, shellPath, args, inline)
	if err != nil {
		if ctx.Err() != nil {
			r.clean(ctx)
		}
		return noShell(err)
	}
	r.pid, r.started = pid, time.Now()
	return nil
}

// fill writes an existing file, in constant memory.
func (c *Client) fill(ctx context.Context, path string, from io.Reader) error {
	handle, err := c.open(ctx, path, "w")
	if err != nil {
		return err
	}
	err = c.copyIn(ctx, handle, from)
	return first(err, c.close(context.WithoutCancel(ctx), handle))
}

func (c *Client) copyIn(ctx context.Context, handle int64, from io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(from, buf)
		if n > 0 {
			if err := c.write(ctx, handle, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return guestcall.InputError(err)
		}
	}
}

// follow waits for the command's end and passes its output on.
func (r *run) follow(ctx context.Context) (int, error) {
	var p pace
	heard := time.Now()
	var passed int64
	for {
		if now := r.streams[0].passed() + r.streams[1].passed(); r.moved.Swap(false) || now != passed {
			p, passed = pace{}, now // somebody may be talking with it
		}
		s, err := r.c.status(ctx, r.pid)
		switch {
		case err == nil && s.Exited:
			return r.finish(ctx, s)
		case err == nil:
			heard = time.Now()
			if r.feeder != nil || time.Since(r.started) > tailAfter {
				if err := r.tail(ctx); err != nil && !isSilence(err) {
					return 0, err
				}
			}
		case ctx.Err() != nil:
			return 0, err
		case errors.Is(err, guestcall.ErrRefused):
			return 0, fmt.Errorf("the command is lost, because the guest or its agent has restarted: %w", err)
		case time.Since(heard) > silence:
			return 0, err
		}
		if err := p.pause(ctx); err != nil {
			return 0, err
		}
	}
}

// isSilence tells whether the transport failed, as opposed to the guest's
// answer or the caller's writer.
func isSilence(err error) bool { return providers.KindOf(err) == providers.ErrUnavailable }

// finish passes on the rest of the output and returns the exit code.
func (r *run) finish(ctx context.Context, s status) (int, error) {
	if s.Signal != nil && len(s.Out) == 0 { // somebody in the guest killed run.sh itself
		err := r.drain(ctx, true)
		r.clean(ctx)
		return 128 + *s.Signal, err
	}
	rep, err := parseReport(s)
	if err != nil {
		r.clean(ctx)
		return 0, err
	}
	if rep.refused != "" {
		return 0, guestscript.Refusal(rep.refused)
	}
	if !rep.inline {
		err := r.drain(ctx, false)
		r.clean(ctx)
		return rep.code, err
	}
	// The script has removed the directory: what was not read yet is here.
	for i, data := range [][]byte{rep.out, rep.stdER} {
		st, ok := r.streams[i].(*stream)
		if !ok {
			return 0, fmt.Errorf("the guest's report on the command is not understood")
		}
		if int64(len(data)) != rep.sizes[i] {
			err = first(err, fmt.Errorf("the guest says the command wrote %d bytes and sent %d", rep.sizes[i], len(data)))
			continue
		}
		err = first(err, st.deliver(data[min(st.read, int64(len(data))):]), st.close(ctx))
	}
	return rep.code, err
}

// tail reads what is there of both streams.
func (r *run) tail(ctx context.Context) error {
	for _, s := range r.streams {
		if err := s.tail(ctx); err != nil {
			return err
		}
	}
	return nil
}

// drain reads both streams to their end and closes them.
func (r *run) drain(ctx context.Context, killed bool) error {
	return first(r.streams[0].drain(ctx, killed), r.streams[1].drain(ctx, killed))
}

// abandon kills the command because its time is up or its caller is gone. The
// output so far is delivered to a caller who still waits.
func (r *run) abandon(ctx context.Context) (providers.ExecResult, error) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	out, err := r.c.shell(late, guestscript.Kill, nil, r.dir, strconv.FormatInt(r.pid, 10))
	timeUp := errors.Is(context.Cause(ctx), guestcall.ErrTimeUp)
	if timeUp {
		err = first(err, r.drain(late, true))
	}
	r.clean(late)
	if !timeUp {
		return providers.ExecResult{}, ctx.Err()
	}
	if err != nil {
		return providers.ExecResult{}, fmt.Errorf("the command's time was up and it could not be killed: %w", err)
	}
	if line, _ := cutLine(out); line != "gone" {
		return providers.ExecResult{}, fmt.Errorf("%w: the command's time was up and it does not die", guestcall.ErrRefused)
	}
	return providers.ExecResult{ExitCode: guestcall.KilledCode, TimedOut: true, Truncated: r.truncated()}, nil
}

// clean removes the command's directory, as far as the guest still answers.
func (r *run) clean(ctx context.Context) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	for _, s := range r.streams {
		_ = s.close(late)
	}
	_, _ = r.c.shell(late, `b=$(cat "$1/bg") && [ -n "$b" ] && kill $b; rm -rf "$1"`, nil, r.dir)
}

func (r *run) truncated() bool { return r.streams[0].dropped() || r.streams[1].dropped() }
