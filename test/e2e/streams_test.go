//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/test/capture"
)

// TestStreams talks with programs in a guest that has no network: by pipes, by a
// terminal, by its console and by a forwarded port, with our own client and, where
// SANDBOXD_KUBECTLS names some, with kubectls.
func TestStreams(t *testing.T) {
	h := newHost(t)
	h.apply(image+sandbox("talk", ""), "--wait", "--timeout", "12m")
	c, err := client.New(client.Options{Socket: h.path("s.sock")})
	must(t, err)
	t.Cleanup(c.CloseIdleConnections)
	key := types.NamespacedName{Namespace: "default", Name: "talk"}

	h.answers(c, key)
	h.showsTerminal(c, key)
	h.worksAtTerminal("talk")
	h.attaches()
	h.forwards(c, key)
	for _, kubectl := range strings.Fields(os.Getenv("SANDBOXD_KUBECTLS")) {
		h.obeysKubectl(kubectl)
	}
	h.eventually("a guest without leftovers", func() error {
		left := h.ok("exec", "talk", "--", "sh", "-c", `cd /tmp; for d in .sandboxd-*; do echo "$d:" $(ls "$d"); done`)
		if strings.Count(left, ":") > 1 { // that of the command itself
			return fmt.Errorf("commands have left %s", left)
		}
		return nil
	})
	h.ok("delete", "sandbox", "talk")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
}

// shows waits until something is shown.
func (h *host) shows(s *capture.Buffer, text string) {
	h.t.Helper()
	h.eventually("shown", func() error {
		if !strings.Contains(s.String(), text) {
			return fmt.Errorf("%q is not shown, but %q", text, s.String())
		}
		return nil
	})
}

// talk runs a command until it has ended.
func (h *host) talk(c *client.Client, key types.NamespacedName, o client.ExecOptions) (ended chan client.ExecResult) {
	ended = make(chan client.ExecResult, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	h.t.Cleanup(cancel)
	go func() {
		r, err := c.Exec(ctx, key, o)
		if err != nil {
			h.t.Errorf("%q: %v", o.Command, err)
		}
		ended <- r
	}()
	return ended
}

func (h *host) answers(c *client.Client, key types.NamespacedName) {
	in, w := io.Pipe()
	var out capture.Buffer
	ended := h.talk(c, key, client.ExecOptions{Command: []string{"sh", "-c", `while read -r l; do echo "got $l"; done; exit 3`}, Stdin: in, Stdout: &out})
	for i := range 3 {
		fmt.Fprintf(w, "line %d\n", i)
		h.shows(&out, fmt.Sprintf("got line %d\n", i))
	}
	_ = w.Close()
	if r := <-ended; r.ExitCode != 3 {
		h.t.Errorf("a conversation ends with %+v", r)
	}
	data := randomBytes(6 << 20)
	var back bytes.Buffer
	begun := time.Now()
	if r := <-h.talk(c, key, client.ExecOptions{Command: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: &back}); r.ExitCode != 0 || !bytes.Equal(back.Bytes(), data) {
		h.t.Errorf("%d bytes came back as %d, %+v", len(data), back.Len(), r)
	}
	h.t.Logf("%d MiB through cat, both ways, in %v", len(data)>>20, time.Since(begun).Round(time.Second))
}

func randomBytes(n int) []byte {
	source, data := rand.New(rand.NewPCG(1, 2)), make([]byte, n)
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	return data
}

func (h *host) showsTerminal(c *client.Client, key types.NamespacedName) {
	in, w := io.Pipe()
	var out capture.Buffer
	sizes := make(chan client.TerminalSize, 1)
	sizes <- client.TerminalSize{Width: 101, Height: 33}
	ended := h.talk(c, key, client.ExecOptions{Command: []string{"sh"}, Stdin: in, Stdout: &out, TTY: true, Resize: sizes, Env: []string{"PS1=>"}})
	h.shows(&out, ">")
	fmt.Fprint(w, "stty size\r")
	h.shows(&out, "33 101\r\n")
	sizes <- client.TerminalSize{Width: 132, Height: 50}
	h.eventually("the new size", func() error {
		fmt.Fprint(w, "stty size\r")
		time.Sleep(time.Second)
		if !strings.Contains(out.String(), "50 132\r\n") {
			return errors.New("it is still the old one")
		}
		return nil
	})
	fmt.Fprint(w, "sh -c 'echo be''gun; exec sleep 100000'\r") // which Ctrl-C ends from its first word on
	h.shows(&out, "begun\r\n")
	fmt.Fprint(w, "\x03")
	h.eventually("Ctrl-C seen", func() error { // a shell that is quick shows nothing of it but its prompt
		if strings.HasSuffix(out.String(), "begun\r\n") {
			return errors.New("nothing is shown after it")
		}
		return nil
	})
	fmt.Fprint(w, "echo ba''ck; exit 5\r")
	if r := <-ended; r.ExitCode != 5 || !strings.Contains(out.String(), "back\r\n") {
		h.t.Errorf("the terminal ends with %+v after %q", r, out.String())
	}
}

func (h *host) attaches() {
	t := h.t
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var shown capture.Buffer
	attach := exec.CommandContext(ctx, h.bin, "--socket", h.path("s.sock"), "attach", "talk")
	attach.Stdout = &shown
	must(t, attach.Start())
	defer func() { _ = attach.Wait() }()
	defer func() { _ = attach.Process.Kill() }()
	h.eventually("the console", func() error {
		h.ok("exec", "talk", "--", "sh", "-c", "echo on the con''sole >/dev/console")
		if !strings.Contains(shown.String(), "on the console") {
			return fmt.Errorf("it shows %q", shown.String())
		}
		return nil
	})
	if log := h.ok("logs", "talk"); !strings.Contains(log, "on the console") {
		t.Error("the console's log does not go on while somebody is attached")
	}
}

func (h *host) forwards(c *client.Client, key types.NamespacedName) {
	t := h.t
	h.ok("exec", "talk", "--", "sh", "-c", "ip link set lo up; nc -ll -p 9000 -e cat </dev/null >/dev/null 2>&1 & until nc 127.0.0.1 9000 </dev/null >/dev/null 2>&1; do sleep 0.1; done")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tunnel, err := c.PortForward(ctx, key)
	must(t, err)
	defer func() { _ = tunnel.Close() }()
	near, far := pipe(t)
	carried := make(chan error, 1)
	go func() { carried <- tunnel.Carry(far, 9000) }()
	data := randomBytes(100_000)
	go func() {
		_, _ = near.Write(data)
		_ = near.CloseWrite()
	}()
	back, err := io.ReadAll(near)
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back as %d, %v", len(data), len(back), err)
	}
	if err := <-carried; err != nil {
		t.Error(err)
	}
	_, far = pipe(t)
	if err := tunnel.Carry(far, 9999); err == nil || !strings.Contains(err.Error(), "port 9999") {
		t.Errorf("a port on which nothing listens: %v", err)
	}
}

