package guestcontrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/test/capture"
)

// patience stops a test that hangs; nothing is expected to take so long.
const patience = 2 * time.Minute

type ending struct {
	providers.ExecResult
	err error
}

// begin runs a command beside the test, and ends its input.
func begin(t *testing.T, ctx context.Context, c *Client, req providers.ExecRequest) <-chan ending { //nolint:revive // t is first
	ctx, cancel := context.WithTimeout(ctx, patience)
	t.Cleanup(cancel)
	ended := make(chan ending, 1)
	go func() {
		r, err := c.Exec(ctx, req)
		if in, ok := req.Stdin.(io.Closer); ok {
			_ = in.Close()
		}
		ended <- ending{r, err}
	}()
	return ended
}

// TestConversation: each line arrives before the next is sent, and the end at the end.
func TestConversation(t *testing.T) {
	whoami, err := exec.Command("id", "-un").Output()
	if err != nil {
		t.Fatal(err)
	}
	clients(t, func(t *testing.T, c *Client) {
		for _, user := range []string{"", strings.TrimSpace(string(whoami)), "nobody"} {
			if user == "nobody" && os.Getuid() != 0 {
				continue
			}
			in, w := io.Pipe()
			var out capture.Buffer
			ended := begin(t, t.Context(), c, providers.ExecRequest{
				Command: []string{"sh", "-c", `pwd; id -un >&2; echo "$A $1"; cat; echo end; exit 3`, "sh", "it's"}, Stdin: in, Stdout: &out, Stderr: &out,
				Env: []string{"A=a 'b'"}, Dir: "/usr", User: user,
			})
			out.Shows(t, patience, "/usr\n")
			out.Shows(t, patience, "a 'b' it's\n")
			for i := range 3 {
				line := fmt.Sprintf("line %d\n", i)
				_, _ = io.WriteString(w, line)
				out.Shows(t, patience, line)
			}
			if !strings.Contains(out.String(), user+"\n") {
				t.Errorf("as %q: %q", user, out.String())
			}
			_ = w.Close()
			if r := <-ended; r.err != nil || r.ExitCode != 3 || !strings.HasSuffix(out.String(), "line 2\nend\n") {
				t.Errorf("as %q, it ended with %+v after %q", user, r, out.String())
			}
		}
	})
	noneLeft(t)
}

// slowly delays the first read, so that what is read is not all there at the start.
type slowly struct {
	io.Reader
	once sync.Once
}

func (s *slowly) Read(p []byte) (int, error) {
	s.once.Do(func() { time.Sleep(10 * settle) })
	return s.Reader.Read(p)
}

