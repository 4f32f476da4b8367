package guestcontrol

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

func TestMain(m *testing.M) {
	for _, path := range temporary() {
		before[path] = true
	}
	goleak.VerifyTestMain(m)
}

// before has what earlier runs that were killed have left where guests keep temporary files.
var before = map[string]bool{}

// temporary lists what is there of guests' temporary files.
func temporary() []string {
	all, _ := filepath.Glob("/tmp/.sandboxd-t*")
	return slices.DeleteFunc(all, func(path string) bool { return before[path] })
}

// thisHost stands in for a guest: it runs what a guest's shell would run.
type thisHost struct{ shell string }

func (h thisHost) Control(ctx context.Context, call Call) error {
	if call.Given != nil {
		call.Given()
	}
	args := call.Args
	if call.Verb == "copyto" {
		b, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		return os.WriteFile(args[1], b, 0o600)
	}
	i := slices.Index(args, "--")
	cmd := exec.CommandContext(ctx, h.shell, args[i+1:]...)
	if strings.HasSuffix(h.shell, "busybox") {
		cmd.Args = append([]string{"sh"}, args[i+1:]...)
	}
	cmd.Dir = "/"
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 200 * time.Millisecond
	return runAttached(ctx, cmd, call)
}

// runAttached runs a command until nobody has its streams any more, as VBoxManage
// does, or the context ends.
func runAttached(ctx context.Context, cmd *exec.Cmd, call Call) error {
	var copied sync.WaitGroup
	var here, there []*os.File
	attach := func(to io.Writer) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		here, there = append(here, r), append(there, w)
		copied.Go(func() { _, _ = io.Copy(cmp.Or(to, io.Discard), r) })
		return w, nil
	}
	detach := func(files []*os.File) {
		for _, f := range files {
			_ = f.Close()
		}
	}
	stdout, err := attach(call.Stdout)
	if err == nil {
		cmd.Stdout = stdout
		var stderr *os.File
		if stderr, err = attach(call.Stderr); err == nil {
			cmd.Stderr = stderr
			err = cmd.Run()
		}
	}
	detach(there)
	defer context.AfterFunc(ctx, func() { detach(here) })()
	copied.Wait()
	detach(here)
	return err
}

// witness notes the arguments of all calls.
type witness struct {
	Guest
	mu   sync.Mutex
	seen []string
}

func (w *witness) Control(ctx context.Context, call Call) error {
	w.mu.Lock()
	w.seen = append(w.seen, call.Args...)
	w.mu.Unlock()
	return w.Guest.Control(ctx, call)
}

// TestSecrets: what all users of the host can read has no variables, no input and
// no content of files.
func TestSecrets(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		w := &witness{Guest: c.guest}
		c.guest = w
		const secret = "hunter2hunter2" // of characters that travel as they are
		whoami, err := exec.Command("id", "-un").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, user := range []string{"", strings.TrimSpace(string(whoami))} {
			o := execute(t, c, providers.ExecRequest{
				Command: []string{"sh", "-c", `printf '%s|' "$TOKEN"; cat`}, User: user,
				Env: []string{"TOKEN=" + secret, "PATH=/" + secret + ":/usr/bin:/bin"}, Stdin: strings.NewReader(secret),
			})
			if o.stdout != secret+"|"+secret || o.ExitCode != 0 {
				t.Errorf("as %q: %+v", user, o)
			}
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := c.WriteFile(t.Context(), file, 0o600, strings.NewReader(secret)); err != nil || readAll(file) != secret {
			t.Errorf("written as %q, %v", readAll(file), err)
		}
		script := encode([]byte("report start"))
		if !slices.ContainsFunc(w.seen, func(arg string) bool { return strings.Contains(arg, script) }) {
			t.Errorf("no script in %q", w.seen)
		}
		for _, arg := range w.seen {
			if strings.Contains(arg, secret) {
				t.Errorf("all users of the host can read %.200q", arg)
			}
		}
	})
	noneLeft(t)
}

