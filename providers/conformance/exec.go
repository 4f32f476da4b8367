package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testExec(t *testing.T) {
	t.Run("Exec hands arguments over as they are", s.testArguments)
	t.Run("Exec delivers standard input to its end", s.testStdin)
	t.Run("Exec passes standard input on as it comes", s.testConversation)
	t.Run("Exec returns when the command has ended, whatever is left of its input", s.testEndsFirst)
	t.Run("Exec gives a command a terminal", s.testTerminal)
	t.Run("Exec keeps standard output and error apart and clean", s.testStreams)
	t.Run("Exec returns the exit code, and 128+N for signal N", s.testExitCodes)
	t.Run("Exec runs with the given environment, directory and user", s.testEnvironment)
	t.Run("Exec is ErrNotFound or ErrInvalid for what cannot be started", s.testNotStarted)
	t.Run("Exec passes output on as it comes", s.testStreaming)
	t.Run("Exec bounds the output and says that it did", s.testBounds)
	t.Run("Exec kills the command and what it has started when its time is up", s.testTimeout)
	t.Run("Exec kills the command when the context ends", s.testCancelExec)
	t.Run("Exec returns when the command has ended, whatever it has left in the background", s.testBackground)
	t.Run("Exec returns the error of the caller's own reader or writer", s.testOwnErrors)
	t.Run("Exec may be called by many at once", s.testParallelExec)
	t.Run("Exec does not say how a command ended that was lost", s.testLostExec)
}