// TestStreamed: inputs of any size arrive as they are, and in pieces that are bounded.
func TestStreamed(t *testing.T) {
	data := make([]byte, 9<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	clients(t, func(t *testing.T, c *Client) {
		for _, size := range []int{0, 1, 2000, 2001, len(data)} {
			copied := &bounds{Guest: c.guest}
			var out bytes.Buffer
			r := <-begin(t, t.Context(), New(copied, c.temp), providers.ExecRequest{
				Command: []string{"cat"}, Stdin: &slowly{Reader: bytes.NewReader(data[:size])}, Stdout: &out,
			})
			if r.err != nil || r.ExitCode != 0 || !bytes.Equal(out.Bytes(), data[:size]) {
				t.Errorf("%d bytes came back as %d: %+v", size, out.Len(), r)
			}
			if copied.largest > maxPiece+100 || copied.n == 0 {
				t.Errorf("%d copies of up to %d bytes", copied.n, copied.largest)
			}
		}
	})
	noneLeft(t)
}

// bounds notes how much was copied to the guest at a time.
type bounds struct {
	Guest
	n       int
	largest int64
}

func (b *bounds) Control(ctx context.Context, call Call) error {
	if call.Verb == "copyto" {
		info, err := os.Stat(call.Args[0])
		if err != nil {
			return err
		}
		b.n, b.largest = b.n+1, max(b.largest, info.Size())
	}
	return b.Guest.Control(ctx, call)
}

// partly copies in steps, as VirtualBox does.
type partly struct{ thisHost }

func (p partly) Control(ctx context.Context, call Call) error {
	if call.Verb != "copyto" {
		return p.thisHost.Control(ctx, call)
	}
	b, err := os.ReadFile(call.Args[0])
	if err != nil {
		return err
	}
	f, err := os.Create(call.Args[1])
	if err != nil {
		return err
	}
	for len(b) > 0 {
		n, _ := f.Write(b[:min(len(b), 64<<10)])
		b = b[n:]
		time.Sleep(150 * time.Millisecond)
	}
	return f.Close()
}

// TestArrivesInParts: a piece is not taken before it is there as a whole.
func TestArrivesInParts(t *testing.T) {
	c := New(partly{thisHost{"sh"}}, t.TempDir())
	data := strings.Repeat("0123456789abcdef", 20_000)
	var out bytes.Buffer
	r := <-begin(t, t.Context(), c, providers.ExecRequest{Command: []string{"cat"}, Stdin: &slowly{Reader: strings.NewReader(data)}, Stdout: &out})
	if r.err != nil || out.String() != data {
		t.Errorf("%d bytes came back as %d: %+v", len(data), out.Len(), r)
	}
	noneLeft(t)
}

// TestInputBeside: what a command does not read, or nobody sends, keeps nobody.
func TestInputBeside(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		in, w := io.Pipe()
		if r := <-begin(t, t.Context(), c, providers.ExecRequest{Command: []string{"sh", "-c", "exit 4"}, Stdin: in}); r.err != nil || r.ExitCode != 4 {
			t.Errorf("nothing sent: %+v", r)
		}
		_ = w.Close()
		if r := <-begin(t, t.Context(), c, providers.ExecRequest{Command: []string{"sh", "-c", "exit 5"}, Stdin: endless{}}); r.err != nil || r.ExitCode != 5 {
			t.Errorf("nothing read: %+v", r)
		}
		if r := <-begin(t, t.Context(), c, providers.ExecRequest{Command: []string{"no-such-program"}, Stdin: endless{}}); !errors.Is(r.err, guestcall.ErrNoProgram) {
			t.Errorf("no program: %+v", r)
		}
		if r := <-begin(t, t.Context(), c, providers.ExecRequest{Command: []string{"cat"}, Stdin: &broken{left: 3 << 20}}); !errors.Is(r.err, errOwn) {
			t.Errorf("broken: %v", r.err)
		}
	})
	noneLeft(t)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "y\n"), nil }

// TestTerminal works at a terminal.
func TestTerminal(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		in, w := io.Pipe()
		var out capture.Buffer
		sizes := make(chan providers.TerminalSize, 1)
		sizes <- providers.TerminalSize{Width: 101, Height: 33}
		ended := begin(t, t.Context(), c, providers.ExecRequest{
			Command: []string{"sh"}, Stdin: in, Stdout: &out, TTY: true, Resize: sizes, Env: []string{"PS1=>", "A=it's"}, Dir: "/usr",
		})
		_, _ = io.WriteString(w, "stty size; echo $A; pwd; tty >/dev/null && echo a terminal\r")
		out.Shows(t, patience, "33 101\r\nit's\r\n/usr\r\na terminal\r\n")
		sizes <- providers.TerminalSize{Width: 132, Height: 50}
		for deadline := time.Now().Add(patience); !strings.Contains(out.String(), "50 132\r\n"); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the size does not change: %q", out.String())
			}
			_, _ = io.WriteString(w, "stty size\r")
		}
		close(sizes)
		_, _ = io.WriteString(w, "sh -c 'echo be''gun; exec sleep 100000'\r")
		out.Shows(t, patience, "begun\r\n")
		_, _ = io.WriteString(w, "\x03")
		for deadline := time.Now().Add(patience); strings.HasSuffix(out.String(), "begun\r\n"); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) { // a shell that is quick shows nothing of it but its prompt
				t.Fatalf("Ctrl-C does nothing after %q", out.String())
			}
		}
		_, _ = io.WriteString(w, "echo ba''ck; exit 5\r")
		if r := <-ended; r.err != nil || r.ExitCode != 5 || !strings.Contains(out.String(), "back\r\n") || strings.Contains(out.String(), "\x01") {
			t.Errorf("it ended with %+v after %q", r, out.String())
		}
	})
	noneLeft(t)
}

// deafOnce fails the first call that gives a terminal another size.
type deafOnce struct {
	thisHost
	failed atomic.Bool
}

func (d *deafOnce) Control(ctx context.Context, call Call) error {
	if call.Verb == "run" && strings.Contains(strings.Join(call.Args, " "), "exec stty rows") && d.failed.CompareAndSwap(false, true) {
		return errBroke
	}
	return d.thisHost.Control(ctx, call)
}