// TestVariables: they arrive as they are, and the last PATH says where the command
// is looked for.
func TestVariables(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"mine", "a=b"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nprintf '%s|' \"$ODD\" \"$vars\" \"$@\"; cat"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	clients(t, func(t *testing.T, c *Client) {
		for _, name := range []string{"mine", "a=b", bin + "/a=b"} {
			for _, odd := range []string{"", "-n", "new\nlines\n", `\n \\ \c \0101 %s`, `'"$HOME"' $(exit 3)`, "*", "äöü€\xff", strings.Repeat("long ", 2000)} {
				o := execute(t, c, providers.ExecRequest{
					Command: []string{name, `one "two"`}, Env: []string{"PATH=/none", "ODD=" + odd, "PATH=" + bin + ":/usr/bin:/bin"}, Stdin: strings.NewReader("in\nput"),
				})
				if want := odd + "||one \"two\"|in\nput"; o.stdout != want || o.ExitCode != 0 {
					t.Errorf("%s got\n%q, want\n%q", name, o.stdout, want)
				}
			}
		}
		_, err := c.Exec(t.Context(), providers.ExecRequest{Command: []string{"mine"}, Env: []string{"PATH=" + bin, "PATH=/none"}})
		if !errors.Is(err, guestcall.ErrNoProgram) {
			t.Errorf("looked for in another PATH: %v", err)
		}
		if o := execute(t, c, providers.ExecRequest{Command: []string{"cat"}, Env: []string{"A=b"}}); o.stdout != "" {
			t.Errorf("no input is %q", o.stdout)
		}
	})
	noneLeft(t)
}

// TestInputIsBounded: the host's disk is not filled by what somebody sends.
func TestInputIsBounded(t *testing.T) {
	c := New(thisHost{"sh"}, t.TempDir())
	c.maxInput = 1000
	for size, want := range map[int]error{1000: nil, 1001: guestcall.ErrBadRequest} {
		var out strings.Builder
		_, err := c.Exec(t.Context(), providers.ExecRequest{Command: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("x", size)), Stdout: &out})
		if !errors.Is(err, want) || want == nil && out.Len() != size {
			t.Errorf("%d bytes: %d came back, %v", size, out.Len(), err)
		}
	}
	if left, err := os.ReadDir(c.temp); err != nil || len(left) != 0 {
		t.Errorf("the host keeps %v, %v", left, err)
	}
}

// broke fails to run scripts, until it is called to clean up.
type broke struct {
	Guest
	failures int
	verb     string
}

var errBroke = errors.New("VirtualBox failed")

func (b *broke) Control(ctx context.Context, call Call) error {
	if call.Verb != b.verb || b.failures == 0 {
		return b.Guest.Control(ctx, call)
	}
	b.failures--
	if call.Verb == "copyto" { // fails at the end
		_ = b.Guest.Control(ctx, call)
	}
	return errBroke
}

// TestInputGoesWhenItFails: what was copied to the guest for a script that was not
// started is removed.
func TestInputGoesWhenItFails(t *testing.T) {
	for _, verb := range []string{"copyto", "run"} {
		c := New(&broke{thisHost{"sh"}, 1, verb}, t.TempDir())
		if _, err := c.Exec(t.Context(), providers.ExecRequest{Command: []string{"cat"}, Stdin: strings.NewReader("input")}); !errors.Is(err, errBroke) {
			t.Errorf("%s: %v", verb, err)
		}
		c = New(&broke{thisHost{"sh"}, 1, verb}, t.TempDir())
		if err := c.WriteFile(t.Context(), filepath.Join(t.TempDir(), "file"), 0o600, strings.NewReader("input")); !errors.Is(err, errBroke) {
			t.Errorf("%s: %v", verb, err)
		}
		noneLeft(t)
	}
}

// slow is a guest that starts nothing.
type slow struct{ Guest }

