// Package daemon runs the real program, with simulated hypervisors, for tests of
// clients that nobody here wrote.
//
//	kubectl, client-go ── TLS, as `sandboxd kubeconfig` wrote it ──▶ sandboxd serve --simulate --listen 127.0.0.1:PORT
//
//	Start ─▶ serving ─┬─ Stop ─┬─▶ down ── Resume ─▶ serving, at the same address and on
//	                  └─ Kill ─┘                     the same store
//
// The test's end stops the daemon in good order and looks at what it logged.
package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"sandboxd.dev/sandboxd/test/capture"
)

// Patience is how long anything may take on a busy machine.
const Patience = 2 * time.Minute

// Image is an image that simulated hypervisors take, to be named in manifests.
const Image = "tiny.qcow2"

// Daemon is a program that serves, and its data folder.
type Daemon struct {
	t       testing.TB
	dir     string
	bin     string
	flags   []string
	address string
	log     capture.Buffer
	admin   *clientcmdapi.Config // what sandboxd kubeconfig gave the tests

	mu     sync.Mutex // guards what follows: programs restart it while others look
	cmd    *exec.Cmd
	exited chan error
}

// Start runs a daemon until it answers. Without a program to run (SANDBOXD_BIN) the
// test is skipped, or fails where SANDBOXD_REQUIRE_CLIENTS=1.
func Start(t testing.TB, flags ...string) *Daemon {
	t.Helper()
	bin := program(t)
	dir, err := os.MkdirTemp("", "sandboxd-clients-") // t.TempDir's are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{t: t, dir: dir, bin: bin, flags: flags}
	t.Cleanup(d.finish)
	if err := os.Mkdir(d.Path("images"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path("images/"+Image), qcow2(1<<30), 0o644); err != nil {
		t.Fatal(err)
	}
	d.address = "127.0.0.1:0" // whichever is free when it listens: one that was free before may be taken by then
	d.Resume()
	d.admin = d.credentials(t, "--user", "admin", "--role", "admin")
	d.address = serverOf(t, d.admin)
	return d
}

// Program is the program under test; without one the test is skipped, or fails.
func program(t testing.TB) string {
	t.Helper()
	reason := "there is no program to test: set SANDBOXD_BIN, or run make test-kubectl"
	bin := os.Getenv("SANDBOXD_BIN")
	switch {
	case bin == "" && os.Getenv("SANDBOXD_REQUIRE_CLIENTS") == "1":
		t.Fatal(reason)
	case bin == "":
		t.Skip(reason)
	}
	bin, err := filepath.Abs(bin)
	if err == nil {
		_, err = os.Stat(bin)
	}
	if err != nil {
		t.Fatalf("%s: %v", reason, err)
	}
	return bin
}

// Path is a path in the daemon's folder, which goes with the test.
func (d *Daemon) Path(name string) string { return filepath.Join(d.dir, name) }

// Resume runs the daemon again, on what it left, until it answers.
func (d *Daemon) Resume() {
	d.t.Helper()
	cmd := exec.Command(d.bin, append([]string{
		"serve", "--simulate", "--data-dir", d.Path("data"), "--socket", d.Path("s.sock"),
		"--listen", d.address, "--base-image-dir", d.Path("images"), "--log-level", "debug",
		// Simulated machines cost nothing.
		"--capacity-overcommit-cpus", "0", "--capacity-overcommit-memory", "0", "--capacity-overcommit-disk", "0",
	}, d.flags...)...)
	cmd.Dir = d.dir
	cmd.Env = []string{"HOME=" + d.dir, "PATH=" + os.Getenv("PATH"), "SANDBOXD_CONFIG=/dev/null"}
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	d.mu.Lock()
	d.cmd, d.exited = cmd, exited
	d.mu.Unlock()
	for deadline := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) {
		if d.ready() == nil {
			return
		}
		select {
		case err := <-exited:
			d.t.Fatalf("the daemon ended: %v\n%s", err, d.Log())
		default:
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the daemon does not answer:\n%s", d.Log())
		}
	}
}

func (d *Daemon) ready() error {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.Path("s.sock"))
		},
		DisableKeepAlives: true,
	}}
	response, err := client.Get("http://sandboxd/readyz")
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s", response.Status)
	}
	return nil
}