// TestSizeThatDoesNotArrive is passed on again, also when no newer one can come.
func TestSizeThatDoesNotArrive(t *testing.T) {
	deaf := &deafOnce{thisHost: thisHost{"sh"}}
	c := New(deaf, t.TempDir())
	in, w := io.Pipe()
	var out capture.Buffer
	sizes := make(chan providers.TerminalSize, 1)
	sizes <- providers.TerminalSize{Width: 101, Height: 33}
	ended := begin(t, t.Context(), c, providers.ExecRequest{Command: []string{"sh"}, Stdin: in, Stdout: &out, TTY: true, Resize: sizes})
	_, _ = io.WriteString(w, "stty size\r")
	out.Shows(t, patience, "33 101\r\n")
	sizes <- providers.TerminalSize{Width: 132, Height: 50}
	close(sizes)
	for deadline := time.Now().Add(patience); !strings.Contains(out.String(), "50 132\r\n"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the size does not change: %q", out.String())
		}
		_, _ = io.WriteString(w, "stty size\r")
	}
	_, _ = io.WriteString(w, "exit 5\r")
	if r := <-ended; r.err != nil || r.ExitCode != 5 || !deaf.failed.Load() {
		t.Errorf("it ended with %+v, and a size was lost: %v", r, deaf.failed.Load())
	}
	noneLeft(t)
}

// TestAtTerminal: commands at a terminal end as without one.
func TestAtTerminal(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		for name, tc := range map[string]struct {
			req   providers.ExecRequest
			shown string
			code  int
			err   error
		}{
			"both streams": {req: providers.ExecRequest{Command: []string{"sh", "-c", "echo out; echo err >&2; exit 255"}}, shown: "out\r\nerr\r\n", code: 255},
			"killed":       {req: providers.ExecRequest{Command: []string{"sh", "-c", "kill -9 $$"}}, code: 137},
			"no input":     {req: providers.ExecRequest{Command: []string{"sh", "-c", "cat; echo end"}}, shown: "end\r\n"},
			"input":        {req: providers.ExecRequest{Command: []string{"sh", "-c", "cat; echo end"}, Stdin: strings.NewReader("one\ntwo")}, shown: "one\r\ntwoend\r\n"},
			"no program":   {req: providers.ExecRequest{Command: []string{"no-such-program"}}, err: guestcall.ErrNoProgram},
			"no directory": {req: providers.ExecRequest{Command: []string{"true"}, Dir: "/no/such"}, err: guestcall.ErrBadRequest},
			"no user":      {req: providers.ExecRequest{Command: []string{"true"}, User: "no-such-user"}, err: guestcall.ErrBadRequest},
			"broken input": {req: providers.ExecRequest{Command: []string{"cat"}, Stdin: &broken{left: 10}}, err: errOwn},
		} {
			var out capture.Buffer
			tc.req.Stdout, tc.req.TTY = &out, true
			r := <-begin(t, t.Context(), c, tc.req)
			shown := strings.ReplaceAll(out.String(), "^D\b\b", "")
			if !errors.Is(r.err, tc.err) || r.ExitCode != tc.code || tc.err == nil && !strings.HasSuffix(shown, tc.shown) {
				t.Errorf("%s: %+v after %q, want %d and %q, or %v", name, r, out.String(), tc.code, tc.shown, tc.err)
			}
		}
	})
	noneLeft(t)
}

// TestTerminalAsUser: who becomes somebody else stays at his terminal.
func TestTerminalAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root runs commands as others")
	}
	clients(t, func(t *testing.T, c *Client) {
		in, w := io.Pipe()
		var out capture.Buffer
		ended := begin(t, t.Context(), c, providers.ExecRequest{
			Command: []string{"sh", "-c", `id -un; echo "$1" >/dev/tty; exec sleep 100000`, "sh", "a word"}, User: "nobody", Dir: "/", Stdin: in, Stdout: &out, TTY: true,
		})
		out.Shows(t, patience, "nobody\r\na word\r\n")
		_, _ = io.WriteString(w, "\x03")
		if r := <-ended; r.err != nil || r.ExitCode != 130 {
			t.Errorf("interrupted, it ended with %+v after %q", r, out.String())
		}
		_ = w.Close()
	})
	noneLeft(t)
}

