package kubeapiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"

	"sandboxd.dev/sandboxd/test/kubeapiserver/plane"
)

// patience is how long things may take on a busy machine.
const patience = 4 * time.Minute

// startCluster starts an API server of the test's own, with all that a daemon needs.
func startCluster(t *testing.T) (c *plane.Cluster, kubeconfig string) {
	t.Helper()
	return startClusterIn(t, filepath.Join(t.TempDir(), "kubernetes"))
}

func startClusterIn(t *testing.T, dir string) (c *plane.Cluster, kubeconfig string) {
	t.Helper()
	plane.Required(t)
	c, err := plane.Start(dir)
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop()) })
	kubeconfig, err = c.Install(t.Context())
	must(t, err)
	return c, kubeconfig
}

// admin may do everything in a cluster.
func admin(t *testing.T, c *plane.Cluster) dynamic.Interface {
	t.Helper()
	config, err := c.Config()
	must(t, err)
	client, err := dynamic.NewForConfig(config)
	must(t, err)
	return client
}

// host has a daemon with a simulated hypervisor.
type host struct {
	t    *testing.T
	name string
	dir  string
	// kubeconfig of the daemon; empty for one with the embedded API server.
	kubeconfig string
	flags      []string
	cmd        *exec.Cmd
	exited     chan error
}

// newHost prepares a host; start starts its daemon.
func newHost(t *testing.T, name, kubeconfig string, flags ...string) *host {
	t.Helper()
	if os.Getenv("SANDBOXD_BIN") == "" {
		t.Skip("$SANDBOXD_BIN does not name the program: run make test-kube-apiserver")
	}
	dir, err := os.MkdirTemp("", "sandboxd-"+name+"-") // short: sockets have short names
	must(t, err)
	h := &host{t: t, name: name, dir: dir, kubeconfig: kubeconfig, flags: flags}
	t.Cleanup(func() {
		h.end(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("log of the daemon of host %s:\n%s", name, h.log())
		}
		must(t, os.RemoveAll(dir))
	})
	must(t, os.MkdirAll(h.path("images"), 0o755))
	must(t, os.MkdirAll(h.path("shared"), 0o755))
	must(t, os.WriteFile(h.path("images/tiny.raw"), bytes.Repeat([]byte("sandboxd"), 8<<10), 0o644))
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// start starts the daemon, and waits until it answers.
func (h *host) start() {
	h.t.Helper()
	log, err := os.OpenFile(h.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(h.t, err)
	defer func() { _ = log.Close() }()
	args := []string{
		"serve", "--simulate", "--data-dir", h.path("data"), "--socket", h.path("s"), "--base-image-dir", h.path("images"),
		"--allowed-host-paths", h.path("shared"), "--gc-interval", "1s", "--gc-grace", "1s",
	}
	if h.kubeconfig != "" {
		args = append(args, "--kubeconfig", h.kubeconfig)
	}
	cmd := exec.Command(os.Getenv("SANDBOXD_BIN"), append(args, h.flags...)...)
	cmd.Env = append(os.Environ(), "SANDBOXD_CONFIG=/dev/null", "HOME="+h.dir)
	cmd.Stdout, cmd.Stderr = log, log
	endWithParent(cmd)
	must(h.t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	h.cmd, h.exited = cmd, exited
	h.eventually("daemon answers", func() error {
		_, err := h.ask("/healthz")
		return err
	})
}

// end ends the daemon, if it runs.
func (h *host) end(signal syscall.Signal) {
	h.t.Helper()
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(signal) // it may have ended
	select {
	case err := <-h.exited:
		h.t.Logf("the daemon of host %s ended: %v", h.name, err)
	case <-time.After(patience):
		_ = h.cmd.Process.Kill()
		h.t.Errorf("the daemon of host %s does not stop", h.name)
	}
	h.cmd = nil
}

func (h *host) log() string {
	b, err := os.ReadFile(h.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// ask asks the daemon's socket.
func (h *host) ask(path string) (string, error) { return h.send(http.MethodGet, path, "") }

// send sends the daemon's socket a request. The body of a PATCH is a merge patch.
func (h *host) send(method, path, sent string) (string, error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.path("s"))
		},
	}}
	request, err := http.NewRequest(method, "http://sandboxd"+path, strings.NewReader(sent))
	if err != nil {
		return "", err
	}
	if sent != "" {
		request.Header.Set("Content-Type", map[bool]string{true: "application/merge-patch+json", false: "application/json"}[method == http.MethodPatch])
	}
	resp, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode/100 != 2 {
		return body.String(), fmt.Errorf("%s: %s: %s", path, resp.Status, body.String())
	}
	return body.String(), nil
}

// try runs the command line; stdin is a manifest.
func (h *host) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv("SANDBOXD_BIN"), args...)
	cmd.Env = append(os.Environ(), "SANDBOXD_SOCKET="+h.path("s"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("sandboxd %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// run runs the command line, which must succeed.
func (h *host) run(args ...string) string {
	h.t.Helper()
	out, err := h.try("", args...)
	must(h.t, err)
	return strings.TrimSpace(out)
}

func (h *host) apply(manifest string, args ...string) {
	h.t.Helper()
	_, err := h.try(manifest, append([]string{"apply", "-f", "-"}, args...)...)
	must(h.t, err)
}

// want runs the command line until it prints a text.
func (h *host) want(text string, args ...string) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%v prints %q", args, text), func() error {
		out, err := h.try("", args...)
		if err == nil && !strings.Contains(out, text) {
			err = fmt.Errorf("it prints %q", out)
		}
		return err
	})
}

// logs waits until the daemon has logged a text.
func (h *host) logs(text string) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("logs %q", text), func() error {
		if !strings.Contains(h.log(), text) {
			return fmt.Errorf("it does not")
		}
		return nil
	})
}

func (h *host) eventually(what string, ok func() error) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("host %s: never: %s: %v", h.name, what, err)
		}
		select {
		case ended := <-h.exited:
			h.exited <- ended
			h.t.Fatalf("host %s: the daemon ended (%v) before: %s: %v", h.name, ended, what, err)
		default:
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tiny is an image and a sandbox of it.
const tiny = `
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: tiny}
spec:
  source: {disk: {path: tiny.raw, format: raw}}
---
`

// sandbox is a manifest.
func sandbox(name string, spec ...string) string {
	return fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s}\nspec:\n  image: tiny\n", name) +
		strings.Join(spec, "") + "---\n"
}
