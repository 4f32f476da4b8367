package ssh

import (
	"context"
	"encoding/binary"
	"errors"
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

	xssh "golang.org/x/crypto/ssh"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/test/capture"
	ptmx "sandboxd.dev/sandboxd/test/terminal"
)

// pty is the terminal of a session.
type pty struct {
	t            testing.TB
	keys, screen *os.File
}

// sizeOf reads two numbers, columns and rows.
func sizeOf(payload []byte) (width, height uint16) {
	return uint16(binary.BigEndian.Uint32(payload)), uint16(binary.BigEndian.Uint32(payload[4:]))
}

// openPTY makes what a request asks for, after the terminal's type.
func openPTY(t testing.TB, payload []byte) *pty {
	width, height := sizeOf(payload[4+binary.BigEndian.Uint32(payload):])
	p := &pty{t: t}
	p.keys, p.screen = ptmx.Open(t, width, height)
	return p
}

func (p *pty) resize(payload []byte) {
	width, height := sizeOf(payload)
	ptmx.Resize(p.t, p.keys, width, height)
}

// runAtTerminal runs a command as servers do: when the channel is closed, the
// terminal is hung up.
func (g *guest) runAtTerminal(ch xssh.Channel, command string, p *pty, gone <-chan struct{}) {
	cmd := exec.Command(g.shell[0], append(g.shell[1:len(g.shell):len(g.shell)], command)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.screen, p.screen, p.screen
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	g.mu.Lock()
	g.laid = append(g.laid, filepath.Dir(strings.TrimPrefix(command, "exec /bin/sh ")))
	g.mu.Unlock()
	must(g.t, cmd.Start())
	_ = p.screen.Close()
	g.mu.Lock()
	g.shells = append(g.shells, cmd.Process.Pid)
	g.mu.Unlock()
	go func() {
		<-gone
		_ = p.keys.Close()
	}()
	go func() { _, _ = io.Copy(p.keys, ch) }() // ends with the channel
	var shown sync.WaitGroup
	shown.Go(func() { _, _ = io.Copy(ch, p.keys) })
	_ = cmd.Wait()
	shown.Wait() // until nobody has the terminal
	tellEnd(ch, cmd, gone)
}

// atTerminal runs a command at a terminal and tells how it ended.
func atTerminal(ctx context.Context, c *Client, req providers.ExecRequest) <-chan outcome {
	ended := make(chan outcome, 1)
	req.TTY = true
	go func() {
		r, err := c.Exec(ctx, req)
		if in, ok := req.Stdin.(io.Closer); ok {
			_ = in.Close()
		}
		ended <- outcome{r, err}
	}()
	return ended
}

type outcome struct {
	providers.ExecResult
	err error
}

func TestTerminal(t *testing.T) {
	for name, shell := range map[string][]string{
		"sh": nil, "bash": {"/bin/bash", "-c"},
		"a shell that talks": {"/bin/sh", "-c", `echo welcome; echo warning >&2; eval "$0"`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			g.shell = shell
			c := g.start().client()
			in, w := io.Pipe()
			var out capture.Buffer
			sizes := make(chan providers.TerminalSize, 1)
			sizes <- providers.TerminalSize{Width: 101, Height: 33}
			ended := atTerminal(within(t), c, providers.ExecRequest{Command: []string{"sh"}, Stdin: in, Stdout: &out, Stderr: &out, Resize: sizes, Env: []string{"PS1=>"}})
			_, _ = io.WriteString(w, "stty size; echo $TERM; tty >/dev/null && echo a terminal\r")
			out.Shows(t, patience, "33 101\r\nxterm\r\na terminal\r\n")
			sizes <- providers.TerminalSize{Width: 132, Height: 50}
			eventually(t, "the new size", func() bool {
				_, _ = io.WriteString(w, "stty size\r")
				time.Sleep(20 * time.Millisecond)
				return strings.Contains(out.String(), "50 132\r\n")
			})
			close(sizes)
			_, _ = io.WriteString(w, "sh -c 'echo be''gun; exec sleep 100000'; echo ended by $?\r")
			out.Shows(t, patience, "begun\r\n")
			_, _ = io.WriteString(w, "\x03")
			out.Shows(t, patience, "^C")
			_, _ = io.WriteString(w, "echo ba''ck; exit 5\r")
			if r := <-ended; r.err != nil || r.ExitCode != 5 || !strings.Contains(out.String(), "back\r\n") {
				t.Errorf("it ended with %+v after %q", r, out.String())
			}
			if strings.Contains(out.String(), "welcome") || strings.Contains(out.String(), "\x01") {
				t.Errorf("more is shown than what the command has to say: %q", out.String())
			}
			g.noneLeft()
		})
	}
}

