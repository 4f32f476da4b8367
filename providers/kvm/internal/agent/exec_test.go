package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

type output struct {
	providers.ExecResult
	out, err string
}

func run1(t testing.TB, c *Client, req providers.ExecRequest) (output, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	req.Stdout, req.Stderr = &stdout, &stderr
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r, err := c.Exec(ctx, req)
	return output{r, stdout.String(), stderr.String()}, err
}

func sh(script string, args ...string) providers.ExecRequest {
	return providers.ExecRequest{Command: append([]string{"sh", "-c", script, "sh"}, args...)}
}

func newClient(t *testing.T) *Client {
	return New(newLocalGuest(t).send)
}

func TestExec(t *testing.T) {
	c := newClient(t)
	long := strings.Repeat("0123456789", 40_000)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		req      providers.ExecRequest
		code     int
		out, err string
	}{
		"output and exit code":        {sh("echo out; echo err >&2; exit 3"), 3, "out\n", "err\n"},
		"no output":                   {sh("exit 0"), 0, "", ""},
		"exit code 255":               {sh("exit 255"), 255, "", ""},
		"exit code 127 of its own":    {sh("exit 127"), 127, "", ""},
		"a signal":                    {sh("kill -TERM $$"), 128 + 15, "", ""},
		"arguments":                   {providers.ExecRequest{Command: []string{"printf", `[%s]`, "", " a  b ", "$x`y`", "\n", "'\"", "é世", "-n", "*"}}, 0, "[][ a  b ][$x`y`][\n]['\"][é世][-n][*]", ""},
		"arguments that are no text":  {providers.ExecRequest{Command: []string{"printf", "%s|", "a\xff\n\n", "\\x", "%d", "\x01"}}, 0, "a\xff\n\n|\\x|%d|\x01|", ""},
		"environment":                 {providers.ExecRequest{Command: []string{"sh", "-c", `echo "$A|$B"`}, Env: []string{"A=x y\n$z", "B="}}, 0, "x y\n$z|\n", ""},
		"directory":                   {providers.ExecRequest{Command: []string{"pwd"}, Dir: "/usr"}, 0, "/usr\n", ""},
		"user":                        {providers.ExecRequest{Command: []string{"sh", "-c", `echo "$HOME $USER"`}, User: me.Username}, 0, me.HomeDir + " " + me.Username + "\n", ""},
		"short input":                 {providers.ExecRequest{Command: []string{"cat"}, Stdin: strings.NewReader("in\x00\xff")}, 0, "in\x00\xff", ""},
		"empty input":                 {providers.ExecRequest{Command: []string{"cat"}, Stdin: strings.NewReader("")}, 0, "", ""},
		"long input":                  {providers.ExecRequest{Command: []string{"cat"}, Stdin: strings.NewReader(long)}, 0, long, ""},
		"no input":                    {providers.ExecRequest{Command: []string{"cat"}}, 0, "", ""},
		"long output on both streams": {sh(`printf %s "$1"; cat /dev/zero | head -c 300000 >&2`, "x"), 0, "x", strings.Repeat("\x00", 300_000)},
		"slow output":                 {sh("for i in 1 2 3; do echo $i; sleep 0.3; done; echo e >&2"), 0, "1\n2\n3\n", "e\n"},
		"output in the background":    {sh("(sleep 0.2; echo late) & echo now; wait"), 0, "now\nlate\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := run1(t, c, tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if got.ExitCode != tc.code || got.out != tc.out || got.err != tc.err || got.TimedOut || got.Truncated {
				t.Errorf("got %d, %.200q, %.200q, %+v", got.ExitCode, got.out, got.err, got.ExecResult)
			}
		})
	}
}

