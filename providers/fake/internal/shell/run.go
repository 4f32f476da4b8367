package shell

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// sigpipe is the number of the signal that ends a writer without a reader.
const sigpipe = 13

// evaluator is the state of one shell or subshell.
type evaluator struct {
	host     Host
	streams  Streams
	args     []string
	vars     map[string]string
	exported map[string]bool
	dir      string
	status   int
	lastPID  int
	exiting  bool
	// substituted: the command at hand had a substitution.
	substituted bool
}

func newEvaluator(h Host, cfg Config) *evaluator {
	e := &evaluator{
		host: h, streams: cfg.Streams, args: cfg.Args, dir: cfg.Dir,
		vars: map[string]string{}, exported: map[string]bool{},
	}
	for _, kv := range cfg.Env {
		name, value, _ := strings.Cut(kv, "=")
		e.vars[name] = value
		e.exported[name] = true
	}
	return e
}

// fork copies the state for a subshell.
func (e *evaluator) fork() *evaluator {
	f := *e
	f.vars, f.exported = maps.Clone(e.vars), maps.Clone(e.exported)
	return &f
}

func (e *evaluator) run(ctx context.Context, l list) int {
	for _, it := range l {
		if e.exiting || ctx.Err() != nil {
			break
		}
		if it.background {
			sub, a := e.fork(), it.andOr
			sub.streams.In = strings.NewReader("")
			e.lastPID = e.host.Spawn(func(ctx context.Context, h Host) int {
				sub.host = h
				return sub.andOr(ctx, a)
			})
			if e.lastPID == 0 {
				return e.fail("cannot fork: too many processes")
			}
			e.status = 0
			continue
		}
		e.andOr(ctx, it.andOr)
	}
	return e.status
}

func (e *evaluator) andOr(ctx context.Context, a andOr) int {
	e.pipeline(ctx, a.first)
	for _, c := range a.rest {
		if !e.exiting && (e.status == 0) == c.and {
			e.pipeline(ctx, c.pipeline)
		}
	}
	return e.status
}

func (e *evaluator) pipeline(ctx context.Context, p pipeline) {
	if len(p.commands) == 1 {
		e.status = e.command(ctx, p.commands[0])
	} else {
		e.status = e.pipe(ctx, p.commands)
	}
	if p.negate {
		if e.status == 0 {
			e.status = 1
		} else {
			e.status = 0
		}
	}
}

// pipe runs commands at the same time, each in a subshell that reads what the
// one before it writes. The last one's exit code counts.
func (e *evaluator) pipe(ctx context.Context, commands []command) int {
	var wg sync.WaitGroup
	in, status := e.streams.In, 0
	for i, c := range commands {
		sub := e.fork()
		sub.streams.In = in
		segment, end := context.WithCancelCause(ctx)
		var out *io.PipeWriter
		if i < len(commands)-1 {
			var r *io.PipeReader
			r, out = io.Pipe()
			sub.streams.Out = &pipeEnd{out, end}
			in = r
		}
		wg.Go(func() {
			code := sub.command(segment, c)
			if out != nil {
				_ = out.Close()
			}
			if r, ok := sub.streams.In.(*io.PipeReader); ok && i > 0 {
				_ = r.Close()
			}
			end(nil)
			if i == len(commands)-1 {
				status = code
			}
		})
	}
	wg.Wait()
	return status
}

// pipeEnd ends its writer once nobody reads any more.
type pipeEnd struct {
	w   *io.PipeWriter
	end context.CancelCauseFunc
}

// Write implements io.Writer.
func (p *pipeEnd) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if err != nil {
		p.end(err)
	}
	return n, err
}