// pipe makes both ends of a TCP connection.
func pipe(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	dialed, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	accepted, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { _, _ = dialed.Close(), accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// obeysKubectl does the same with a kubectl, over TCP.
func (h *host) obeysKubectl(kubectl string) {
	t := h.t
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = near.Close() }()
				far, err := net.Dial("unix", h.path("s.sock"))
				if err != nil {
					return
				}
				defer func() { _ = far.Close() }()
				go func() { _, _ = io.Copy(far, near); _ = far.(*net.UnixConn).CloseWrite() }()
				_, _ = io.Copy(near, far)
			}()
		}
	}()
	run := func(stdin string, args ...string) (string, int) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, kubectl, append([]string{"-s", "http://" + l.Addr().String(), "--cache-dir", h.path("cache")}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := run("typed", "exec", "-i", "talk", "--", "sh", "-c", "cat; exit 7"); !strings.Contains(out, "typed") || code != 7 {
		t.Errorf("%s exec: %d, %q", kubectl, code, out)
	}
	data := randomBytes(4 << 20)
	must(t, os.WriteFile(h.path("there"), data, 0o600))
	if out, code := run("", "cp", h.path("there"), "talk:/root/there"); code != 0 {
		t.Errorf("%s cp: %s", kubectl, out)
	}
	if sum := h.ok("exec", "talk", "--", "sha256sum", "/root/there"); !strings.HasPrefix(sum, fmt.Sprintf("%x ", sha256.Sum256(data))) {
		t.Errorf("%s cp: the guest has %s", kubectl, sum)
	}
	_ = os.Remove(h.path("back"))
	if out, code := run("", "cp", "talk:/root/there", h.path("back")); code != 0 {
		t.Errorf("%s cp: %s", kubectl, out)
	}
	if back, err := os.ReadFile(h.path("back")); err != nil || !bytes.Equal(back, data) {
		t.Errorf("%s cp: %d bytes came back as %d, %v", kubectl, len(data), len(back), err)
	}
	t.Logf("%s has run a command and copied %d MiB both ways", kubectl, len(data)>>20)
	if out, code := run("", "logs", "talk", "--tail", "50"); code != 0 || !strings.Contains(out, "on the console") {
		t.Errorf("%s logs: %d, %q", kubectl, code, out)
	}
	h.typesBy(exec.Command(kubectl, "-s", "http://"+l.Addr().String(), "--cache-dir", h.path("cache"), "attach", "-i", "talk"))
}
