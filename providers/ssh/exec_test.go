package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sandboxd.dev/sandboxd/providers"
)

func TestExec(t *testing.T) {
	for name, shell := range map[string][]string{
		"sh": nil, "bash": {"/bin/bash", "-c"},
		"a shell that talks": {"/bin/sh", "-c", `echo welcome; echo warning >&2; eval "$0"`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			g.shell = shell
			testExec(t, g.start().client())
		})
	}
}

func testExec(t *testing.T, c *Client) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644))
	odd := []string{"", " ", "two words", "line\nbreak", `'`, `"`, "`x`", `\`, `\n`, `\0101`, "$HOME", "*", "!", "-n", "ä€😀\xff\x01\x7f", strings.Repeat("long ", 2000), ""}
	long := strings.Repeat("0123456789abcde\x00", 1<<16)
	for name, tc := range map[string]struct {
		req            providers.ExecRequest
		in             string
		stdout, stderr string
		code           int
		truncated      bool
		err            error
	}{
		"success":       {req: sh("true")},
		"arguments":     {req: sh(`printf '%s\0' "$@"`, odd...), stdout: strings.Join(odd, "\x00") + "\x00"},
		"exit code":     {req: sh("exit 255"), code: 255},
		"killed":        {req: sh("kill -9 $$"), code: 137},
		"no input":      {req: sh("cat")},
		"input":         {req: sh("cat; exit 3"), in: "one\n'two' \\", stdout: "one\n'two' \\", code: 3},
		"long input":    {req: sh("cat"), in: long, stdout: long},
		"unread input":  {req: sh("true"), in: long},
		"streams":       {req: sh("echo out; echo err >&2"), stdout: "out\n", stderr: "err\n"},
		"environment":   {req: with(sh(`printf '%s|' "$A" "$B"; pwd`), func(r *providers.ExecRequest) { r.Env, r.Dir = []string{"A=x 'y'\n", "B="}, dir }), stdout: "x 'y'\n||" + dir + "\n"},
		"bounded":       {req: with(sh("printf 12345; printf 123456 >&2"), func(r *providers.ExecRequest) { r.MaxOutput = 5 }), stdout: "12345", stderr: "12345", truncated: true},
		"no program":    {req: providers.ExecRequest{Command: []string{"no-such-program"}}, err: providers.ErrNotFound},
		"no file":       {req: providers.ExecRequest{Command: []string{"/no/such/program"}}, err: providers.ErrNotFound},
		"no executable": {req: providers.ExecRequest{Command: []string{dir + "/plain"}}, err: providers.ErrInvalid},
		"no directory":  {req: with(sh("true"), func(r *providers.ExecRequest) { r.Dir = "/no/such" }), err: providers.ErrInvalid},
		"no user":       {req: with(sh("true"), func(r *providers.ExecRequest) { r.User = "no-such-user" }), err: providers.ErrInvalid},
		"no command":    {err: providers.ErrInvalid},
		"zero byte":     {req: sh("a\x00b"), err: providers.ErrInvalid},
		"option":        {req: with(sh("true"), func(r *providers.ExecRequest) { r.User = "-c" }), err: providers.ErrInvalid},
		"variable":      {req: with(sh("true"), func(r *providers.ExecRequest) { r.Env = []string{"A"} }), err: providers.ErrInvalid},
		"too long":      {req: sh(strings.Repeat("x", 1<<20)), err: providers.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			tc.req.Stdout, tc.req.Stderr = &stdout, &stderr
			if tc.in != "" {
				tc.req.Stdin = strings.NewReader(tc.in)
			}
			r, err := c.Exec(within(t), tc.req)
			if !errors.Is(err, tc.err) || err != nil && providers.KindOf(err) != tc.err {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if want := (providers.ExecResult{ExitCode: tc.code, Truncated: tc.truncated}); r != want {
				t.Errorf("result %+v, want %+v", r, want)
			}
			if stdout.String() != tc.stdout || stderr.String() != tc.stderr {
				t.Errorf("output %.200q and %.200q, want %.200q and %.200q", stdout.String(), stderr.String(), tc.stdout, tc.stderr)
			}
		})
	}
}

func sh(script string, args ...string) providers.ExecRequest {
	return providers.ExecRequest{Command: append([]string{"sh", "-c", script, "sh"}, args...)}
}

func with(r providers.ExecRequest, change func(*providers.ExecRequest)) providers.ExecRequest {
	change(&r)
	return r
}

// TestLine: a script gets its arguments as they are, whatever is in them.
func TestLine(t *testing.T) {
	c := newGuest(t).start().client()
	rapid.Check(t, func(rt *rapid.T) {
		args := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOfN(rapid.ByteRange(1, 255), 0, 12).Draw(t, "bytes"))
		}), 0, 4).Draw(rt, "args")
		var out bytes.Buffer
		req := sh(`for a; do printf '%s\0' "$a"; done`, args...)
		req.Stdout = &out
		want := ""
		for _, a := range args {
			want += a + "\x00"
		}
		if r, err := c.Exec(within(t), req); err != nil || r.ExitCode != 0 || out.String() != want {
			rt.Fatalf("got %q (%+v, %v), want %q", out.String(), r, err, want)
		}
	})
}

// busy writes its PID and that of a child to a file, and does not end by itself.
const busy = `sleep 100000 & echo $$ $! > "$1.new"; mv "$1.new" "$1"; wait; sleep 100000`

func pids(t *testing.T, file string) []string {
	var found []string
	eventually(t, "two PIDs", func() bool {
		b, _ := os.ReadFile(file)
		found = strings.Fields(string(b))
		return len(found) == 2
	})
	return found
}

func gone(t *testing.T, pids []string) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, "process "+pid+" gone", func() bool { return !alive(t, pid) })
	}
}

// TestEndsBeforeItsInput: a command that has ended is not waited for because of
// input that may still come.
func TestEndsBeforeItsInput(t *testing.T) {
	c := newGuest(t).start().client()
	in, w := io.Pipe()
	defer func() { _ = w.Close() }()
	r, err := c.Exec(within(t), providers.ExecRequest{Command: []string{"sh", "-c", "exit 4"}, Stdin: in})
	if err != nil || r.ExitCode != 4 {
		t.Errorf("result %+v, %v", r, err)
	}
}

func TestTimeUp(t *testing.T) {
	c := newGuest(t).start().client()
	file := filepath.Join(t.TempDir(), "pids")
	for limit := time.Second; ; limit *= 4 {
		var out bytes.Buffer
		req := sh("echo before; "+busy, file)
		req.Timeout, req.Stdout = limit, &out
		r, err := c.Exec(within(t), req)
		if err != nil || r.ExitCode != 137 || !r.TimedOut {
			t.Fatalf("got %+v, %v and output %q", r, err, out.String())
		}
		if _, err := os.Stat(file); err != nil && 4*limit < patience {
			continue // this machine takes longer to begin
		}
		if out.String() != "before\n" {
			t.Errorf("output %q", out.String())
		}
		break
	}
	gone(t, pids(t, file))
	if r, err := c.Exec(within(t), sh("exit 4")); err != nil || r.ExitCode != 4 {
		t.Errorf("the next command: %+v, %v", r, err)
	}
}

func TestCancelled(t *testing.T) {
	c := newGuest(t).start().client()
	file := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, sh(busy, file))
		done <- err
	}()
	running := pids(t, file)
	for _, pid := range running {
		if !alive(t, pid) {
			t.Errorf("process %s is gone before anything was cancelled", pid)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone(t, running)
	if _, err := c.Exec(ctx, sh("true")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestBackground: what a command leaves behind neither keeps it nor writes to us.
func TestBackground(t *testing.T) {
	c := newGuest(t).start().client()
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "begin")
	req := sh(`(while [ ! -e "$1" ]; do sleep 0.1; done; while :; do echo late; : >"$1.wrote"; sleep 0.1; done) & echo $!`, file)
	req.Stdout = &out
	if r, err := c.Exec(within(t), req); err != nil || r.ExitCode != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	pid := strings.TrimSpace(out.String())
	if !alive(t, pid) {
		t.Error("what was left in the background is gone")
	}
	must(t, os.WriteFile(file, nil, 0o600))
	eventually(t, "written, or ended by it", func() bool {
		_, err := os.Stat(file + ".wrote")
		return err == nil || !alive(t, pid)
	})
	if got := strings.TrimSpace(out.String()); got != pid {
		t.Errorf("behind its end it wrote %q", got)
	}
	if _, err := c.Exec(within(t), sh(`kill "$1"`, pid)); err != nil {
		t.Error(err)
	}
	gone(t, []string{pid})
}

var errOwn = errors.New("the caller's own error")

// broken fails after some bytes, to read or to write.
type broken struct{ left int }

func (b *broken) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errOwn
	}
	n := min(len(p), b.left)
	b.left -= n
	return n, nil
}

func (b *broken) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left <= 0 {
		return 0, errOwn
	}
	return len(p), nil
}

func TestOwnErrors(t *testing.T) {
	c := newGuest(t).start().client()
	dir := t.TempDir()
	for _, size := range []int{100, 100_000} {
		req := sh(`cat; echo ran > "$1"`, dir+"/ran")
		req.Stdin = &broken{left: size}
		if _, err := c.Exec(within(t), req); !errors.Is(err, errOwn) {
			t.Errorf("a reader that breaks after %d bytes: %v", size, err)
		}
		if _, err := os.Stat(dir + "/ran"); err == nil {
			t.Error("the command was started although its input could not be read")
		}
	}
	file := dir + "/pids"
	req := sh("sleep 100000 & echo $$ $! > \"$1\"; while :; do echo yyyyyyyyyyyy; done", file)
	req.Stdout = &broken{left: 1000}
	if _, err := c.Exec(within(t), req); !errors.Is(err, errOwn) {
		t.Errorf("a writer that breaks: %v", err)
	}
	gone(t, pids(t, file))
}

// TestMany runs more at once than servers allow sessions.
func TestMany(t *testing.T) {
	g := newGuest(t).start()
	c := g.client()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			req := sh(`cat; exit "$1"`, fmt.Sprint(i))
			var out bytes.Buffer
			req.Stdin, req.Stdout = strings.NewReader(fmt.Sprint(i)), &out
			if r, err := c.Exec(within(t), req); err != nil || r.ExitCode != i || out.String() != fmt.Sprint(i) {
				t.Errorf("command %d: %+v, %v, %q", i, r, err, out.String())
			}
		})
	}
	wg.Wait()
	if g.logins != 1 {
		t.Errorf("%d logins by one client", g.logins)
	}
}

func TestFiles(t *testing.T) {
	c := newGuest(t).start().client()
	dir := t.TempDir()
	for i, mode := range []uint32{0o644, 0o600, 0o755, 0o400} {
		content := strings.Repeat("\x00\xff\n'", []int{0, 1, 20_000, 1 << 20}[i])
		name := fmt.Sprintf("%s/ä 'odd'\n$x %d", dir, i)
		must(t, c.WriteFile(within(t), name, mode, strings.NewReader(content)))
		if b, err := os.ReadFile(name); err != nil || string(b) != content {
			t.Errorf("%d bytes arrived as %d (%v)", len(content), len(b), err)
		}
		var back bytes.Buffer
		info, err := c.ReadFile(within(t), name, &back)
		if err != nil || info.Mode != mode || info.Size != int64(len(content)) || back.String() != content {
			t.Errorf("%d bytes of mode %o came back as %d, %+v, %v", len(content), mode, back.Len(), info, err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 4 {
		t.Errorf("the directory has %v, %v", left, err)
	}
	for name, want := range map[string]error{"relative": providers.ErrInvalid, "/a\x00b": providers.ErrInvalid, dir: providers.ErrInvalid, "/": providers.ErrInvalid} {
		if err := c.WriteFile(within(t), name, 0o644, strings.NewReader("x")); providers.KindOf(err) != want {
			t.Errorf("write %q: %v", name, err)
		}
		if _, err := c.ReadFile(within(t), name, io.Discard); providers.KindOf(err) != want {
			t.Errorf("read %q: %v", name, err)
		}
	}
	if err := c.WriteFile(within(t), dir+"/no/file", 0o644, strings.NewReader("x")); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("no directory: %v", err)
	}
	if err := c.WriteFile(within(t), dir+"/file", 0o4755, strings.NewReader("x")); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("a bit too many: %v", err)
	}
	if _, err := c.ReadFile(within(t), dir+"/none", io.Discard); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	if _, err := c.ReadFile(within(t), "/dev/zero", io.Discard); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("a device: %v", err)
	}
}

// cancelling reads without end and cancels a context after some bytes.
type cancelling struct {
	after  int
	cancel context.CancelFunc
}

func (c *cancelling) Read(p []byte) (int, error) {
	if c.after -= len(p); c.after < 0 {
		c.cancel()
	}
	return len(p), nil
}

func TestFailedWrite(t *testing.T) {
	c := newGuest(t).start().client()
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/file", []byte("old"), 0o600))
	for _, size := range []int{0, 1000, 5 << 20} {
		if err := c.WriteFile(within(t), dir+"/file", 0o644, &broken{left: size}); !errors.Is(err, errOwn) {
			t.Errorf("a reader that breaks after %d bytes: %v", size, err)
		}
		ctx, cancel := context.WithCancel(within(t))
		if err := c.WriteFile(ctx, dir+"/file", 0o644, &cancelling{size, cancel}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled after %d bytes: %v", size, err)
		}
		var out broken
		must(t, os.WriteFile(dir+"/file", bytes.Repeat([]byte("old"), size), 0o600))
		if _, err := c.ReadFile(within(t), dir+"/file", &out); size > 0 && !errors.Is(err, errOwn) {
			t.Errorf("a writer that breaks: %v", err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the directory has %v, %v", left, err)
	}
}

// TestGuestThatStartsNothing: whoever waits for a login shell that runs nothing
// gets to know.
func TestGuestThatStartsNothing(t *testing.T) {
	g := newGuest(t)
	g.shell = []string{"/bin/sh", "-c", "echo Welcome; exec sleep 1000"}
	c := g.start().client()
	defer c.Close()
	c.g.limits = limits{start: 100 * time.Millisecond, kill: 100 * time.Millisecond, settle: 100 * time.Millisecond}
	for _, timeout := range []time.Duration{0, time.Hour} {
		for _, input := range []string{"", strings.Repeat("x", 100_000)} {
			req := with(sh("true"), func(r *providers.ExecRequest) { r.Timeout, r.Stdin = timeout, strings.NewReader(input) })
			if _, err := c.Exec(within(t), req); !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "did not start the command within 100ms") {
				t.Errorf("exec with the limit %v and %d bytes of input: %v", timeout, len(input), err)
			}
		}
	}
}
