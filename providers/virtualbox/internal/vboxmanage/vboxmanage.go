// Package vboxmanage runs VBoxManage, VirtualBox's command line.
//
//	Run(Call) ──▶ VM's turn ──▶ place in the pool ──▶ process ──▶ Output or Failure
//	                                                     │
//	                             lock held for a moment ◀┘ tried again, with pauses
//
// Every call is an argument list, never a shell's line, has a deadline, and reads
// nothing from its caller's input. Calls about one machine are made one after
// the other, because VBoxManage takes the machine's lock even to look at it;
// calls about different machines run side by side, so many at a time.
//
// A call is not cut off when its caller goes: of one that changes something
// VirtualBox would do the other half on its own or never, and a process that is
// killed while it connects to VBoxSVC was seen to leave that deaf until its end.
// It goes on to its end or its deadline, and keeps the machine's turn until then.
// One that still waits for its place is given up, though: nothing was begun. The
// other exception is a call that waits for a guest, which may take any time.
package vboxmanage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/keylock"
	"sandboxd.dev/sandboxd/providers/internal/lifetime"
)

// Limits of time for calls.
const (
	// Quick is for calls that look or change a setting. Cold, with VBoxSVC to be
	// started and a hundred machines to be read, one was seen to take 3 s.
	Quick = time.Minute
	// Slow is for calls that start, save or remove a machine.
	Slow = 5 * time.Minute
)

const (
	// maxOutput bounds what is kept of a call's output, in bytes: the details of
	// a thousand machines take 6 MB.
	maxOutput = 32 << 20
	// retryFor is how long a lock that others hold is waited for. VirtualBox
	// lets go of a machine within a second of its end.
	retryFor   = 5 * time.Second
	retryFirst = 50 * time.Millisecond
	retryLast  = 500 * time.Millisecond
	// killAfter a process that was asked to end: one whose VM goes away was seen
	// to ignore it for ever.
	killAfter = 2 * time.Second
	// parallel is how many processes run at a time.
	parallel = 8
)

// Options of a Client.
type Options struct {
	// Program is the path of VBoxManage, or a name to look for; see Find.
	Program string
	// UserHome is VirtualBox's folder of settings (VBOX_USER_HOME); empty means
	// the user's own.
	UserHome string
	// BeforeChange is called before each call that may change something, by the
	// goroutine of the call; nil for nobody. It may end that goroutine.
	BeforeChange func()
	// OnDelay is called when a call takes long, and again and again until it
	// ends: VBoxSVC may have died and left somebody behind who holds all up. nil
	// for nobody.
	OnDelay func()
}

// Client runs VBoxManage. Its methods may be called from many goroutines.
type Client struct {
	opts  Options
	turns *keylock.Set
	pool  *semaphore.Weighted
	count atomic.Int64
	away  *outage

	life *lifetime.Lifetime // of calls that go on without their callers
}

// New makes a Client. Nothing runs yet.
func New(o Options) *Client {
	return &Client{opts: o, turns: keylock.New(), pool: semaphore.NewWeighted(parallel), life: lifetime.New(), away: newOutage()}
}

// Close waits for calls that go on without their callers, and ends those that wait
// for a guest. Later calls fail.
func (c *Client) Close() {
	c.life.End()
	c.life.Wait()
}

// Processes is how many were started so far.
func (c *Client) Processes() int64 { return c.count.Load() }

// Call is one run of VBoxManage.
type Call struct {
	// Object that errors are about.
	Object string
	// VM is the UUID of the machine whose turn the call takes; empty for none.
	VM   string
	Args []string
	// Limit of time for the process; 0 means Quick.
	Limit time.Duration
	// Interruptible calls end when their caller's context does, or by Close. They
	// have no limit and take no place in the pool, because they wait for a guest.
	Interruptible bool
	// Stdout and Stderr get the output as it comes; nil keeps it for Output.
	// With one of them set a call is not tried again.
	Stdout, Stderr io.Writer
	// whole tells whether the output of a call that ended with 0 is all that was
	// asked for; nil where there is nothing to miss.
	whole func(Output) bool
}

// Output of a call that succeeded.
type Output struct{ Stdout, Stderr []byte }