func (s slow) Control(ctx context.Context, call Call) error {
	if call.Verb != "run" {
		return s.Guest.Control(ctx, call)
	}
	call.Given()
	_, _ = io.WriteString(call.Stdout, "Welcome!\n")
	<-ctx.Done()
	return ctx.Err()
}

// TestGuestThatStartsNothing: whoever waits for it gets to know.
func TestGuestThatStartsNothing(t *testing.T) {
	c := New(slow{thisHost{"sh"}}, t.TempDir())
	c.startLimit = 50 * time.Millisecond
	for _, timeout := range []time.Duration{0, time.Hour} {
		if _, err := c.Exec(t.Context(), providers.ExecRequest{Command: []string{"true"}, Timeout: timeout}); !errors.Is(err, guestio.ErrNotStarted) {
			t.Errorf("exec with the limit %v: %v", timeout, err)
		}
	}
	if _, err := c.ReadFile(t.Context(), "/file", io.Discard); !errors.Is(err, guestio.ErrNotStarted) {
		t.Errorf("read: %v", err)
	}
}

// clients speak with every shell that this host has.
func clients(t *testing.T, test func(t *testing.T, c *Client)) {
	for _, name := range []string{"dash", "busybox", "bash"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		t.Run(name, func(t *testing.T) { test(t, New(thisHost{path}, t.TempDir())) })
	}
}

// outcome is what came of a command.
type outcome struct {
	providers.ExecResult
	stdout, stderr string
}

func execute(t *testing.T, c *Client, req providers.ExecRequest) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	req.Stdout, req.Stderr = &stdout, &stderr
	r, err := c.Exec(t.Context(), req)
	if err != nil {
		t.Fatalf("exec %.100q: %v", req.Command, err)
	}
	return outcome{r, stdout.String(), stderr.String()}
}