func TestExecIsNotHeldUpByWhatItLeavesRunning(t *testing.T) {
	c := newClient(t)
	pidFile := t.TempDir() + "/pid"
	got, err := run1(t, c, sh(`sleep 600 & echo $! >"$1"; echo started`, pidFile))
	if err != nil || got.out != "started\n" {
		t.Fatalf("%+v, %v", got, err)
	}
	pid := readPID(t, pidFile)
	if !alive(pid) {
		t.Error("what it left running does not run")
	}
	p, _ := os.FindProcess(pid)
	_ = p.Kill()
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		b, err := os.ReadFile(path)
		if pid, convErr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && convErr == nil {
			return pid
		}
		if time.Now().After(deadline) {
			t.Fatal("no PID was written")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestCannotBeStarted(t *testing.T) {
	c := newClient(t)
	for name, tc := range map[string]struct {
		req  providers.ExecRequest
		want error
	}{
		"no such program":         {providers.ExecRequest{Command: []string{"no-such-program"}}, guestcall.ErrNoProgram},
		"no such program by path": {providers.ExecRequest{Command: []string{"/no/such/program"}}, guestcall.ErrNoProgram},
		"not executable":          {providers.ExecRequest{Command: []string{"/etc/passwd"}}, guestcall.ErrBadRequest},
		"a directory":             {providers.ExecRequest{Command: []string{"/usr"}}, guestcall.ErrBadRequest},
		"no such directory":       {providers.ExecRequest{Command: []string{"true"}, Dir: "/no/such"}, guestcall.ErrBadRequest},
		"no such user":            {providers.ExecRequest{Command: []string{"true"}, User: "no-such-user"}, guestcall.ErrBadRequest},
		"no command":              {providers.ExecRequest{}, guestcall.ErrBadRequest},
		"a command too long":      {providers.ExecRequest{Command: []string{"true", strings.Repeat("x", guestcall.MaxArguments)}}, guestcall.ErrBadRequest},
	} {
		if got, err := run1(t, c, tc.req); !errors.Is(err, tc.want) {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, tc.want)
		}
	}
}

func TestTimeoutKillsEverything(t *testing.T) {
	c := newClient(t)
	dir := t.TempDir()
	// A child, a grandchild in a session of its own, and one that ignores signals.
	req := sh(`cd "$1"; echo begun; sleep 600 & echo $! >a; setsid sh -c 'echo $$ >b; exec sleep 600' & (trap "" TERM HUP INT; sh -c 'echo $PPID' >c; while :; do sleep 1; done) & wait`, dir)
	names := []string{"a", "b", "c"}
	for req.Timeout = time.Second; ; req.Timeout *= 4 {
		got, err := run1(t, c, req)
		if err != nil {
			t.Fatal(err)
		}
		if !got.TimedOut || got.ExitCode != 128+9 {
			t.Errorf("got %+v", got)
		}
		begun := !slices.ContainsFunc(names, func(name string) bool {
			info, err := os.Stat(filepath.Join(dir, name))
			return err != nil || info.Size() == 0
		})
		if !begun && req.Timeout < time.Minute {
			continue // this machine takes longer for that
		}
		if got.out != "begun\n" {
			t.Errorf("output %q", got.out)
		}
		break
	}
	for _, name := range names {
		if pid := readPID(t, dir+"/"+name); alive(pid) {
			t.Errorf("process %s (%d) is still there", name, pid)
		}
	}
}

func TestCancelKills(t *testing.T) {
	c := newClient(t)
	pidFile := t.TempDir() + "/pid"
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, sh(`echo $$ >"$1"; sleep 600`, pidFile))
		done <- err
	}()
	pid := readPID(t, pidFile)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if alive(pid) {
		t.Error("the command is still there")
	}
}

