//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const image = `apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: tiny}
spec:
  source: {disk: {path: tiny.qcow2}}
  machine: {memory: 96Mi}
`

// host is the daemon under test and what it stands on.
type host struct {
	o     options
	dir   string
	count counts

	mu     sync.Mutex // guards daemon: chaos ends and starts it
	daemon *exec.Cmd
	exited chan struct{} // closed when it has ended; failed is how
	failed error
}

func newHost(o options, dir string) (*host, error) {
	h := &host{o: o, dir: dir}
	for _, dir := range []string{"images", "tmp"} {
		if err := os.Mkdir(h.path(dir), 0o755); err != nil {
			return nil, err
		}
	}
	b, err := os.ReadFile(o.image)
	if err != nil {
		return nil, err
	}
	return h, os.WriteFile(h.path("images/tiny.qcow2"), b, 0o644)
}

// start runs a daemon until it answers.
func (h *host) start(ctx context.Context) error {
	log, err := os.OpenFile(h.path("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(h.o.sandboxd, "serve", "--hypervisor", "kvm",
		"--data-dir", h.path("data"), "--socket", h.path("s.sock"), "--base-image-dir", h.path("images"),
		"--gc-interval", "2s", "--gc-grace", "4s", "--resync", "10s", "--log-level", "debug")
	cmd.Env = h.environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	h.mu.Lock()
	h.daemon, h.exited = cmd, exited
	h.mu.Unlock()
	go func() {
		h.failed = cmd.Wait()
		close(exited)
	}()
	return h.await(ctx, "the daemon answers", func() error {
		_, err := h.run(ctx, "", "get", "namespaces")
		return err
	})
}

func (h *host) environment() []string {
	return append(os.Environ(), "SANDBOXD_SOCKET="+h.path("s.sock"), "TMPDIR="+h.path("tmp"))
}

// kill ends the daemon at once, wherever it is.
func (h *host) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.daemon == nil {
		return
	}
	_ = h.daemon.Process.Kill() // it may have ended
	<-h.exited
	h.daemon = nil
}

// stop ends the daemon in good order.
func (h *host) stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("the daemon had ended: %w", err)
	}
	select {
	case <-h.exited:
		h.daemon = nil
		return h.failed
	case <-time.After(h.o.patience):
		return errors.New("the daemon does not stop")
	}
}

func (h *host) logTail() []byte {
	b, err := os.ReadFile(h.path("daemon.log"))
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-8000):]
}

// failure is a command that did not succeed.
type failure struct {
	args []string
	code int
	says string
}

func (f *failure) Error() string {
	return fmt.Sprintf("sandboxd %s: exit %d: %s", strings.Join(f.args, " "), f.code, f.says)
}

// run runs the command line; the error is a *failure if it ran.
func (h *host) run(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, h.o.patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.o.sandboxd, args...)
	cmd.Env = h.environment()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out.String(), nil
	case errors.As(err, &exit):
		return out.String(), &failure{args: args, code: exit.ExitCode(), says: strings.TrimSpace(errs.String())}
	default:
		return out.String(), err
	}
}

func (h *host) apply(ctx context.Context, manifest string) error {
	_, err := h.run(ctx, manifest, "apply", "-f", "-")
	return err
}

// waitFor asks once whether an object is ready.
func (h *host) waitFor(object string) func() error {
	return func() error {
		_, err := h.run(context.Background(), "", "wait", "--for=condition=Ready", object, "--timeout", "5s")
		return err
	}
}

// await repeats f until it succeeds.
func (h *host) await(ctx context.Context, what string, f func() error) error {
	for deadline := time.Now().Add(h.o.patience); ; {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("never: %s: %w", what, err)
		}
		if !pause(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// pause returns false if the context ends before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// empty deletes everything.
func (h *host) empty(ctx context.Context) error {
	for _, kind := range []string{"sandboxsnapshot", "sandbox", "goldenimage"} {
		if err := h.await(ctx, "every "+kind+" is deleted", func() error {
			if _, err := h.run(ctx, "", "delete", kind, "--all", "--timeout", "1m"); err != nil {
				return err
			}
			out, err := h.run(ctx, "", "get", kind, "-A", "-o", "name")
			if err == nil && strings.TrimSpace(out) != "" {
				err = fmt.Errorf("there is %q", strings.TrimSpace(out))
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// counts tell how often what was done, how often in vain, and what was said to it last.
type counts struct {
	mu   sync.Mutex
	done map[string]tally
}

type tally struct {
	done, vain int
	says       string
}

func (c *counts) add(what string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = map[string]tally{}
	}
	n := c.done[what]
	if err == nil {
		n.done++
	} else {
		n.vain++
		n.says, _, _ = strings.Cut(err.Error(), "\n")
	}
	c.done[what] = n
}

func (c *counts) print() {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Printf("soak: %-22s %6s %8s  %s\n", "what was done", "times", "in vain", "the last of them")
	for _, what := range slices.Sorted(maps.Keys(c.done)) {
		n := c.done[what]
		fmt.Printf("soak: %-22s %6d %8d  %s\n", what, n.done, n.vain, n.says)
	}
}