func (e *evaluator) command(ctx context.Context, c command) int {
	if err := e.host.Wait(ctx); err != nil {
		e.exiting = true
		return exitSignal + sigpipe // nobody sees it, unless the pipe broke
	}
	saved := e.streams
	files, err := e.redirect(ctx, c.redirects)
	defer func() {
		e.streams = saved
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		fmt.Fprintf(saved.Err, "sh: %v\n", err)
		return 1
	}
	switch {
	case c.subshell:
		return e.fork().run(ctx, c.group)
	case c.group != nil:
		return e.run(ctx, c.group)
	case c.cond != nil:
		return e.conditional(ctx, c.cond)
	case c.loop != nil:
		return e.loop(ctx, c.loop)
	}
	return e.simple(ctx, c)
}

func (e *evaluator) redirect(ctx context.Context, redirects []redirect) (files []io.Closer, err error) {
	for _, r := range redirects {
		if r.op == ">&" {
			from := e.streams.Out
			if r.source == 2 {
				from = e.streams.Err
			}
			e.setOutput(r.fd, from)
			continue
		}
		target := strings.Join(e.expand(ctx, r.target), " ")
		mode := map[string]OpenMode{"<": OpenRead, ">": OpenTruncate, ">>": OpenAppend}[r.op]
		f, err := e.host.Open(e.dir, target, mode)
		if err != nil {
			return files, fmt.Errorf("%s: %w", target, err)
		}
		files = append(files, f)
		if r.op == "<" {
			e.streams.In = f
		} else {
			e.setOutput(r.fd, f)
		}
	}
	return files, nil
}

func (e *evaluator) setOutput(fd int, w io.Writer) {
	if fd == 2 {
		e.streams.Err = w
	} else {
		e.streams.Out = w
	}
}

func (e *evaluator) conditional(ctx context.Context, c *conditional) int {
	for _, b := range c.branches {
		if e.run(ctx, b.test) == 0 && !e.exiting {
			e.status = 0
			return e.run(ctx, b.then)
		}
		if e.exiting {
			return e.status
		}
	}
	e.status = 0
	return e.run(ctx, c.otherwise)
}

func (e *evaluator) loop(ctx context.Context, l *loop) int {
	status := 0
	if l.variable != "" {
		for _, v := range e.expandAll(ctx, l.values) {
			e.set(l.variable, v)
			if status = e.run(ctx, l.body); e.exiting || ctx.Err() != nil {
				break
			}
		}
		return status
	}
	for ctx.Err() == nil {
		test := e.run(ctx, l.test)
		if e.exiting {
			return e.status
		}
		if (test == 0) == l.until {
			break
		}
		if status = e.run(ctx, l.body); e.exiting {
			break
		}
	}
	return status
}

func (e *evaluator) simple(ctx context.Context, c command) int {
	e.substituted = false
	args := e.expandAll(ctx, c.words)
	if len(args) == 0 {
		return e.assign(ctx, c.assigns)
	}
	values := make([]string, len(c.assigns))
	for i, a := range c.assigns {
		values[i] = strings.Join(e.expand(ctx, a.value), " ")
	}
	if e.exiting {
		return e.status
	}
	if code, ok := e.builtin(ctx, args); ok {
		return code
	}
	p := Program{Args: args, Env: e.environ(), Dir: e.dir, Streams: e.streams}
	for i, a := range c.assigns {
		p.Env = append(p.Env, a.name+"="+values[i])
	}
	return e.host.Exec(ctx, p)
}

// assign sets variables of the shell. Its exit code is that of the last
// substitution.
func (e *evaluator) assign(ctx context.Context, assigns []assign) int {
	for _, a := range assigns {
		e.set(a.name, strings.Join(e.expand(ctx, a.value), " "))
	}
	if !e.substituted && !e.exiting {
		return 0
	}
	return e.status
}

func (e *evaluator) environ() []string {
	env := make([]string, 0, len(e.exported))
	for name := range e.exported {
		if v, ok := e.vars[name]; ok {
			env = append(env, name+"="+v)
		}
	}
	slices.Sort(env)
	return env
}

// fail ends the shell with a message.
func (e *evaluator) fail(format string, args ...any) int {
	fmt.Fprintf(e.streams.Err, "sh: "+format+"\n", args...)
	e.exiting, e.status = true, ExitSyntax
	return e.status
}
