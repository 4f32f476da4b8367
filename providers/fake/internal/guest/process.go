package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"sandboxd.dev/sandboxd/providers/fake/internal/shell"
)

// Bounds that keep a program from exhausting the real host.
const (
	maxProcesses = 1024
	maxNesting   = 32 // of programs that run programs
	// burst is how many steps a process makes before it rests for a
	// millisecond, so that an endless loop lets time pass.
	burst = 1024
)

// signal is the cause that a process was ended by one.
type signal int

// Error implements error.
func (s signal) Error() string { return fmt.Sprintf("signal %d", int(s)) }

const (
	sigkill signal = 9
	sigpipe signal = 13
)

// process is one running program.
type process struct {
	sys      *System
	pid      int
	session  int // pid of the process that Start made
	nesting  atomic.Int32
	ctx      context.Context
	end      context.CancelCauseFunc
	done     chan struct{}
	children []*process // made by Spawn, guarded by sys.mu
	steps    atomic.Int64
	// interactive: a shell that somebody types at, which Ctrl-C does not end.
	interactive atomic.Bool
}

// Command is a program to start.
type Command struct {
	Args []string
	User string
	Dir  string
	Env  []string
	shell.Streams
	// Terminal, unless it is nil, takes the place of the streams.
	Terminal *Terminal
}

// Job is a program that was started.
type Job struct {
	process *process
	code    int
}

// Done is closed when the program has ended.
func (j *Job) Done() <-chan struct{} { return j.process.done }

// ExitCode of the program, once it has ended: 128+N if signal N ended it.
func (j *Job) ExitCode() int { return j.code }

// Halted tells, once the program has ended, that it did so with the System.
func (j *Job) Halted() bool { return errors.Is(context.Cause(j.process.ctx), ErrHalted) }

// Kill ends the program and all that it has started.
func (j *Job) Kill() {
	s := j.process.sys
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		if p.session == j.process.session {
			p.end(sigkill)
		}
	}
}

// Start starts a program in a session of its own.
func (s *System) Start(cmd Command) (*Job, error) {
	if s.ctx.Err() != nil {
		return nil, ErrHalted
	}
	if cmd.User == "" {
		cmd.User = "root"
	}
	u, ok := s.disk.user(cmd.User)
	if !ok {
		return nil, fmt.Errorf("%q: %w", cmd.User, ErrNoUser)
	}
	if cmd.Dir == "" {
		cmd.Dir = u.home
	}
	if info, err := s.Stat(cmd.Dir); err != nil {
		return nil, fmt.Errorf("directory %q: %w", cmd.Dir, err)
	} else if !info.Dir {
		return nil, fmt.Errorf("directory %q: %w", cmd.Dir, syscall.ENOTDIR)
	}
	run, err := s.find(cmd.Dir, cmd.Args)
	if err != nil {
		return nil, err
	}
	p, err := s.newProcess(s.ctx, nil)
	if err != nil {
		return nil, err
	}
	j := &Job{process: p}
	if in, ok := cmd.In.(io.Closer); ok { // what reads it must end too
		context.AfterFunc(p.ctx, func() { _ = in.Close() })
	}
	if t := cmd.Terminal; t != nil {
		cmd.Streams = shell.Streams{In: t, Out: t, Err: t}
		t.mu.Lock()
		t.interrupt = func() { s.interruptSession(p.session) }
		t.mu.Unlock()
		context.AfterFunc(p.ctx, t.Close)
	}
	env := append([]string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + u.home, "USER=" + cmd.User,
	}, cmd.Env...)
	go func() {
		defer close(p.done)
		j.code = p.run(run, call{Program: shell.Program{
			Args: cmd.Args, Env: env, Dir: cmd.Dir, Streams: cmd.Streams,
		}})
	}()
	return j, nil
}

// newProcess registers a process; parent is nil for the first of a session.
func (s *System) newProcess(ctx context.Context, parent *process) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.processes) >= maxProcesses {
		return nil, syscall.EAGAIN
	}
	s.lastPID++
	p := &process{sys: s, pid: s.lastPID, session: s.lastPID, done: make(chan struct{})}
	if parent != nil {
		n := parent.nesting.Load()
		if n >= maxNesting {
			return nil, syscall.EAGAIN
		}
		p.nesting.Store(n + 1)
		p.session = parent.session
	}
	p.ctx, p.end = context.WithCancelCause(ctx)
	s.processes[p.pid] = p
	return p, nil
}

