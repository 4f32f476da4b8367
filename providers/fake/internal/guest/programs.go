package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sandboxd.dev/sandboxd/providers/fake/internal/shell"
)

// call is one run of a program.
type call struct {
	ctx     context.Context
	process *process
	shell.Program
}

// program runs to its end and returns its exit code.
type program func(c call) int

func isProgramDir(dir string) bool {
	return dir == "/bin" || dir == "/usr/bin" || dir == "/sbin" || dir == "/usr/sbin"
}

// lookup returns the program of a name, or nil.
func lookup(name string) program {
	switch name {
	case "sh":
		return runShell
	case "true", "sync":
		return func(call) int { return 0 }
	case "false":
		return func(call) int { return 1 }
	case "echo":
		return func(c call) int { return c.print(strings.Join(c.Args[1:], " ") + "\n") }
	case "printf":
		return printf
	case "pwd":
		return func(c call) int { return c.print(c.Dir + "\n") }
	case "env":
		return env
	case "cat":
		return cat
	case "yes":
		return yes
	case "sleep":
		return sleep
	case "kill":
		return kill
	case "test", "[":
		return test
	case "sha256sum":
		return sha256sum
	case "head":
		return head
	case "wc":
		return wc
	case "hostname":
		return hostname
	case "uname":
		return func(c call) int { return c.print("Linux\n") }
	case "nproc":
		return func(c call) int { return c.print(fmt.Sprintln(c.process.sys.cfg.CPUs)) }
	case "id", "whoami":
		return id
	case "command":
		return func(c call) int {
			if len(c.Args) != 3 || c.Args[1] != "-v" || lookup(c.Args[2]) == nil {
				return 1
			}
			return c.print("/bin/" + c.Args[2] + "\n")
		}
	case "stty":
		return stty
	case "tty":
		return tty
	case "nc":
		return nc
	case "poweroff", "halt":
		return poweroff
	}
	return lookupFileProgram(name)
}

// fail prints a message and returns exit code 1.
func (c call) fail(format string, args ...any) int {
	fmt.Fprintf(c.Err, c.Args[0]+": "+format+"\n", args...)
	return 1
}

// print writes to standard output; a reader that is gone ends the program.
func (c call) print(s string) int {
	if _, err := io.WriteString(c.Out, s); err != nil {
		return c.writeFailed(err)
	}
	return 0
}

func (c call) writeFailed(err error) int {
	if errors.Is(err, io.ErrClosedPipe) {
		return 128 + int(sigpipe)
	}
	return c.fail("write error: %v", err)
}

// path makes a name absolute.
func (c call) path(name string) string { return absolute(c.Dir, name) }

func runShell(c call) int {
	args := c.Args[1:]
	cfg := shell.Config{Args: c.Args[:1], Env: c.Env, Dir: c.Dir, Streams: c.Streams}
	var script string
	switch {
	case c.terminal() != nil && (len(args) == 0 || (len(args) == 1 && args[0] == "-i")):
		return interactive(c, cfg)
	case len(args) == 0:
		data, err := io.ReadAll(io.LimitReader(c.In, maxHostFile))
		if err != nil {
			return c.fail("%v", err)
		}
		script = string(data)
	case args[0] == "-c" && len(args) > 1:
		script = args[1]
		if len(args) > 2 {
			cfg.Args = args[2:]
		}
	case strings.HasPrefix(args[0], "-"):
		c.fail("option %s is not supported", strings.Join(args, " "))
		return shell.ExitSyntax
	default:
		data, _, err := c.process.sys.ReadFile(c.path(args[0]))
		if err != nil {
			c.fail("%s: %v", args[0], err)
			return shell.ExitNotFound
		}
		script, cfg.Args = string(data), args
	}
	return shell.Run(c.ctx, c.process, script, cfg)
}

func env(c call) int {
	value := map[string]string{}
	var names []string
	for _, kv := range c.Env {
		name, v, _ := strings.Cut(kv, "=")
		if _, ok := value[name]; !ok {
			names = append(names, name)
		}
		value[name] = v
	}
	var b strings.Builder
	for _, n := range names {
		b.WriteString(n + "=" + value[n] + "\n")
	}
	return c.print(b.String())
}

