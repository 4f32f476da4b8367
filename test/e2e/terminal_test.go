//go:build linux

package e2e_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/test/capture"
	"sandboxd.dev/sandboxd/test/terminal"
)

// typist works at a terminal at which sandboxd runs.
type typist struct {
	*host
	keys  *os.File
	shown capture.Buffer
	ended chan error
}

// sitDown runs sandboxd at a terminal of a size.
func (h *host) sitDown(width, height uint16, args ...string) (*typist, *exec.Cmd) {
	h.t.Helper()
	keys, screen := terminal.Open(h.t, width, height)
	cmd := exec.Command(h.bin, args...)
	cmd.Env = append(os.Environ(), "SANDBOXD_SOCKET="+h.path("s.sock"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	p := &typist{host: h, keys: keys, ended: make(chan error, 1)}
	go func() { _, _ = io.Copy(&p.shown, keys) }()
	must(h.t, cmd.Start())
	go func() { p.ended <- cmd.Wait() }()
	h.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return p, cmd
}

// until types again and again until a text is shown that is not what was typed: a shell
// may drop what is typed while it takes its terminal back. It waits for an answer before
// it types again, and goes on after a while if there is none: a slow guest is not flooded.
func (p *typist) until(shown string, typed func()) {
	p.t.Helper()
	const quiet = time.Second
	for deadline := time.Now().Add(patience); ; {
		before, since := len(p.shown.String()), time.Now()
		typed()
		for answered := before; ; time.Sleep(50 * time.Millisecond) {
			now := p.shown.String()
			if strings.Contains(now, shown) {
				return
			}
			if len(now) > answered {
				answered, since = len(now), time.Now()
			}
			if waited := time.Since(since); answered > before && waited > quiet || waited > 20*quiet {
				break
			}
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%q is never shown, but %q", shown, p.shown.String())
		}
	}
}

func (p *typist) types(text string) func() {
	return func() {
		p.t.Helper()
		_, err := io.WriteString(p.keys, text)
		must(p.t, err)
	}
}

// worksAtTerminal works in a sandbox by `exec -it`: what is typed is echoed, the size is
// that of our terminal also when it changes, Ctrl-C ends what runs and not the shell, and
// the exit code is that of the shell.
func (h *host) worksAtTerminal(name string) {
	h.t.Helper()
	begun := time.Now()
	p, cmd := h.sitDown(101, 33, "exec", "-it", name, "--", "sh")
	p.until("33 101\r\n", p.types("stty size\r"))
	if !strings.Contains(p.shown.String(), "stty size\r\n") {
		h.t.Errorf("what was typed is not echoed: %q", p.shown.String())
	}
	terminal.Resize(h.t, p.keys, 132, 50)
	p.until("50 132\r\n", p.types("stty size\r"))
	p.until("begun\r\n", p.types("echo be''gun; sleep 100000\r"))
	p.until("ba-ck\r\n", func() { // the first Ctrl-C may come between the shell and what it runs
		p.types("\x03")()
		p.types("echo ba''-ck\r")()
	})
	for deadline := time.Now().Add(patience); ; {
		p.types("exit 5\r")()
		select {
		case err := <-p.ended:
			h.t.Logf("it ended: %v", err) // its exit code is looked at below
		case <-time.After(10 * time.Second):
			if time.Now().After(deadline) {
				h.t.Fatalf("the shell does not end: %q", p.shown.String())
			}
			continue
		}
		break
	}
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		h.t.Errorf("the terminal in %s ends with exit %d after %q", name, code, p.shown.String())
	}
	h.t.Logf("worked at a terminal in %s for %v", name, time.Since(begun).Round(100*time.Millisecond))
}

// additions is a guest with VirtualBox's Guest Additions, whose way in is guest control.
const additions = `
apiVersion: v1
kind: Secret
metadata: {name: additions}
stringData: {password: sandbox}
---
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: additions}
spec:
  source: {disk: {path: additions.qcow2}}
  machine: {memory: 128Mi}
  guest: {user: root, passwordSecretRef: {name: additions}}
---
apiVersion: sandboxd.dev/v1
kind: Sandbox
metadata: {name: talk}
spec: {image: additions}
`

// additionsImage is the disk of such a guest, made by images/guestadditions/build.
func additionsImage(t *testing.T) string {
	t.Helper()
	path := os.Getenv("SANDBOXD_GUESTADDITIONS_IMAGE")
	if path == "" {
		path = filepath.Join(filepath.Dir(tinyImage(t)), "guestadditions.qcow2")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("there is no guest with Guest Additions: run images/guestadditions/build %s: %v", path, err)
	}
	return path
}

// TestTerminalOfVirtualBox works at a terminal through guest control.
func TestTerminalOfVirtualBox(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots a guest, which takes a minute where it is interpreted; the short form has terminals in providers/virtualbox")
	}
	h := newVirtualBoxHost(t)
	copyFile(t, additionsImage(t), h.path("images/additions.qcow2"))
	h.apply(additions)
	h.waitLong("sandbox/talk")
	h.worksAtTerminal("talk")
	if out := h.ok("exec", "talk", "--", "sh", "-c", "pidof sleep || echo none"); out != "none\n" {
		t.Errorf("what Ctrl-C was to end still runs: %s", out)
	}
	h.ok("delete", "sandbox", "talk")
	h.ok("delete", "goldenimage", "additions")
	h.cleanedUp()
}