// run runs a program as the process and unregisters it.
func (p *process) run(f program, c call) int {
	c.ctx, c.process = p.ctx, p
	code := f(c)
	cause := context.Cause(p.ctx)
	p.sys.mu.Lock()
	delete(p.sys.processes, p.pid)
	p.sys.mu.Unlock()
	p.end(nil)
	var sig signal
	switch {
	case cause == nil:
		return code
	case errors.As(cause, &sig):
		return 128 + int(sig)
	case errors.Is(cause, io.ErrClosedPipe):
		return 128 + int(sigpipe)
	}
	return 128 + int(sigkill)
}

// kill sends a signal to a process; 0 only asks whether it exists.
func (s *System) kill(pid int, sig signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.processes[pid]
	if ok && sig != 0 {
		p.end(sig)
	}
	return ok
}

// Wait implements shell.Host.
func (p *process) Wait(ctx context.Context) error {
	if p.steps.Add(1)%burst == 0 {
		p.sys.sleep(ctx, time.Millisecond)
	}
	for {
		p.sys.mu.Lock()
		gate := p.sys.frozen
		p.sys.mu.Unlock()
		if err := ctx.Err(); err != nil || gate == nil {
			return err
		}
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
}

// PID implements shell.Host.
func (p *process) PID() int { return p.pid }

// Exec implements shell.Host.
func (p *process) Exec(ctx context.Context, prog shell.Program) int {
	f, err := p.sys.find(prog.Dir, prog.Args)
	if err != nil {
		fmt.Fprintf(prog.Err, "sh: %v\n", err)
		if errors.Is(err, ErrNoProgram) {
			return shell.ExitNotFound
		}
		return shell.ExitNotExecutable
	}
	if prog.InPlace && p.nesting.Add(1) <= maxNesting {
		return f(call{ctx: ctx, process: p, Program: prog})
	}
	child, err := p.sys.newProcess(ctx, p)
	if err != nil {
		fmt.Fprintf(prog.Err, "sh: cannot fork: %v\n", err)
		return shell.ExitNotExecutable
	}
	return child.run(f, call{Program: prog})
}

// Spawn implements shell.Host.
func (p *process) Spawn(f func(ctx context.Context, h shell.Host) int) int {
	child, err := p.sys.newProcess(p.sys.ctx, p)
	if err != nil {
		return 0
	}
	p.sys.mu.Lock()
	p.children = append(slices.DeleteFunc(p.children, (*process).ended), child)
	p.sys.mu.Unlock()
	go func() {
		defer close(child.done)
		child.run(func(c call) int { return f(c.ctx, child) }, call{})
	}()
	return child.pid
}

// Join implements shell.Host.
func (p *process) Join(ctx context.Context) {
	p.sys.mu.Lock()
	children := slices.Clone(p.children)
	p.sys.mu.Unlock()
	for _, c := range children {
		select {
		case <-c.done:
		case <-ctx.Done():
		}
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// find returns the program that the first argument names.
func (s *System) find(dir string, args []string) (program, error) {
	name := args[0]
	if !strings.Contains(name, "/") {
		if f := lookup(name); f != nil {
			return f, nil
		}
		return nil, fmt.Errorf("%q: %w", name, ErrNoProgram)
	}
	abs := absolute(dir, name)
	if f := lookup(path.Base(abs)); f != nil && isProgramDir(path.Dir(abs)) {
		return f, nil
	}
	f, in := s.resolve(abs)
	info, err := f.stat(in)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, ErrNoProgram)
	}
	if info.Dir || info.Device || info.Mode&0o111 == 0 {
		return nil, fmt.Errorf("%q: %w", name, ErrNotExecutable)
	}
	data, err := f.read(in)
	if err != nil || !strings.HasPrefix(string(data), "#!/bin/sh") {
		return nil, fmt.Errorf("%q: %w", name, ErrNotExecutable)
	}
	return func(c call) int {
		c.Args = slices.Concat([]string{"sh", abs}, c.Args[1:])
		return runShell(c)
	}, nil
}

func absolute(dir, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(dir, name)
}