// Run makes a call. Its error is a *providers.Error that wraps a *Failure, or
// the context's.
func (c *Client) Run(ctx context.Context, call Call) (Output, error) {
	if err := ctx.Err(); err != nil {
		return Output{}, err
	}
	if c.life.Over() {
		return Output{}, errClosed(call)
	}
	if c.opts.BeforeChange != nil && !onlyLooks(call.Args) {
		c.opts.BeforeChange()
	}
	unlock, err := c.turn(ctx, call)
	if err != nil {
		return Output{}, err
	}
	if call.Interruptible {
		defer unlock()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.life.Context(), cancel)()
		return c.attempts(ctx, ctx, call)
	}
	type result struct {
		out Output
		err error
	}
	done := make(chan result, 1)
	if !c.life.Go(func() {
		defer unlock()
		out, err := c.attempts(ctx, context.WithoutCancel(ctx), call)
		done <- result{out, err}
	}) {
		unlock()
		return Output{}, errClosed(call)
	}
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		return Output{}, ctx.Err()
	}
}

func errClosed(call Call) error {
	return providers.Errorf(providers.ErrUnavailable, call.Object, "the provider was closed, because sandboxd is stopping")
}

// onlyLooks tells whether a call changes nothing.
func onlyLooks(args []string) bool {
	if len(args) > 1 && args[0] == "guestproperty" {
		return args[1] == "enumerate" || args[1] == "wait"
	}
	if len(args) > 1 && args[0] == "unattended" {
		return args[1] == "detect"
	}
	return len(args) > 0 && slices.Contains([]string{"list", "showvminfo", "showmediuminfo", "--version"}, args[0])
}

// turn waits for the machine's turn.
func (c *Client) turn(ctx context.Context, call Call) (func(), error) {
	if call.VM == "" {
		return func() {}, nil
	}
	return c.turns.Lock(ctx, call.VM)
}

// attempts makes a call until it is not refused for a moment's reason. For its
// place in the pool it waits no longer than its caller; no part of its limit goes
// into that.
func (c *Client) attempts(caller, ctx context.Context, call Call) (Output, error) {
	var taken time.Duration
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		leave, err := c.place(caller, call)
		if err != nil {
			return Output{}, err
		}
		if wait, err := c.away.claim(); wait > 0 {
			leave()
			if taken += wait; taken > retryFor || sleep(ctx, wait) != nil {
				return Output{}, err
			}
			continue
		}
		begun := time.Now()
		out, err := c.limited(ctx, call)
		leave()
		c.note(call, err)
		taken += time.Since(begun)
		var f *Failure
		again := errors.As(err, &f) && f.momentary() && call.Stdout == nil && call.Stderr == nil
		if !again || taken > retryFor || sleep(ctx, pause) != nil {
			return out, err
		}
		taken += pause
	}
}

// note notes whether VirtualBox was reached. Of its version VBoxManage tells by itself.
func (c *Client) note(call Call, err error) {
	switch {
	case errors.Is(err, providers.ErrDown):
		c.away.failed(err)
	case verb(call.Args) != "--version" && (err == nil || errors.As(err, new(*Failure))):
		c.away.over()
	}
}

// place waits for a place in the pool.
func (c *Client) place(ctx context.Context, call Call) (leave func(), err error) {
	if call.Interruptible {
		return func() {}, nil
	}
	if err := c.pool.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { c.pool.Release(1) }, nil
}

// limited makes a call once, within its limit.
func (c *Client) limited(ctx context.Context, call Call) (Output, error) {
	limit := cmp.Or(call.Limit, Quick)
	if !call.Interruptible {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errLimit)
		defer cancel()
	}
	out, err := c.once(ctx, call)
	return out, c.explain(ctx, call, limit, err)
}

var errLimit = errors.New("the call took too long")

// explain turns what went wrong into an error for the caller.
func (c *Client) explain(ctx context.Context, call Call, limit time.Duration, err error) error {
	var f *Failure
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errLimit) && slices.Contains(call.Args[:min(1, len(call.Args))], "list"): // of all machines: it hangs for all
		return providers.Errorf(providers.ErrDown, "VirtualBox", "VBoxManage list did not end within %v and was killed", limit)
	case errors.Is(context.Cause(ctx), errLimit):
		return providers.Errorf(providers.ErrUnavailable, call.Object, "VBoxManage %s did not end within %v and was killed", verb(call.Args), limit)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &f) && f.Unreached:
		return providers.Errorf(providers.ErrDown, "VirtualBox", "%w", f)
	case errors.As(err, &f):
		return providers.Errorf(f.Kind(), call.Object, "%w", f)
	case errors.Is(err, providers.ErrDown):
		return err
	default:
		return providers.Errorf(providers.ErrUnavailable, call.Object, "%w", err)
	}
}

