//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/test/private"
)

// patience stops a test that hangs, and is longer than any command is told to wait. A
// guest that is emulated on a busy machine needs a minute to boot.
const patience = 15 * time.Minute

// host is a data folder and what the machine looked like before the test.
type host struct {
	t          *testing.T
	hypervisor hypervisor
	bin        string
	dir        string
	before     []string
	daemon     *daemon
}

// hypervisor is what a test's sandboxes run on.
type hypervisor struct {
	name  string // as --hypervisor has it
	flags []string
	world func(*testing.T) []string // what a sandbox may leave on it
}

// daemon is a running `sandboxd serve`.
type daemon struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
	err    error         // by then
}

// newHost prepares a host with libvirt and starts a daemon on it.
func newHost(t *testing.T) *host {
	t.Helper()
	requireLibvirt(t)
	h := prepare(t, hypervisor{name: "kvm", world: world})
	copyFile(t, tinyImage(t), h.path("images/tiny.qcow2"))
	h.start()
	return h
}

// prepare makes a host without a daemon.
func prepare(t *testing.T, on hypervisor) *host {
	t.Helper()
	// Not t.TempDir: QEMU's user must be able to pass through.
	dir, err := os.MkdirTemp("", "sandboxd-e2e-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	h := &host{t: t, hypervisor: on, bin: program(t), dir: dir, before: on.world(t)}
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("daemon log:\n%s", h.log())
		}
		must(t, os.RemoveAll(dir))
	})
	must(t, os.Mkdir(h.path("images"), 0o755))
	must(t, os.Mkdir(h.path("share"), 0o777))
	must(t, os.Chmod(h.path("share"), 0o777))
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// start runs a daemon until it answers.
func (h *host) start() {
	h.t.Helper()
	log, err := os.OpenFile(h.path("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(h.t, err)
	defer func() { _ = log.Close() }()
	cmd := exec.Command(h.bin, append([]string{
		"serve", "--hypervisor", h.hypervisor.name, "--data-dir", h.path("data"), "--socket", h.path("s.sock"),
		"--base-image-dir", h.path("images"), "--allowed-host-paths", h.path("share"),
		// Tests run on hosts with few CPUs and little room, and write little of their disks.
		"--capacity-overcommit-cpus", "16", "--capacity-overcommit-disk", "0",
		"--gc-interval", "2s", "--gc-grace", "4s", "--log-level", "debug",
	}, h.hypervisor.flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(h.t, cmd.Start())
	d := &daemon{cmd: cmd, exited: make(chan struct{})}
	go func() {
		d.err = cmd.Wait()
		close(d.exited)
	}()
	h.daemon = d
	h.eventually("daemon answers", func() error {
		select {
		case <-d.exited:
			h.t.Fatalf("daemon ended: %v\n%s", d.err, h.log())
		default:
		}
		_, err := h.try("get", "namespaces")
		return err
	})
}

// kill ends the daemon at once, wherever it is.
func (h *host) kill() {
	if h.daemon == nil {
		return
	}
	_ = h.daemon.cmd.Process.Kill() // it may have ended
	<-h.daemon.exited
	h.t.Logf("the daemon was killed: %v", h.daemon.err)
	h.daemon = nil
}

// stop ends the daemon in good order.
func (h *host) stop() {
	h.t.Helper()
	must(h.t, h.daemon.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-h.daemon.exited:
		must(h.t, h.daemon.err)
	case <-time.After(patience):
		h.t.Fatal("the daemon does not stop")
	}
	h.daemon = nil
}

func (h *host) log() string {
	b, err := os.ReadFile(h.path("daemon.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// result of a command line.
type result struct {
	out, err string
	code     int
}

// run runs the command line and returns how it ended.
func (h *host) run(stdin string, args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.bin, args...)
	cmd.Env = append(os.Environ(), "SANDBOXD_SOCKET="+h.path("s.sock"))
	cmd.Dir = h.dir
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("sandboxd %v: %v", args, err)
	}
	return result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
}

// try runs the command line and turns a failure into an error.
func (h *host) try(args ...string) (string, error) {
	r := h.run("", args...)
	if r.code != 0 {
		return r.out, fmt.Errorf("sandboxd %s: exit %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out, nil
}

// ok runs the command line, which must succeed.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	must(h.t, err)
	return out
}

// apply applies a manifest.
func (h *host) apply(manifest string, args ...string) {
	h.t.Helper()
	r := h.run(manifest, append([]string{"apply", "-f", "-"}, args...)...)
	if r.code != 0 {
		h.t.Fatalf("apply: exit %d: %s", r.code, r.err)
	}
}

// field reads a field of a sandbox.
func (h *host) field(sandbox, path string) string {
	h.t.Helper()
	return h.ok("get", "sandbox", sandbox, "-o", "jsonpath={"+path+"}")
}

func (h *host) eventually(what string, f func() error) {
	h.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("never %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// noSleep waits until no command sleeps in a guest: a killed process may take a moment
// to be gone.
func (h *host) noSleep(sandbox string) {
	h.t.Helper()
	h.eventually("without the command that took too long", func() error {
		if out := h.ok("exec", sandbox, "--", "sh", "-c", "pidof sleep || echo none"); out != "none\n" {
			return fmt.Errorf("it still runs: %s", out)
		}
		return nil
	})
}

// cleanedUp waits until the machine looks as before the test, and there is no file
// of a machine or an image.
func (h *host) cleanedUp() {
	h.t.Helper()
	h.eventually("cleaned up", func() error {
		if now := h.hypervisor.world(h.t); !slices.Equal(now, h.before) {
			return fmt.Errorf("there is %q, before there was %q", now, h.before)
		}
		var files []string
		err := filepath.WalkDir(h.path("data/"+h.hypervisor.name), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() && e.Name() != "instance" {
				files = append(files, path)
			}
			return err
		})
		if err != nil || len(files) > 0 {
			return fmt.Errorf("files are left: %v %v", files, err)
		}
		return nil
	})
}

// world lists what a sandbox may leave on a machine with libvirt: domains,
// networks, bridges, firewall tables and QEMU processes.
func world(t *testing.T) []string {
	t.Helper()
	var all []string
	for what, command := range map[string]string{
		"domain":  "virsh list --all --name",
		"network": "virsh net-list --all --name",
		"link":    "ip -br link | cut -d' ' -f1 | grep -v '^lo$' || true",
		"table":   "nft list tables | grep sandboxd || true", // libvirt keeps tables of its own
	} {
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, what+" "+line)
			}
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/comm")
	must(t, err)
	for _, p := range processes {
		if comm, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(comm), "qemu-system") {
			all = append(all, "process "+strconv.Quote(string(comm)))
		}
	}
	slices.Sort(all)
	return all
}

func requireLibvirt(t *testing.T) {
	t.Helper()
	private.Require(t, "LIBVIRT", "there is no private libvirt: run the test by hack/private-libvirt -- go test ./test/e2e")
}

func program(t *testing.T) string {
	t.Helper()
	path := os.Getenv("SANDBOXD_BIN")
	if path == "" {
		path = "../../bin/sandboxd"
	}
	path, err := filepath.Abs(path)
	must(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("there is no program to test: run make build: %v", err)
	}
	return path
}

func tinyImage(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("SANDBOXD_TINY_IMAGE"); path != "" {
		return path
	}
	cache, err := os.UserCacheDir()
	must(t, err)
	return filepath.Join(cache, "sandboxd", "tiny.qcow2")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