func TestOutputIsBounded(t *testing.T) {
	c := newClient(t)
	for name, tc := range map[string]struct {
		req  providers.ExecRequest
		size int
	}{
		"short": {providers.ExecRequest{Command: []string{"sh", "-c", "printf 0123456789"}, MaxOutput: 4}, 4},
		"long":  {providers.ExecRequest{Command: []string{"sh", "-c", "head -c 1000000 /dev/zero"}, MaxOutput: 300_000}, 300_000},
		"slow":  {providers.ExecRequest{Command: []string{"sh", "-c", "head -c 500000 /dev/zero; sleep 1; head -c 500000 /dev/zero; exit 0"}, MaxOutput: 100_000}, 100_000},
		"exact": {providers.ExecRequest{Command: []string{"sh", "-c", "printf 0123456789"}, MaxOutput: 10}, 10},
	} {
		got, err := run1(t, c, tc.req)
		if err != nil || len(got.out) != tc.size || got.Truncated != (name != "exact") || got.ExitCode != 0 {
			t.Errorf("%s: %d bytes, %+v, %v", name, len(got.out), got.ExecResult, err)
		}
	}
}

// TestEndlessOutputDoesNotFillTheGuest looks at the file of an endless writer.
func TestEndlessOutputDoesNotFillTheGuest(t *testing.T) {
	g := newLocalGuest(t)
	req := providers.ExecRequest{Command: []string{"sh", "-c", "while :; do head -c 1000000 /dev/zero; sleep 0.05; done"}, MaxOutput: 1000}
	for req.Timeout = 3 * time.Second; ; req.Timeout *= 2 {
		g.log = nil
		got, err := run1(t, New(g.send), req)
		if err != nil || !got.TimedOut || !got.Truncated || len(got.out) != 1000 {
			t.Fatalf("%d bytes, %+v, %v", len(got.out), got.ExecResult, err)
		}
		started := 0
		for _, name := range g.log {
			if name == "guest-exec" {
				started++
			}
		}
		if started >= 4 { // run, at least one shrink, kill, clean
			return
		}
		if req.Timeout > time.Minute { // and that is no slow machine
			t.Fatalf("only %d programs were started: the output was never emptied", started)
		}
	}
}

func TestSilentAgent(t *testing.T) {
	g := newLocalGuest(t)
	g.deaf = true
	if _, err := run1(t, New(g.send), sh("true")); !errors.Is(err, errDeaf) {
		t.Errorf("got %v", err)
	}
}

// failing fails after some bytes.
type failing struct{ left int }

var errOwn = errors.New("own error")

func (f *failing) Read(p []byte) (int, error) {
	if f.left <= 0 {
		return 0, errOwn
	}
	n := min(len(p), f.left)
	f.left -= n
	return n, nil
}

func (f *failing) Write(p []byte) (int, error) { return f.Read(p) }

func TestErrorsOfTheCaller(t *testing.T) {
	c := newClient(t)
	ctx := context.Background()
	_, err := c.Exec(ctx, providers.ExecRequest{Command: []string{"cat"}, Stdin: &failing{left: 200_000}})
	if !errors.Is(err, errOwn) || !errors.Is(err, guestcall.ErrCaller) {
		t.Errorf("input: %v", err)
	}
	_, err = c.Exec(ctx, providers.ExecRequest{Command: []string{"echo", "x"}, Stdout: &failing{}})
	if !errors.Is(err, errOwn) || !errors.Is(err, guestcall.ErrCaller) {
		t.Errorf("output: %v", err)
	}
	path := t.TempDir() + "/file"
	if err := c.WriteFile(ctx, path, 0o600, &failing{left: 200_000}); !errors.Is(err, errOwn) {
		t.Errorf("write: %v", err)
	}
	if entries, _ := os.ReadDir(path[:len(path)-len("/file")]); len(entries) > 0 {
		t.Errorf("a file whose content failed left %v", entries)
	}
}