// once runs the process.
func (c *Client) once(ctx context.Context, call Call) (Output, error) {
	program, err := Find(c.opts.Program)
	if err != nil {
		return Output{}, providers.Errorf(providers.ErrDown, "VirtualBox", "%w", err)
	}
	var stdout, stderr bounded
	cmd := exec.CommandContext(ctx, program, call.Args...)
	cmd.Env = c.environment()
	to, toErr := io.Writer(&stdout), io.Writer(&stderr)
	if call.Stdout != nil {
		to = call.Stdout
	}
	if call.Stderr != nil {
		toErr = io.MultiWriter(&stderr, call.Stderr)
	}
	// A group of its own: Ctrl-C in the daemon's terminal must not cut a call
	// off, nor reach VBoxSVC, which the first call starts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	c.count.Add(1)
	stop := c.watchDelay(call)
	err = runAttached(ctx, cmd, to, toErr)
	stop()
	if errors.Is(err, errUnread) {
		return Output{}, err
	}
	out := Output{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return out, newFailure(call.Args, exit.ExitCode(), out.Stderr)
	}
	if err == nil && call.whole != nil && !call.whole(out) {
		f := newFailure(call.Args, 0, out.Stderr)
		f.Cut = true
		return out, f
	}
	return out, err
}

// delay is after how long a call takes long: many times what one takes that does
// not start, save or remove a machine.
const delay = 5 * time.Second

// watchDelay calls OnDelay as long as a call takes long. Those that wait for a
// guest may.
func (c *Client) watchDelay(call Call) (stop func()) {
	if c.opts.OnDelay == nil || call.Interruptible {
		return func() {}
	}
	over := make(chan struct{})
	c.life.Go(func() {
		t := time.NewTicker(delay)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				c.opts.OnDelay()
			case <-over:
				return
			}
		}
	})
	return func() { close(over) }
}

// environment is what VBoxManage gets to see: its messages in English, its
// arguments in UTF-8.
func (c *Client) environment() []string {
	env := []string{"LC_ALL=C.UTF-8", "LANG=C.UTF-8", "LANGUAGE="}
	for _, name := range []string{"HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "VBOX_USER_HOME", "VBOX_IPC_SOCKETID", "VBOX_INSTALL_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	if c.opts.UserHome != "" {
		env = append(env, "VBOX_USER_HOME="+c.opts.UserHome)
	}
	return env
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// verb is what a call does, for messages.
func verb(args []string) string {
	switch {
	case len(args) == 0:
		return ""
	case args[0] == "controlvm" || args[0] == "snapshot" || args[0] == "guestcontrol" || args[0] == "guestproperty":
		if len(args) > 2 && args[0] != "guestproperty" {
			return args[0] + " " + args[2]
		}
	case args[0] == "list":
		return strings.TrimSpace(args[0] + " " + listedBy(args[1:]))
	case len(args) > 1 && (args[0] == "hostonlyif" || args[0] == "hostonlynet" || args[0] == "dhcpserver"):
		return args[0] + " " + args[1]
	}
	return args[0]
}

// bounded keeps the first maxOutput bytes written to it.
type bounded struct{ kept bytes.Buffer }

func (b *bounded) Bytes() []byte { return b.kept.Bytes() }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.kept.Len(); room > 0 {
		_, _ = b.kept.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

// Version asks for VirtualBox's version, such as 7.2.22_Debianr175245. It needs
// no VBoxSVC.
func (c *Client) Version(ctx context.Context) (string, error) {
	out, err := c.Run(ctx, Call{Object: "VirtualBox", Args: []string{"--version"}})
	if err != nil {
		return "", err
	}
	lines := bytes.Fields(out.Stdout) // warnings may come first
	if len(lines) == 0 {
		return "", providers.Errorf(providers.ErrUnavailable, "VirtualBox", "VBoxManage --version printed nothing")
	}
	return string(lines[len(lines)-1]), nil
}
