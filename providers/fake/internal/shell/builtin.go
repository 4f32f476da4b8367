package shell

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// builtin runs the commands that change the shell itself.
func (e *evaluator) builtin(ctx context.Context, args []string) (code int, ok bool) {
	switch args[0] {
	case ":":
		return 0, true
	case "cd":
		return e.cd(args[1:]), true
	case "exit":
		return e.exit(args[1:]), true
	case "exec":
		return e.exec(ctx, args[1:]), true
	case "export":
		for _, a := range args[1:] {
			name, value, given := strings.Cut(a, "=")
			if given {
				e.set(name, value)
			}
			e.exported[name] = true
		}
		return 0, true
	case "unset":
		for _, name := range args[1:] {
			delete(e.vars, name)
			delete(e.exported, name)
		}
		return 0, true
	case "shift":
		if len(e.args) < 2 {
			return 1, true
		}
		e.args = append([]string{e.args[0]}, e.args[2:]...)
		return 0, true
	case "wait":
		e.host.Join(ctx)
		return 0, true
	}
	return 0, false
}

func (e *evaluator) cd(args []string) int {
	to := e.vars["HOME"]
	if len(args) > 0 {
		to = args[0]
	}
	dir, err := e.host.Enter(e.dir, to)
	if err != nil {
		fmt.Fprintf(e.streams.Err, "sh: cd: %s: %v\n", to, err)
		return 1
	}
	e.dir = dir
	return 0
}

func (e *evaluator) exit(args []string) int {
	code := e.status
	if len(args) > 0 {
		n, err := strconv.ParseUint(args[0], 10, 31)
		if err != nil {
			return e.fail("exit: bad number %q", args[0])
		}
		code = int(n & 0xff)
	}
	e.exiting, e.status = true, code
	return code
}

func (e *evaluator) exec(ctx context.Context, args []string) int {
	if len(args) == 0 {
		return e.fail("exec needs a command")
	}
	code := e.host.Exec(ctx, Program{
		Args: args, Env: e.environ(), Dir: e.dir, Streams: e.streams, InPlace: true,
	})
	e.exiting, e.status = true, code
	return code
}