// TestStreamedKilled: when the caller goes away or time is up, a command that is fed
// dies with all that serves it.
func TestStreamedKilled(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		for _, tty := range []bool{false, true} {
			for _, limit := range []time.Duration{0, time.Second} {
				if tty != (limit > 0) && testing.Short() {
					continue
				}
				file := filepath.Join(t.TempDir(), "pids")
				for !streamedKilled(t, c, file, tty, limit) && limit < time.Minute {
					limit *= 4 // this machine takes longer to start it
				}
				wantDead(t, file)
			}
		}
	})
	noneLeft(t)
}

// streamedKilled begins a command, which its time ends or, without a limit, its caller, and
// tells whether it had started.
func streamedKilled(t *testing.T, c *Client, file string, tty bool, limit time.Duration) (started bool) {
	t.Helper()
	in, w := io.Pipe()
	defer func() { _ = w.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := begin(t, ctx, c, providers.ExecRequest{
		Command: []string{"sh", "-c", `trap '' HUP; sleep 100000 & echo $$ $! >"$1.new"; mv "$1.new" "$1"; while :; do wait; done`, "sh", file},
		Stdin:   in, Stdout: io.Discard, TTY: tty, Timeout: limit,
	})
	if limit == 0 {
		awaitPIDs(t, file)
		cancel()
	}
	if r := <-ended; limit == 0 && !errors.Is(r.err, context.Canceled) || limit > 0 && (r.err != nil || !r.TimedOut) {
		t.Errorf("it ended with %+v", r)
	}
	return len(strings.Fields(readAll(file))) == 2
}

func awaitPIDs(t *testing.T, file string) {
	t.Helper()
	for deadline := time.Now().Add(patience); len(strings.Fields(readAll(file))) != 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the command does not start")
		}
	}
}

// TestTerminalNeverThere: the script of a command that is killed before it has got its
// terminal, with the values of its variables, does not stay in the guest.
func TestTerminalNeverThere(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "script"), []byte("#!/bin/sh\nsleep 100000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	r := <-begin(t, t.Context(), New(thisHost{"sh"}, t.TempDir()), providers.ExecRequest{
		Command: []string{"true"}, Env: []string{"SECRET=x"}, TTY: true, Timeout: 100 * time.Millisecond,
	})
	if r.err != nil || !r.TimedOut {
		t.Errorf("it ended with %+v", r)
	}
	noneLeft(t)
}

// TestStreamedAlone: when the guest kills the shell that has started a command, because
// VBoxManage or its session is gone, the command's input ends, and nothing goes on
// looking for more of it.
func TestStreamedAlone(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		for _, tty := range []bool{false, true} {
			file := filepath.Join(t.TempDir(), "pids")
			// The shell is the one that has the token in its arguments and leads to us.
			const command = `p=$PPID
while [ "$p" -gt 1 ]; do
	case $(tr '\0' ' ' <"/proc/$p/cmdline") in *"IFS=;set -f;eval"*) break ;; esac
	p=$(awk '/^PPid:/ { print $2 }' "/proc/$p/status")
done
echo "$p $$" >"$1.new"; mv "$1.new" "$1"; cat >/dev/null; echo over >"$1.over"`
			in, w := io.Pipe()
			ended := begin(t, t.Context(), c, providers.ExecRequest{
				Command: []string{"sh", "-c", command, "sh", file}, Stdin: in, Stdout: io.Discard, TTY: tty,
			})
			awaitPIDs(t, file)
			pid, err := strconv.Atoi(strings.Fields(readAll(file))[0])
			if err != nil || pid <= 1 {
				t.Fatalf("the shell is %q", readAll(file))
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(patience / 2); readAll(file+".over") == ""; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("at a terminal: %v: the command's input does not end", tty)
				}
			}
			if r := <-ended; r.err == nil {
				t.Errorf("at a terminal: %v: it ended with %+v", tty, r)
			}
			_ = w.Close()
			noneLeft(t)
		}
	})
}

// TestAsUser: somebody else's command ends as one's own, in a guest whose su makes a
// session, too.
func TestAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root runs commands as others")
	}
	clients(t, func(t *testing.T, c *Client) {
		for _, in := range []string{"", "input\n"} {
			o := execute(t, c, providers.ExecRequest{
				Command: []string{"sh", "-c", "sleep 0.2; id -un; cat; exit 3"}, User: "nobody", Dir: "/", Env: []string{"A=b"}, Stdin: strings.NewReader(in),
			})
			if o.ExitCode != 3 || o.stdout != "nobody\n"+in {
				t.Errorf("got %+v", o)
			}
		}
	})
}