// inputs opens the files that the arguments name, or standard input.
func (c call) inputs(names []string, f func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	code := 0
	for _, n := range names {
		var err error
		if n == "-" {
			err = f(n, c.In)
		} else if r, e := c.process.Open(c.Dir, n, shell.OpenRead); e != nil {
			err = e
		} else {
			err = f(n, r)
		}
		if errors.Is(err, io.ErrClosedPipe) {
			return 128 + int(sigpipe)
		}
		if err != nil {
			code = c.fail("%s: %v", n, err)
		}
	}
	return code
}

func cat(c call) int {
	return c.inputs(c.Args[1:], func(_ string, r io.Reader) error {
		_, err := io.Copy(c.Out, r)
		return err
	})
}

func sha256sum(c call) int {
	return c.inputs(c.Args[1:], func(name string, r io.Reader) error {
		h := sha256.New()
		if _, err := io.Copy(h, r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(c.Out, "%x  %s\n", h.Sum(nil), name)
		return err
	})
}

func head(c call) int {
	if len(c.Args) < 3 || c.Args[1] != "-c" {
		return c.fail("usage: head -c BYTES [FILE…]")
	}
	n, err := strconv.ParseInt(c.Args[2], 10, 64)
	if err != nil || n < 0 {
		return c.fail("bad number %q", c.Args[2])
	}
	return c.inputs(c.Args[3:], func(_ string, r io.Reader) error {
		_, err := io.CopyN(c.Out, r, n)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	})
}

func wc(c call) int {
	if len(c.Args) < 2 || c.Args[1] != "-c" {
		return c.fail("usage: wc -c [FILE…]")
	}
	return c.inputs(c.Args[2:], func(_ string, r io.Reader) error {
		n, err := io.Copy(io.Discard, r)
		if err == nil {
			_, err = fmt.Fprintln(c.Out, n)
		}
		return err
	})
}

func yes(c call) int {
	word := "y"
	if len(c.Args) > 1 {
		word = strings.Join(c.Args[1:], " ")
	}
	chunk := bytes.Repeat([]byte(word+"\n"), 1+4096/(len(word)+1))
	for c.process.Wait(c.ctx) == nil {
		if _, err := c.Out.Write(chunk); err != nil {
			return c.writeFailed(err)
		}
	}
	return 0
}

func sleep(c call) int {
	if len(c.Args) != 2 {
		return c.fail("usage: sleep SECONDS")
	}
	seconds, err := strconv.ParseFloat(c.Args[1], 64)
	if err != nil || !(seconds >= 0 && seconds < 1e9) {
		return c.fail("bad number %q", c.Args[1])
	}
	c.process.sys.sleep(c.ctx, time.Duration(seconds*float64(time.Second)))
	return 0
}

func kill(c call) int {
	sig, args := signal(15), c.Args[1:]
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		var ok bool
		if sig, ok = parseSignal(args[0][1:]); !ok {
			return c.fail("bad signal %q", args[0])
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return c.fail("usage: kill [-SIGNAL] PID…")
	}
	code := 0
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil || !c.process.sys.kill(pid, sig) {
			code = c.fail("%s: %v", a, syscall.ESRCH)
		}
	}
	return code
}

func parseSignal(s string) (signal, bool) {
	if n, err := strconv.ParseUint(s, 10, 6); err == nil {
		return signal(n), true
	}
	n, ok := map[string]signal{"HUP": 1, "INT": 2, "KILL": 9, "TERM": 15}[strings.TrimPrefix(s, "SIG")]
	return n, ok
}

func hostname(c call) int {
	if len(c.Args) > 1 {
		c.process.sys.rename(c.Args[1])
		return 0
	}
	return c.print(c.process.sys.name() + "\n")
}

// id knows -u and -un; whoami is the latter.
func id(c call) int {
	name := "root"
	for _, kv := range c.Env {
		if n, ok := strings.CutPrefix(kv, "USER="); ok {
			name = n
			break // the first is what the process was started with
		}
	}
	u, _ := c.process.sys.disk.user(name)
	switch strings.Join(c.Args, " ") {
	case "whoami", "id -un":
		return c.print(name + "\n")
	case "id -u":
		return c.print(fmt.Sprintln(u.id))
	case "id":
		return c.print(fmt.Sprintf("uid=%d(%s)\n", u.id, name))
	}
	return c.fail("usage: %s", "id [-u|-un]")
}

// poweroff asks for the end of everything and lets it come.
func poweroff(c call) int {
	go c.process.sys.cfg.PowerOff()
	<-c.ctx.Done()
	return 0
}