// noneLeft looks for what is left in the guest of its commands at terminals.
func (g *guest) noneLeft() {
	g.t.Helper()
	g.mu.Lock()
	laid := slices.Clone(g.laid)
	g.mu.Unlock()
	if len(laid) == 0 {
		g.t.Error("nothing was run at a terminal")
	}
	for _, dir := range laid {
		eventually(g.t, dir+" gone", func() bool {
			_, err := os.Stat(dir)
			return errors.Is(err, os.ErrNotExist)
		})
	}
}

// TestAtTerminal: commands at a terminal get what they are given, and end as without
// one.
func TestAtTerminal(t *testing.T) {
	g := newGuest(t).start()
	c := g.client()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644))
	odd := []string{"", "two words", `'`, `"`, `\`, `\n`, "$HOME", "*", "!", "-n", "ä€😀\xff", strings.Repeat("long ", 2000)}
	for name, tc := range map[string]struct {
		req   providers.ExecRequest
		in    io.Reader
		shown string
		code  int
		err   error
	}{
		"success":      {req: sh("true")},
		"arguments":    {req: sh(`printf '%s|' "$@"`, odd...), shown: strings.Join(odd, "|") + "|"},
		"exit code":    {req: sh("exit 255"), code: 255},
		"killed":       {req: sh("kill -9 $$"), code: 137},
		"interrupted":  {req: sh("kill -INT $$"), code: 130},
		"both streams": {req: sh("echo out; echo err >&2"), shown: "out\r\nerr\r\n"},
		"raw":          {req: sh("stty raw -echo; echo raw"), shown: "raw\n"},
		"environment": {
			req:   with(sh(`printf '%s|' "$A" "$B"; pwd`), func(r *providers.ExecRequest) { r.Env, r.Dir = []string{"A=x 'y'", "B="}, dir }),
			shown: "x 'y'||" + dir + "\r\n",
		},
		"no input":       {req: sh("cat; echo end"), shown: "end\r\n"},
		"a line":         {req: sh("stty -echo; cat; echo end"), in: strings.NewReader("one\n"), shown: "one\r\nend\r\n"},
		"part of a line": {req: sh("stty -echo; cat; echo end"), in: strings.NewReader("one\ntwo"), shown: "one\r\ntwoend\r\n"},
		"unread input":   {req: sh("stty -echo; exit 3"), in: strings.NewReader("one\n"), code: 3},
		"endless input":  {req: sh("stty -echo; exit 4"), in: typing{}, code: 4},
		"silent input":   {req: sh("exit 5"), in: silent(t), code: 5},
		"no program":     {req: providers.ExecRequest{Command: []string{"no-such-program"}}, err: providers.ErrNotFound},
		"no executable":  {req: providers.ExecRequest{Command: []string{dir + "/plain"}}, err: providers.ErrInvalid},
		"no directory":   {req: with(sh("true"), func(r *providers.ExecRequest) { r.Dir = "/no/such" }), err: providers.ErrInvalid},
		"no user":        {req: with(sh("true"), func(r *providers.ExecRequest) { r.User = "no-such-user" }), err: providers.ErrInvalid},
		"broken input":   {req: sh("cat"), in: &broken{left: 100}, err: errOwn},
	} {
		t.Run(name, func(t *testing.T) {
			var out capture.Buffer
			tc.req.Stdin, tc.req.Stdout = tc.in, &out
			r := <-atTerminal(within(t), c, tc.req)
			shown := strings.ReplaceAll(out.String(), "^D\b\b", "")
			if tc.in != nil && strings.HasSuffix(shown, tc.shown) {
				shown = tc.shown // what is typed is shown until the command says that it should not
			}
			if !errors.Is(r.err, tc.err) || r.ExitCode != tc.code || r.err == nil && shown != tc.shown {
				t.Errorf("%+v after %.200q, want %d and %.200q, or %v", r, out.String(), tc.code, tc.shown, tc.err)
			}
		})
	}
	g.noneLeft()
}

// typing is typed without end.
type typing struct{}

func (typing) Read(p []byte) (int, error) { return copy(p, "y\n"), nil }

// silent is typed by nobody.
func silent(t *testing.T) io.Reader {
	in, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return in
}

// TestTerminalAsUser: who becomes somebody else stays at his terminal.
func TestTerminalAsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root runs commands as others")
	}
	g := newGuest(t).start()
	c := g.client()
	in, w := io.Pipe()
	var out capture.Buffer
	ended := atTerminal(within(t), c, providers.ExecRequest{
		Command: []string{"sh", "-c", `id -un; echo "$1" >/dev/tty; exec sleep 100000`, "sh", "a word"}, User: "nobody", Dir: "/", Stdin: in, Stdout: &out,
	})
	out.Shows(t, patience, "nobody\r\na word\r\n")
	_, _ = io.WriteString(w, "\x03")
	if r := <-ended; r.err != nil || r.ExitCode != 130 {
		t.Errorf("interrupted, it ended with %+v after %q", r, out.String())
	}
	_ = w.Close()
	g.noneLeft()
}

// TestHangup: who goes away hangs up, and what does not end by that is killed.
func TestHangup(t *testing.T) {
	for name, trap := range map[string]string{
		"ends":    `trap 'sleep 0.5; echo hung up >"$1.note"; exit' HUP`,
		"ignores": `trap '' HUP; echo ignored >"$1.note"`,
	} {
		for what, timed := range map[string]bool{"cancelled": false, "time up": true} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				g := newGuest(t).start()
				for slow := time.Duration(1); !hungUp(t, g.client(), trap, timed, slow); slow *= 4 {
					if slow > 10 {
						t.Fatal("it was not told, or never begun")
					}
				}
				g.noneLeft()
			})
		}
	}
}

// hungUp hangs up on a command, and tells whether it had begun by then and was told: it
// has so many times as long for that as on a host that is not busy.
func hungUp(t *testing.T, c *Client, trap string, timed bool, slow time.Duration) bool {
	t.Helper()
	c.g.limits.hangup = slow * 2 * time.Second
	file := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	req := sh(trap+`; sleep 100000 & echo $$ $! > "$1.new"; mv "$1.new" "$1"; while :; do wait; done`, file)
	req.Stdin, req.Stdout = silent(t), io.Discard
	if timed {
		req.Timeout = slow * 2 * time.Second
	}
	ended := atTerminal(ctx, c, req)
	if !timed {
		pids(t, file)
		cancel()
	}
	r := <-ended
	if !timed && !errors.Is(r.err, context.Canceled) || timed && (r.err != nil || !r.TimedOut || r.ExitCode != 137) {
		t.Errorf("it ended with %+v", r)
	}
	if _, err := os.Stat(file); err != nil && timed {
		return false
	}
	gone(t, pids(t, file))
	note, err := os.ReadFile(file + ".note")
	return err == nil && len(note) > 0
}

// TestEndsWhenHungUp: a command that ends by itself once it is hung up on, where that
// kills nobody, has removed what was laid for it, and nobody makes it anew.
func TestEndsWhenHungUp(t *testing.T) {
	g := newGuest(t)
	g.shell = []string{"/bin/sh", "-c", `trap '' HUP; eval "$0"`}
	c := g.start().client()
	req := sh("cat")
	req.Stdin, req.Stdout = &broken{left: 100}, io.Discard
	if r := <-atTerminal(within(t), c, req); !errors.Is(r.err, errOwn) {
		t.Errorf("it ended with %+v", r)
	}
	g.noneLeft()
}

// TestConnectionLost: a command at a terminal does not outlive the connection.
func TestConnectionLost(t *testing.T) {
	g := newGuest(t).start()
	c := g.client()
	file := filepath.Join(t.TempDir(), "pids")
	req := sh(busy, file)
	req.Stdin, req.Stdout = silent(t), io.Discard
	ended := atTerminal(within(t), c, req)
	running := pids(t, file)
	g.mu.Lock()
	for _, conn := range g.conns {
		_ = conn.Close()
	}
	g.mu.Unlock()
	if r := <-ended; !errors.Is(r.err, providers.ErrUnavailable) {
		t.Errorf("it ended with %+v", r)
	}
	gone(t, running)
}

// TestNoTerminal: who has none to give says so, and nothing is left of the attempt.
func TestNoTerminal(t *testing.T) {
	g := newGuest(t)
	g.mute = true
	c := g.start().client()
	mark := "mark of " + t.TempDir()
	r := <-atTerminal(within(t), c, sh("true", mark))
	if providers.KindOf(r.err) != providers.ErrUnsupported || !strings.Contains(r.err.Error(), "PermitTTY") {
		t.Errorf("got %+v", r)
	}
	laid, err := filepath.Glob("/tmp/.sandboxd-*/terminal")
	must(t, err)
	for _, file := range laid {
		if b, _ := os.ReadFile(file); strings.Contains(string(b), mark) {
			t.Errorf("the guest keeps %s", file)
		}
	}
}