func TestFiles(t *testing.T) {
	c := newClient(t)
	ctx := context.Background()
	dir := t.TempDir()
	for _, size := range []int{0, 1, inlineMax - 1, inlineMax, inlineMax + 1, 3*chunk + 7} {
		content := bytes.Repeat([]byte{0, 0xff, '\n', 'x'}, size/4+1)[:size]
		path := fmt.Sprintf("%s/a file 'of' %d", dir, size)
		for _, mode := range []uint32{0o600, 0o755} {
			if err := c.WriteFile(ctx, path, mode, bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(content) {
				t.Fatalf("%d bytes were written as %d, %v", size, len(got), err)
			}
			var back bytes.Buffer
			info, err := c.ReadFile(ctx, path, &back)
			if err != nil || info.Size != int64(size) || info.Mode != mode || !bytes.Equal(back.Bytes(), content) {
				t.Fatalf("%d bytes were read as %d, %+v, %v", size, back.Len(), info, err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 6 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

func TestBadFiles(t *testing.T) {
	c := newClient(t)
	ctx := context.Background()
	dir := t.TempDir()
	content := func() *bytes.Reader { return bytes.NewReader(make([]byte, 100)) }
	for name, tc := range map[string]struct {
		got, want error
	}{
		"write: no directory": {c.WriteFile(ctx, dir+"/no/file", 0o600, content()), guestcall.ErrNoFile},
		"write: a directory":  {c.WriteFile(ctx, dir, 0o600, content()), guestcall.ErrBadRequest},
		"write: relative":     {c.WriteFile(ctx, "file", 0o600, content()), guestcall.ErrBadRequest},
		"write: no files":     {c.WriteFile(ctx, "/proc/file", 0o600, content()), guestcall.ErrBadRequest},
		"write: long":         {c.WriteFile(ctx, "/proc/file", 0o600, bytes.NewReader(make([]byte, 2*inlineMax))), guestcall.ErrBadRequest},
		"write: mode":         {c.WriteFile(ctx, dir+"/file", 0o4755, content()), guestcall.ErrBadRequest},
		"read: none":          {second(c.ReadFile(ctx, dir+"/none", &bytes.Buffer{})), guestcall.ErrNoFile},
		"read: a directory":   {second(c.ReadFile(ctx, dir, &bytes.Buffer{})), guestcall.ErrBadRequest},
		"read: a device":      {second(c.ReadFile(ctx, "/dev/zero", &bytes.Buffer{})), guestcall.ErrBadRequest},
		"read: relative":      {second(c.ReadFile(ctx, "etc/passwd", &bytes.Buffer{})), guestcall.ErrBadRequest},
	} {
		if !errors.Is(tc.got, tc.want) {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}

func second[T any](_ T, err error) error { return err }

// TestReports feeds what a hostile guest might report.
func TestReports(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := status{Exited: true, Out: rapid.SliceOf(rapid.Byte()).Draw(t, "out")}
		if rapid.Bool().Draw(t, "begun") {
			s.Out = append([]byte("done 0 "), s.Out...)
		}
		if r, err := parseReport(s); err == nil && r.refused == "" && (r.code < 0 || r.code > 255 || r.sizes[0] < 0 || r.sizes[1] < 0) {
			t.Fatalf("%q parses to %+v", s.Out, r)
		}
	})
	for _, line := range []string{"", "done", "done 256 0 0 inline\n", "done -1 0 0 inline\n", "done 0 -1 0 inline\n", "done 0 0 0 both\n", "done 0 0 0 inline", "refused a b\n"} {
		if r, err := parseReport(status{Out: []byte(line)}); err == nil {
			t.Errorf("%q parses to %+v", line, r)
		}
	}
}

func FuzzReplies(f *testing.F) {
	f.Add(`{"return":{"pid":1}}`)
	f.Add(`{"return":{"exited":true,"out-data":"ZG9uZSAwIDAgMCBpbmxpbmUK"}}`)
	f.Add(`{"error":{"class":"x","desc":"y"}}`)
	f.Fuzz(func(t *testing.T, reply string) {
		n := 0
		c := New(func(context.Context, string) (string, error) {
			if n++; n > 20 {
				return "", errDeaf
			}
			return reply, nil
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = c.Exec(ctx, providers.ExecRequest{Command: []string{"x"}, Timeout: 10 * time.Millisecond})
		n = 0
		_, _ = c.ReadFile(ctx, "/x", &bytes.Buffer{})
	})
}