func TestArguments(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		args := []string{
			"", " ", " two  words ", "line\nbreak\n", "tab\t", `'s'`, `"d"`, "`b`", `\`, `\n`, `\0101`, `\c`, "$HOME", "$(exit 3)",
			"*", "?", "~", "#", "!", ";", "&", "|", "<", ">", "()", "{}", "-n", "--", "-", "äöü€😀", "\x01\x7f", "%s%%", "a\xff\xfez",
			strings.Repeat("long ", 2000), "",
		}
		o := execute(t, c, providers.ExecRequest{Command: append([]string{"printf", `%s\0`}, args...)})
		if want := strings.Join(args, "\x00") + "\x00"; o.stdout != want || o.ExitCode != 0 {
			t.Errorf("arrived as\n%q, want\n%q", o.stdout, want)
		}
	})
}

func TestOutcomes(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		for _, code := range []int{0, 1, 94, 126, 127, 255} {
			o := execute(t, c, providers.ExecRequest{Command: []string{"sh", "-c", `printf out; printf err >&2; exit "$1"`, "sh", fmt.Sprint(code)}})
			if o.ExitCode != code || o.stdout != "out" || o.stderr != "err" {
				t.Errorf("exit %d: %+v", code, o)
			}
		}
		if o := execute(t, c, providers.ExecRequest{Command: []string{"sh", "-c", `kill -KILL $$`}}); o.ExitCode != 137 {
			t.Errorf("killed: %+v", o)
		}
		o := execute(t, c, providers.ExecRequest{
			Command: []string{"sh", "-c", `printf '%s|' "$ONE"; pwd; cat`}, Env: []string{"ONE=two $words\n"}, Dir: "/tmp", Stdin: strings.NewReader("in\n"),
		})
		if o.stdout != "two $words\n|/tmp\nin\n" {
			t.Errorf("environment: %+v", o)
		}
		long := strings.Repeat("\x00binary\xff", 100_000)
		if o := execute(t, c, providers.ExecRequest{Command: []string{"cat"}, Stdin: strings.NewReader(long)}); o.stdout != long {
			t.Errorf("%d bytes came back as %d", len(long), len(o.stdout))
		}
		o = execute(t, c, providers.ExecRequest{Command: []string{"sh", "-c", "cat; cat >&2"}, Stdin: strings.NewReader(long), MaxOutput: 1000})
		if o.stdout != long[:1000] || !o.Truncated {
			t.Errorf("bounded: %d bytes, %+v", len(o.stdout), o.ExecResult)
		}
	})
	noneLeft(t)
}

func TestRefused(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	clients(t, func(t *testing.T, c *Client) {
		for name, tc := range map[string]struct {
			req  providers.ExecRequest
			want error
		}{
			"no such program": {providers.ExecRequest{Command: []string{"no-such-program"}}, guestcall.ErrNoProgram},
			"no such path":    {providers.ExecRequest{Command: []string{"/no/such"}}, guestcall.ErrNoProgram},
			"no bit":          {providers.ExecRequest{Command: []string{plain}}, guestcall.ErrBadRequest},
			"no directory":    {providers.ExecRequest{Command: []string{"true"}, Dir: "/no/such"}, guestcall.ErrBadRequest},
			"no user":         {providers.ExecRequest{Command: []string{"true"}, User: "no-such-user"}, guestcall.ErrBadRequest},
			"no command":      {providers.ExecRequest{}, guestcall.ErrBadRequest},
			"too long":        {providers.ExecRequest{Command: []string{strings.Repeat("a", guestcall.MaxArguments)}}, guestcall.ErrBadRequest},
		} {
			var out bytes.Buffer
			tc.req.Stdout, tc.req.Stderr = &out, &out
			if _, err := c.Exec(t.Context(), tc.req); !errors.Is(err, tc.want) || out.Len() > 0 {
				t.Errorf("%s: %v, output %q", name, err, out.String())
			}
		}
	})
	noneLeft(t)
}

// TestTimeUp: a command is killed with what it has started, in another session
// too.
func TestTimeUp(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		pids := filepath.Join(t.TempDir(), "pids")
		script := `setsid sleep 1000 & sleep 1000 & echo $$ $! >"$1"; wait`
		for timeout := 500 * time.Millisecond; ; timeout *= 4 { // a slow machine takes longer to start it
			o := execute(t, c, providers.ExecRequest{Command: []string{"sh", "-c", script, "sh", pids}, Timeout: timeout})
			if !o.TimedOut || o.ExitCode != 137 {
				t.Errorf("after its time: %+v", o)
			}
			if strings.Contains(readAll(pids), "\n") || timeout > time.Minute {
				break
			}
		}
		wantDead(t, pids)

		_ = os.Remove(pids)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for !strings.Contains(readAll(pids), "\n") {
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
		}()
		if _, err := c.Exec(ctx, providers.ExecRequest{Command: []string{"sh", "-c", script, "sh", pids}}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		wantDead(t, pids)
	})
	noneLeft(t)
}

func readAll(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

func wantDead(t *testing.T, pids string) {
	t.Helper()
	found := strings.Fields(readAll(pids))
	if len(found) != 2 {
		t.Fatalf("the command wrote %q", found)
	}
	for _, pid := range found {
		stat := readAll("/proc/" + pid + "/stat")
		if stat != "" && !strings.Contains(stat, ") Z ") {
			t.Errorf("process %s is still there: %s", pid, stat)
		}
	}
}

// TestBackground: what a command leaves in the background, with its streams, does
// not hold it up.
func TestBackground(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		o := execute(t, c, providers.ExecRequest{Command: []string{"sh", "-c", "sleep 1000 & echo $!"}})
		if o.ExitCode != 0 || len(strings.TrimSpace(o.stdout)) == 0 {
			t.Errorf("got %+v", o)
		}
		_ = exec.Command("kill", strings.TrimSpace(o.stdout)).Run()
	})
}

var errOwn = errors.New("the caller's own error")

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

func TestCallersErrors(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		file := filepath.Join(t.TempDir(), "file")
		for _, size := range []int{10, 100_000} {
			_, err := c.Exec(t.Context(), providers.ExecRequest{Command: []string{"touch", file}, Stdin: &broken{left: size}})
			if !errors.Is(err, errOwn) || readAll(file) != "" {
				t.Errorf("a broken reader: %v", err)
			}
			if err := c.WriteFile(t.Context(), file, 0o644, &broken{left: size}); !errors.Is(err, errOwn) {
				t.Errorf("a broken reader of a file: %v", err)
			}
		}
		if _, err := os.Lstat(file); err == nil {
			t.Error("something was done all the same")
		}
		_, err := c.Exec(t.Context(), providers.ExecRequest{Command: []string{"sh", "-c", "while :; do echo y; done"}, Stdout: &broken{left: 1000}})
		if !errors.Is(err, errOwn) {
			t.Errorf("a broken writer: %v", err)
		}
	})
	noneLeft(t)
}

func TestFiles(t *testing.T) {
	clients(t, func(t *testing.T, c *Client) {
		dir := t.TempDir()
		for i, size := range []int{0, 1, 4096, 4097, 70_000, 3 << 20} {
			content := strings.Repeat("0123456\x00\n\xff", size/10+1)[:size]
			file := filepath.Join(dir, fmt.Sprintf("odd\n'\"$name %d", i))
			if err := c.WriteFile(t.Context(), file, 0o640, strings.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			var back bytes.Buffer
			info, err := c.ReadFile(t.Context(), file, &back)
			if err != nil || back.String() != content || info.Size != int64(size) || info.Mode != 0o640 || readAll(file) != content {
				t.Errorf("%d bytes came back as %d, %+v, %v", size, back.Len(), info, err)
			}
		}
		if _, err := c.ReadFile(t.Context(), dir+"/none", io.Discard); !errors.Is(err, guestcall.ErrNoFile) {
			t.Errorf("no file: %v", err)
		}
		for _, path := range []string{dir, "relative", "", "/dev/zero", "a\x00b"} {
			if _, err := c.ReadFile(t.Context(), path, io.Discard); !errors.Is(err, guestcall.ErrBadRequest) {
				t.Errorf("read %q: %v", path, err)
			}
		}
		for path, want := range map[string]error{dir: guestcall.ErrBadRequest, "relative": guestcall.ErrBadRequest, dir + "/none/file": guestcall.ErrNoFile, "/": guestcall.ErrBadRequest, "/proc/file": guestcall.ErrBadRequest} {
			if err := c.WriteFile(t.Context(), path, 0o644, strings.NewReader("x")); !errors.Is(err, want) {
				t.Errorf("write %q: %v", path, err)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 6 {
			t.Errorf("the folder has %v, %v", entries, err)
		}
	})
	noneLeft(t)
}

// noneLeft checks that nothing is left where guests keep temporary files.
func noneLeft(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		left := temporary()
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %q", left)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestEndsBeforeTheStartIsHeardOf: what is ended while the report of its start may
// still be on its way is killed too, unless the guest was not given it, or is deaf.
func TestEndsBeforeTheStartIsHeardOf(t *testing.T) {
	for name, tc := range map[string]struct {
		given  bool
		cause  error
		killed bool
	}{
		"given":      {true, errOwn, true},
		"waiting":    {false, errOwn, false},
		"deaf":       {true, guestio.ErrNotStarted, false},
		"guest gone": {true, ErrGone, false},
	} {
		r, killed := newRun(t.Context(), token(), nil, nil), false
		err := r.wait(func(client context.Context) error {
			r.given.Store(tc.given)
			r.cancel(tc.cause)
			<-client.Done()
			return client.Err()
		}, func() { killed = true })
		if !errors.Is(err, tc.cause) || killed != tc.killed {
			t.Errorf("%s: it ends with %v, killed: %v", name, err, killed)
		}
	}
}
