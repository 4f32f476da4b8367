//go:build linux

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/test/capture"
)

// consoleShell gives a guest that has none a shell on its serial console.
const consoleShell = `sh </dev/console >/dev/console 2>&1 &`

// TestConsole types at the serial console of a guest: alone, in company, after the
// daemon was killed and started anew, and after the machine was.
func TestConsole(t *testing.T) {
	h := newHost(t)
	h.apply(image+sandbox("talk", ""), "--wait", "--timeout", "12m")
	h.typesAtConsole()
	h.ok("delete", "sandbox", "talk")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
}

// sits is somebody who is attached and types.
type sits struct {
	keys  io.Writer
	shown capture.Buffer
	left  chan struct{} // closed when it is attached no more
	why   error
	leave context.CancelFunc
}

// sit attaches to the console of a sandbox.
func (h *host) sit(name string) *sits {
	c, err := client.New(client.Options{Socket: h.path("s.sock")})
	must(h.t, err)
	h.t.Cleanup(c.CloseIdleConnections)
	in, keys := io.Pipe()
	s := &sits{keys: keys, left: make(chan struct{})}
	ctx, leave := context.WithTimeout(context.Background(), 2*patience)
	s.leave = leave
	h.t.Cleanup(leave)
	go func() {
		err := c.Attach(ctx, types.NamespacedName{Namespace: "default", Name: name}, client.ExecOptions{Stdin: in, Stdout: &s.shown})
		_ = in.CloseWithError(errors.New("the console was left"))
		s.why = err
		close(s.left)
	}()
	return s
}

// asks types a command until its answer, which is not what was typed, is shown. What
// is typed before the guest's shell listens may be lost.
func (h *host) asks(s *sits, word string, seen ...*sits) {
	h.t.Helper()
	h.eventually("an answer on the console", func() error {
		if _, err := fmt.Fprintf(s.keys, "echo answer-%s''-end\n", word); err != nil {
			<-s.left
			h.t.Fatalf("typing: %v; attached: %v", err, s.why)
		}
		for _, by := range append(seen, s) {
			if !strings.Contains(by.shown.String(), "answer-"+word+"-end") {
				return fmt.Errorf("it shows %q", by.shown.String())
			}
		}
		return nil
	})
}

// typesBy types at the console of talk by a command that is attached.
func (h *host) typesBy(attach *exec.Cmd) {
	h.t.Helper()
	h.ok("exec", "talk", "--", "sh", "-c", consoleShell)
	s := &sits{left: make(chan struct{})}
	keys, err := attach.StdinPipe()
	must(h.t, err)
	s.keys, attach.Stdout, attach.Stderr = keys, &s.shown, &s.shown
	must(h.t, attach.Start())
	go func() {
		s.why = attach.Wait()
		close(s.left)
	}()
	h.asks(s, "kubectl")
	_ = attach.Process.Kill()
	<-s.left
}

// typesAtConsole is for the running sandbox talk.
func (h *host) typesAtConsole() {
	t := h.t
	h.ok("exec", "talk", "--", "sh", "-c", consoleShell)
	first, second := h.sit("talk"), h.sit("talk")
	h.asks(first, "first", second)
	h.asks(second, "second", first)
	first.leave()
	<-first.left
	h.asks(second, "alone")
	if log := h.ok("logs", "talk"); !strings.Contains(log, "answer-first-end") || !strings.Contains(log, "answer-alone-end") {
		t.Errorf("the log does not have what the console showed: %q", log)
	}

	h.kill()
	<-second.left
	h.start()
	third := h.sit("talk")
	h.asks(third, "killed")
	h.ok("exec", "talk", "--", "sh", "-c", "echo after''wards >/dev/console")
	third.leave()
	<-third.left
	h.eventually("a log that goes on", func() error {
		log := h.ok("logs", "talk")
		for _, want := range []string{"answer-first-end", "answer-killed-end", "afterwards"} {
			if strings.Count(log, want) == 0 {
				return fmt.Errorf("%q is not in the log: %q", want, log)
			}
		}
		return nil
	})
}

// TestConsoleOfVirtualBox: the serial port of a machine goes to a socket while somebody
// is attached who types, and to its log again when that one leaves, and when the daemon
// was killed meanwhile and started anew.
func TestConsoleOfVirtualBox(t *testing.T) {
	h := newVirtualBoxHost(t)
	h.apply(haltImage+haltSandbox("talk", ""), "--wait", "--timeout", "12m")
	vm := h.field("talk", ".status.machineID")
	goes := func(to string) {
		t.Helper()
		h.eventually("a serial port that goes to "+to, func() error {
			info, err := manage("showvminfo", vm, "--machinereadable")
			if err == nil && !strings.Contains(info, `uartmode1="`+to+",") {
				err = fmt.Errorf("it does not: %s", info)
			}
			return err
		})
	}
	goes("file")
	first, second := h.sit("talk"), h.sit("talk")
	goes("server")
	first.leave()
	<-first.left
	h.ok("snapshot", "create", "talk", "typed", "--memory", "--wait", "--timeout", "12m")
	h.ready("talk")
	goes("server")
	h.kill()
	<-second.left
	goes("server")
	h.start()
	goes("file")
	h.eventually("a log that says what is missing", func() error {
		if log := h.ok("logs", "talk"); !strings.Contains(log, "[sandboxd was ended while somebody typed here") {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	})
	third := h.sit("talk")
	goes("server")
	third.leave()
	<-third.left
	goes("file")
	h.ok("revert", "talk", "typed", "--wait", "--timeout", "12m")
	h.ready("talk")
	goes("file")
	fourth := h.sit("talk")
	goes("server")
	h.stop()
	<-fourth.left
	goes("file")
	h.start()
	h.ok("delete", "sandbox", "talk")
	h.ok("delete", "goldenimage", "halt")
	h.cleanedUp()
}