// credentials are those that sandboxd kubeconfig gives with such flags.
func (d *Daemon) credentials(t testing.TB, flags ...string) *clientcmdapi.Config {
	t.Helper()
	cmd := exec.Command(d.bin, append([]string{"kubeconfig"}, flags...)...)
	cmd.Env = []string{"HOME=" + d.dir, "SANDBOXD_CONFIG=/dev/null", "SANDBOXD_SOCKET=" + d.Path("s.sock")}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sandboxd kubeconfig %v: %v\n%s", flags, err, &errs)
	}
	config, err := clientcmd.Load(out)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// Kill ends the daemon at once, wherever it is.
func (d *Daemon) Kill() {
	d.t.Helper()
	if err := d.end(syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
}

// Stop ends the daemon in good order.
func (d *Daemon) Stop() {
	d.t.Helper()
	if err := d.end(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
}

func (d *Daemon) end(signal syscall.Signal) error {
	d.mu.Lock()
	cmd, exited := d.cmd, d.exited
	d.cmd = nil
	d.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("the daemon had ended: %w", err)
	}
	select {
	case err := <-exited:
		if err != nil && signal != syscall.SIGKILL {
			return fmt.Errorf("the daemon ended with %w", err)
		}
		return nil
	case <-time.After(Patience):
		_ = cmd.Process.Signal(syscall.SIGABRT)
		return fmt.Errorf("the daemon does not stop: %w", <-exited)
	}
}

// bad is what no daemon may log.
var bad = regexp.MustCompile(`(?m)^(panic|fatal error|WARNING: DATA RACE).*|.*http: panic serving.*|.*recovered from a panic.*`)

func (d *Daemon) finish() {
	if err := d.end(syscall.SIGTERM); err != nil {
		d.t.Error(err)
	}
	if said := bad.FindString(d.Log()); said != "" {
		d.t.Errorf("the daemon logged %q", said)
	}
	if d.t.Failed() {
		log := d.Log()
		d.t.Logf("the end of the daemon's log:\n%s", log[max(0, len(log)-4000):])
	}
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Error(err)
	}
}

// Log is what the daemon has written so far, over all its lives.
func (d *Daemon) Log() string { return d.log.String() }

// REST is a client's configuration for the daemon; requests are not held back.
func (d *Daemon) REST() *rest.Config {
	d.t.Helper()
	config, err := clientcmd.NewDefaultClientConfig(*d.admin, nil).ClientConfig()
	if err != nil {
		d.t.Fatal(err)
	}
	config.QPS = -1
	return config
}

// Kubeconfig writes an administrator's kubeconfig whose current context has that
// namespace, and returns its path.
func (d *Daemon) Kubeconfig(t testing.TB, namespace string) string {
	t.Helper()
	return d.write(t, d.admin, namespace, "kubeconfig-"+namespace)
}

// KubeconfigOf writes the kubeconfig of somebody else whose current context has that
// namespace, by `sandboxd kubeconfig` with such flags, and returns its path.
func (d *Daemon) KubeconfigOf(t testing.TB, user, namespace string, flags ...string) string {
	t.Helper()
	config := d.credentials(t, append([]string{"--user", user}, flags...)...)
	return d.write(t, config, namespace, "kubeconfig-"+namespace+"-"+user)
}

func (d *Daemon) write(t testing.TB, config *clientcmdapi.Config, namespace, name string) string {
	t.Helper()
	config = config.DeepCopy()
	config.Contexts[config.CurrentContext].Namespace = namespace
	path := d.Path(name)
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// qcow2 makes the header of an image, which is what the simulation looks at.
func qcow2(size uint64) []byte {
	image := make([]byte, 64<<10)
	copy(image, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(image[4:], 3)
	be.PutUint32(image[20:], 16)
	be.PutUint64(image[24:], size)
	be.PutUint32(image[100:], 104)
	return image
}

// serverOf is the address to which a kubeconfig leads.
func serverOf(t testing.TB, config *clientcmdapi.Config) string {
	t.Helper()
	server, err := url.Parse(config.Clusters[config.Contexts[config.CurrentContext].Cluster].Server)
	if err != nil {
		t.Fatal(err)
	}
	return server.Host
}