func (s *suite) testArguments(t *testing.T) {
	id := s.guest(t)
	args := []string{
		"", " ", "two words", "line\nbreak", "tab\there", `'single'`, `"double"`, "`back`", `\`, `\n`,
		"$HOME", "$(exit 3)", "${x}", "*", "?", "[a]", "~", "#", "!", ";", "&", "|", "<", ">", "(", ")", "{}",
		"-n", "--", "äöü€😀", "\x01\x7f", strings.Repeat("long ", 2000), "",
	}
	got := s.sh(t, id, `printf '%s\0' "$@"`, args...)
	if want := strings.Join(args, "\x00") + "\x00"; got != want {
		t.Errorf("arguments arrived as\n%q, want\n%q", got, want)
	}
	// Bytes that are no text may be refused, but are never changed.
	var out bounded
	const bytes = "a\xff\xfe\xc3z"
	_, err := s.p.Exec(s.ctx(t), id, providers.ExecRequest{
		Command: []string{"sh", "-c", `printf '%s' "$1"`, "sh", bytes}, Stdout: &out,
	})
	if !errors.Is(err, providers.ErrInvalid) && (err != nil || out.String() != bytes) {
		t.Errorf("%q arrived as %q, %v", bytes, out.String(), err)
	}
}

func (s *suite) testStdin(t *testing.T) {
	id := s.guest(t)
	cat := []string{"cat"}
	if o := s.exec(t, id, providers.ExecRequest{Command: cat}); o.ExitCode != 0 || o.stdout != "" {
		t.Errorf("without any: %+v", o)
	}
	for _, n := range []int{0, 1, 4095, s.b.Bulk} {
		in := pattern(n)
		o := s.exec(t, id, providers.ExecRequest{Command: cat, Stdin: strings.NewReader(in)})
		if o.ExitCode != 0 || o.stdout != in || o.Truncated {
			t.Errorf("%d bytes came back as %d, equal: %v, %+v", n, len(o.stdout), o.stdout == in, o.ExecResult)
		}
	}
	// A command need not read what it is given.
	if o := s.exec(t, id, providers.ExecRequest{Command: []string{"true"}, Stdin: strings.NewReader(pattern(s.b.Bulk))}); o.ExitCode != 0 {
		t.Errorf("a command that reads nothing: %+v", o)
	}
}

func (s *suite) testStreams(t *testing.T) {
	id := s.guest(t)
	file := s.tempDir(t, id) + "/file"
	content := pattern(s.b.Bulk / 8)
	s.put(t, id, file, content)
	o := s.try(t, id, `cat "$1"; echo error >&2; echo out; cat "$1" >&2`, file)
	if o.stdout != content+"out\n" || o.stderr != "error\n"+content {
		t.Errorf("got %d bytes of output and %d of errors", len(o.stdout), len(o.stderr))
	}
	// Nobody need listen, and both may be one.
	r, err := s.p.Exec(s.ctx(t), id, providers.ExecRequest{Command: []string{"sh", "-c", "echo a; echo b >&2; exit 4"}})
	if err != nil || r.ExitCode != 4 {
		t.Errorf("without writers: %+v, %v", r, err)
	}
	var both bytes.Buffer // not guarded: the provider has to
	_, err = s.p.Exec(s.ctx(t), id, providers.ExecRequest{
		Command: []string{"sh", "-c", "echo a; echo b >&2"}, Stdout: &both, Stderr: &both,
	})
	if got := both.String(); err != nil || got != "a\nb\n" && got != "b\na\n" {
		t.Errorf("both into one: %q, %v", got, err)
	}
}

func (s *suite) testExitCodes(t *testing.T) {
	id := s.guest(t)
	for _, code := range []int{1, 95, 126, 127, 128, 255} {
		if o := s.try(t, id, `exit "$1"`, fmt.Sprint(code)); o.ExitCode != code || o.TimedOut || o.Truncated {
			t.Errorf("exit %d: %+v", code, o)
		}
	}
	for signal, code := range map[string]int{"KILL": 137, "TERM": 143} {
		if o := s.try(t, id, `kill -"$1" $$; exit 0`, signal); o.ExitCode != code {
			t.Errorf("signal %s: %+v", signal, o)
		}
	}
}

func (s *suite) testEnvironment(t *testing.T) {
	id := s.guest(t)
	value := "two words\n$HOME 'x' \"y\" ä="
	o := s.exec(t, id, providers.ExecRequest{
		Command: []string{"sh", "-c", `printf '%s|%s|' "$ONE" "$TWO$n$w$f"; pwd; id -un`},
		// The short names are a script's own before they are the command's.
		Env: []string{"ONE=" + value, "TWO=", "n=3", "w=4", "f=5"}, Dir: "/tmp", User: "root",
	})
	if want := value + "|345|/tmp\nroot\n"; o.stdout != want {
		t.Errorf("got %q, want %q", o.stdout, want)
	}
	o = s.exec(t, id, providers.ExecRequest{
		Command: []string{"sh", "-c", `printf '%s|' "$ONE" "$@"; pwd; id -un; exit 5`, "sh", "a  b", "$x"},
		Env:     []string{"ONE=" + value}, Dir: "/tmp", User: s.b.OtherUser, Stdin: strings.NewReader("in"),
	})
	if want := value + "|a  b|$x|/tmp\n" + s.b.OtherUser + "\n"; o.stdout != want || o.ExitCode != 5 {
		t.Errorf("as another user: got %q, exit code %d, want %q", o.stdout, o.ExitCode, want)
	}
}

func (s *suite) testNotStarted(t *testing.T) {
	id := s.guest(t)
	dir := s.tempDir(t, id)
	s.put(t, id, dir+"/plain", "no program")
	for name, tc := range map[string]struct {
		req  providers.ExecRequest
		kind error
	}{
		"no program of that name":  {providers.ExecRequest{Command: []string{"no-such-program"}}, providers.ErrNotFound},
		"no program at that path":  {providers.ExecRequest{Command: []string{"/no/such/program"}}, providers.ErrNotFound},
		"a file without the bit":   {providers.ExecRequest{Command: []string{dir + "/plain"}}, providers.ErrInvalid},
		"a directory":              {providers.ExecRequest{Command: []string{dir}}, providers.ErrInvalid},
		"no command":               {providers.ExecRequest{}, providers.ErrInvalid},
		"an empty command":         {providers.ExecRequest{Command: []string{"", "a"}}, providers.ErrInvalid},
		"a zero byte":              {providers.ExecRequest{Command: []string{"echo", "a\x00b"}}, providers.ErrInvalid},
		"no such directory":        {providers.ExecRequest{Command: []string{"true"}, Dir: "/no/such/dir"}, providers.ErrInvalid},
		"a relative directory":     {providers.ExecRequest{Command: []string{"true"}, Dir: "tmp"}, providers.ErrInvalid},
		"no such user":             {providers.ExecRequest{Command: []string{"true"}, User: "no-such-user"}, providers.ErrInvalid},
		"a user that is an option": {providers.ExecRequest{Command: []string{"true"}, User: "-c"}, providers.ErrInvalid},
		"a variable without =":     {providers.ExecRequest{Command: []string{"true"}, Env: []string{"NAME"}}, providers.ErrInvalid},
		"a variable without name":  {providers.ExecRequest{Command: []string{"true"}, Env: []string{"=value"}}, providers.ErrInvalid},
		"a negative timeout":       {providers.ExecRequest{Command: []string{"true"}, Timeout: -1}, providers.ErrInvalid},
		"a negative bound":         {providers.ExecRequest{Command: []string{"true"}, MaxOutput: -1}, providers.ErrInvalid},
	} {
		var out bounded
		tc.req.Stdout, tc.req.Stderr = &out, &out
		r, err := s.p.Exec(s.ctx(t), id, tc.req)
		if !errors.Is(err, tc.kind) {
			t.Errorf("%s: got %+v, error %v, want kind %v", name, r, err, tc.kind)
		}
		if out.String() != "" {
			t.Errorf("%s: a command that was not started wrote %q", name, out.String())
		}
	}
}

// signalled tells when a text has been written to it.
type signalled struct {
	bounded
	text string
	once sync.Once
	seen chan struct{}
}

func (w *signalled) Write(p []byte) (int, error) {
	n, err := w.bounded.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return n, err
}

// testStreaming runs a command that waits for a file that is written only once
// its first output was seen.
func (s *suite) testStreaming(t *testing.T) {
	id := s.guest(t)
	dir := s.tempDir(t, id)
	out := &signalled{text: "one\n", seen: make(chan struct{})}
	done := make(chan error, 1)
	ctx := within(t, s.b.Limits.Boot)
	go func() {
		_, err := s.p.Exec(ctx, id, providers.ExecRequest{
			Command: []string{"sh", "-c", `echo one; until [ -e "$1" ]; do sleep 1; done; echo two`, "sh", dir + "/go"},
			Stdout:  out,
		})
		done <- err
	}()
	select {
	case <-out.seen:
	case err := <-done:
		t.Fatalf("the command ended before its first output was seen: %v", err)
	}
	s.put(t, id, dir+"/go", "")
	must(t, "exec", <-done)
	if out.String() != "one\ntwo\n" {
		t.Errorf("the output is %q", out.String())
	}
}

func (s *suite) testBounds(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	file := s.tempDir(t, id) + "/file"
	size := s.b.Bulk / 4
	content, bound := pattern(size), size/3
	s.put(t, id, file, content)
	both := []string{"sh", "-c", `cat "$1"; cat "$1" >&2; exit 3`, "sh", file}
	o := s.exec(t, id, providers.ExecRequest{Command: both, MaxOutput: int64(bound)})
	if o.stdout != content[:bound] || o.stderr != content[:bound] || !o.Truncated || o.ExitCode != 3 {
		t.Errorf("bounded: %d and %d bytes, %+v", len(o.stdout), len(o.stderr), o.ExecResult)
	}
	o = s.exec(t, id, providers.ExecRequest{Command: both, MaxOutput: int64(size)})
	if o.stdout != content || o.stderr != content || o.Truncated {
		t.Errorf("just within the bound: %d and %d bytes, %+v", len(o.stdout), len(o.stderr), o.ExecResult)
	}
	endless := []string{"sh", "-c", "while :; do echo yyyyyyyyyyyyyyy; done"}
	for timeout := time.Second; ; timeout *= 2 { // a slow guest may need more to get going
		o = s.exec(t, id, providers.ExecRequest{Command: endless, MaxOutput: 100, Timeout: timeout})
		if len(o.stdout) > 100 || o.Truncated != (len(o.stdout) == 100) || !o.TimedOut {
			t.Fatalf("without end: %d bytes, %+v", len(o.stdout), o.ExecResult)
		}
		if o.Truncated {
			return
		}
		if timeout > s.b.Limits.Call {
			t.Fatalf("in %s the guest wrote %d bytes", timeout, len(o.stdout))
		}
	}
}

// alive lists which processes of the guest exist.
func (s *suite) alive(t testing.TB, id types.UID, pids ...string) []string {
	t.Helper()
	return strings.Fields(s.sh(t, id, `for p do ! kill -0 "$p" || echo "$p"; done`, pids...))
}

func (s *suite) waitGone(t *testing.T, id types.UID, pids []string) {
	t.Helper()
	eventually(t, s.b.Limits.Call, func() string {
		if left := s.alive(t, id, pids...); len(left) > 0 {
			return fmt.Sprintf("processes %q of the guest are still there", left)
		}
		return ""
	})
}

// busy is a script that writes its PID and that of a child to a file, and does
// not end by itself.
const busy = `sleep 100000 & echo $$ $! > "$1.new"; cat "$1.new" > "$1"; wait; sleep 100000`

func (s *suite) testTimeout(t *testing.T) {
	id := s.guest(t)
	file := s.tempDir(t, id) + "/pids"
	// A slow guest may not get as far as writing its PIDs: give it more time then.
	for timeout := 2 * time.Second; ; timeout *= 2 {
		o := s.exec(t, id, providers.ExecRequest{Command: []string{"sh", "-c", busy, "sh", file}, Timeout: timeout})
		if !o.TimedOut || o.ExitCode != 137 {
			t.Fatalf("after its time: %+v", o)
		}
		pids := strings.Fields(s.try(t, id, `cat "$1"`, file).stdout)
		if len(pids) == 2 {
			s.waitGone(t, id, pids)
			return
		}
		if timeout > s.b.Limits.Call {
			t.Fatalf("in %s the guest started nothing", timeout)
		}
	}
}

func (s *suite) testCancelExec(t *testing.T) {
	id := s.guest(t)
	file := s.tempDir(t, id) + "/pids"
	ctx, cancel := context.WithCancel(within(t, s.b.Limits.Boot))
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.p.Exec(ctx, id, providers.ExecRequest{Command: []string{"sh", "-c", busy, "sh", file}})
		done <- err
	}()
	var pids []string
	eventually(t, s.b.Limits.Call, func() string {
		if pids = strings.Fields(s.try(t, id, `cat "$1"`, file).stdout); len(pids) != 2 {
			return "the command has not written its PIDs"
		}
		return ""
	})
	if left := s.alive(t, id, pids...); len(left) != len(pids) {
		t.Errorf("of %q only %q were there before anything was cancelled", pids, left)
	}
	cancel()
	want(t, "exec", <-done, context.Canceled)
	s.waitGone(t, id, pids)
}

func (s *suite) testBackground(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	pid := s.sh(t, id, "sleep 100000 & echo $!")
	if len(s.alive(t, id, pid)) == 0 {
		t.Error("what was left in the background is gone")
	}
	s.sh(t, id, `kill "$1"`, pid)
	s.waitGone(t, id, []string{pid})
}

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

func (s *suite) testOwnErrors(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	file := s.tempDir(t, id) + "/file"
	_, err := s.p.Exec(s.ctx(t), id, providers.ExecRequest{
		Command: []string{"sh", "-c", `cat; echo ran > "$1"`, "sh", file}, Stdin: &broken{left: 100_000}, Stdout: io.Discard,
	})
	want(t, "exec with a broken reader", err, errOwn)
	if o := s.try(t, id, `[ -e "$1" ]`, file); o.ExitCode == 0 {
		t.Error("the command went on although its input could not be read")
	}
	s.put(t, id, file, pattern(s.b.Bulk/4))
	_, err = s.p.Exec(s.ctx(t), id, providers.ExecRequest{Command: []string{"cat", file}, Stdout: &broken{left: 1000}})
	want(t, "exec with a broken writer", err, errOwn)
}

func (s *suite) testParallelExec(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	n := s.b.Commands
	ctx := within(t, s.b.Limits.Boot)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var out bounded
			r, err := s.p.Exec(ctx, id, providers.ExecRequest{
				Command: []string{"sh", "-c", `cat; echo "$1"; exit "$1"`, "sh", fmt.Sprint(i)},
				Stdin:   strings.NewReader(fmt.Sprintf("input %d\n", i)), Stdout: &out,
			})
			if want := fmt.Sprintf("input %d\n%d\n", i, i); err != nil || r.ExitCode != i || out.String() != want {
				t.Errorf("command %d: %+v, %v, output %q", i, r, err, out.String())
			}
		})
	}
	wg.Wait()
}
