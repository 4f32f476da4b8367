package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sandboxd.dev/sandboxd/test/capture"
)

func TestMain(m *testing.M) {
	syscall.Umask(0o022) // or what guests write, and what others may run, would be as whoever runs the tests has it
	// The race detector lets each process sleep for a second before it ends, and scripts run hundreds of them.
	if os.Getenv("GORACE") == "" {
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	testscript.Main(m, map[string]func(){"sandboxd": main})
}

// TestScripts runs testdata/script/*.txtar. Each script has a folder and a
// simulated daemon of its own, which it starts with `daemon start`.
func TestScripts(t *testing.T) {
	params := scriptParams()
	params.Dir, params.UpdateScripts = "testdata/script", os.Getenv("UPDATE_SCRIPTS") != ""
	testscript.Run(t, params)
}

// scriptParams are what all runs of scripts have in common.
func scriptParams() testscript.Params {
	return testscript.Params{
		Setup:               setup,
		RequireExplicitExec: true,
		ContinueOnError:     true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":    daemonCmd,
			"refused":   refusedCmd,
			"qcow2":     qcow2Cmd,
			"bytes":     bytesCmd,
			"seal":      sealCmd,
			"http":      httpCmd,
			"metrics":   metricsCmd,
			"kube":      kubeCmd,
			"web":       webCmd,
			"artifact":  artifactCmd,
			"canary":    canaryCmd,
			"reachable": reachableCmd,
			"ova":       ovaCmd,
			"hashtree":  hashtreeCmd,
		},
	}
}

// setup makes what every script begins with: an image to import, and folders.
func setup(env *testscript.Env) error {
	examples, err := filepath.Abs("../../examples/manifests")
	if err != nil {
		return err
	}
	env.Vars = append(env.Vars,
		"EXAMPLES="+examples,
		"SANDBOXD_SOCKET="+filepath.Join(env.WorkDir, "s.sock"),
		"SANDBOXD_CONFIG=/dev/null",
		"HOME="+env.WorkDir,
		"NO_PROXY=*",
		"GORACE="+os.Getenv("GORACE"),
	)
	env.Values[daemonKey{}] = &daemonProcess{}
	images := filepath.Join(env.WorkDir, "images")
	shared := filepath.Join(env.WorkDir, "shared")
	for _, dir := range []string{images, shared} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	env.Defer(func() {
		d := env.Values[daemonKey{}].(*daemonProcess)
		if err := d.end(syscall.SIGTERM); err != nil {
			env.T().Log("daemon log:\n" + d.log.String())
			env.T().Fatal(err)
		}
	})
	return os.WriteFile(filepath.Join(images, "tiny.qcow2"), qcow2(1<<30, ""), 0o644)
}

// qcow2 makes the header of an image, which is what the simulation looks at.
func qcow2(size uint64, backing string) []byte {
	image := make([]byte, 64<<10)
	copy(image, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(image[4:], 3)
	if backing != "" {
		be.PutUint64(image[8:], 512)
		be.PutUint32(image[16:], uint32(len(backing)))
		copy(image[512:], backing)
	}
	be.PutUint32(image[20:], 16)
	be.PutUint64(image[24:], size)
	be.PutUint32(image[100:], 104)
	return image
}

type daemonKey struct{}

// daemonProcess is the daemon of one script.
type daemonProcess struct {
	cmd  *exec.Cmd
	log  capture.Buffer
	done chan error
}

// patience is how long things may take on a busy machine.
const patience = 2 * time.Minute

// daemonCmd starts, stops or kills the daemon:
//
//	daemon start [FLAG…]    and waits until it answers
//	daemon stop             by SIGTERM; it must exit with 0
//	daemon kill             by SIGKILL
func daemonCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: daemon start|stop|kill")
	}
	d := ts.Value(daemonKey{}).(*daemonProcess)
	switch args[0] {
	case "start":
		d.start(ts, args[1:])
	case "stop":
		ts.Check(d.end(syscall.SIGTERM))
	case "kill":
		ts.Check(d.end(syscall.SIGKILL))
	default:
		ts.Fatalf("daemon: unknown action %q", args[0])
	}
}

func (d *daemonProcess) start(ts *testscript.TestScript, flags []string) {
	if d.cmd != nil {
		ts.Fatalf("the daemon runs already")
	}
	work := ts.Getenv("WORK")
	socket := ts.Getenv("SANDBOXD_SOCKET")
	args := append([]string{
		"serve", "--simulate", "--data-dir", filepath.Join(work, "data"), "--socket", socket,
		"--base-image-dir", filepath.Join(work, "images"), "--allowed-host-paths", filepath.Join(work, "shared"),
		"--log-level", "debug",
	}, flags...)
	program, err := exec.LookPath("sandboxd")
	ts.Check(err)
	d.cmd = exec.Command(program, args...)
	d.cmd.Env = []string{"HOME=" + work, "PATH=" + os.Getenv("PATH"), "SANDBOXD_CONFIG=/dev/null", "GORACE=" + os.Getenv("GORACE")}
	if kubeconfig := ts.Getenv(kubeconfigVar); kubeconfig != "" {
		d.cmd.Env = append(d.cmd.Env, kubeconfigVar+"="+kubeconfig)
	}
	d.cmd.Stderr, d.cmd.Stdout, d.cmd.Dir = &d.log, &d.log, work
	cmd, done := d.cmd, make(chan error, 1)
	d.done = done
	ts.Check(cmd.Start())
	go func() { done <- cmd.Wait() }()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if ts.Exec("sandboxd", "version") == nil {
			return
		}
		select {
		case err := <-d.done:
			d.cmd = nil
			ts.Fatalf("the daemon ended: %v\n%s", err, d.log.String())
		default:
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the daemon does not answer:\n%s", d.log.String())
		}
	}
}

// end ends the daemon and judges how it ended.
func (d *daemonProcess) end(signal syscall.Signal) error {
	if d.cmd == nil {
		return nil
	}
	cmd := d.cmd
	d.cmd = nil
	if err := cmd.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case err := <-d.done:
		if signal == syscall.SIGKILL {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the daemon ended with %w", err)
		}
	case <-time.After(patience):
		_ = cmd.Process.Signal(syscall.SIGABRT)
		return fmt.Errorf("the daemon does not stop: %w", <-d.done)
	}
	if bad := regexp.MustCompile(`(?m)^(panic|fatal error|WARNING: DATA RACE).*`).FindString(d.log.String()); bad != "" {
		return fmt.Errorf("the daemon logged %q", bad)
	}
	return nil
}

// refusedCmd runs a command that must be refused:
//
//	refused REGEXP COMMAND [ARGUMENT…]
//
// with an exit code other than 0, nothing on standard output, one sentence on
// standard error that matches, and nothing changed.
func refusedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: refused REGEXP COMMAND [ARGUMENT…]")
	}
	before := world(ts)
	err := ts.Exec(args[1], args[2:]...)
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	switch {
	case err == nil:
		ts.Fatalf("it was not refused: %s", stdout)
	case stdout != "":
		ts.Fatalf("it wrote to standard output: %s", stdout)
	case !strings.HasPrefix(stderr, "error: ") || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n"):
		ts.Fatalf("standard error is not one sentence: %q", stderr)
	case len(stderr) > 1100:
		ts.Fatalf("the sentence has %d bytes", len(stderr))
	case strings.ContainsAny(stderr, "\t\x1b\x00") || strings.Contains(stderr, "&{") || strings.Contains(stderr, "map["):
		ts.Fatalf("the sentence is not for people: %q", stderr)
	case !regexp.MustCompile(args[0]).MatchString(stderr):
		ts.Fatalf("the sentence does not match %q: %q", args[0], stderr)
	}
	if after := world(ts); after != before {
		ts.Fatalf("something was changed:\n%s\nwas\n%s", after, before)
	}
}

// world is everything that the daemon keeps about what people want, or empty
// when none runs.
func world(ts *testscript.TestScript) string {
	if ts.Value(daemonKey{}).(*daemonProcess).cmd == nil {
		return ""
	}
	kinds := "sandboxes,goldenimages,namespaces,secrets"
	if ts.Getenv(kubeconfigVar) != "" {
		kinds = "sandboxes,goldenimages,namespaces" // a cluster's Secrets are not the socket's
	}
	get := exec.Command("sandboxd", "get", kinds, "-A", "--ignore-not-found",
		"-o", `jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name} {.metadata.uid} {.metadata.generation} {.metadata.labels} {.spec}{"\n"}{end}`)
	get.Env = []string{"SANDBOXD_SOCKET=" + ts.Getenv("SANDBOXD_SOCKET"), "GORACE=" + os.Getenv("GORACE")}
	state, err := get.Output()
	ts.Check(err)
	return string(state)
}

// qcow2Cmd makes an image file: qcow2 FILE [BACKING].
func qcow2Cmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: qcow2 FILE [BACKING]")
	}
	backing := ""
	if len(args) == 2 {
		backing = args[1]
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), qcow2(1<<30, backing), 0o644))
}

// bytesCmd makes a file of so many copies of a text: bytes FILE COUNT TEXT.
func bytesCmd(ts *testscript.TestScript, neg bool, args []string) {
	var count int
	if neg || len(args) != 3 {
		ts.Fatalf("usage: bytes FILE COUNT TEXT")
	}
	if _, err := fmt.Sscan(args[1], &count); err != nil {
		ts.Fatalf("bytes: %v", err)
	}
	text := strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\xff`, "\xff").Replace(args[2])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat(text, count)), 0o644))
}

// sealCmd takes all permissions from a file: seal FILE.
func sealCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: seal FILE")
	}
	ts.Check(os.Chmod(ts.MkAbs(args[0]), 0))
}

// httpCmd asks the daemon by its socket, and prints the answer's code and body:
//
//	http GET /metrics
func httpCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: http METHOD PATH")
	}
	_, err := fmt.Fprint(ts.Stdout(), httpGet(ts, args[0], args[1]))
	ts.Check(err)
}

// metricsCmd waits until the daemon's figures match: it counts what others tell it, soon
// after they have told the rest of the world.
//
//	metrics REGEXP…
func metricsCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: metrics REGEXP…")
	}
	for _, pattern := range args {
		match := regexp.MustCompile("(?m)" + pattern)
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			figures := httpGet(ts, http.MethodGet, "/metrics")
			if match.MatchString(figures) {
				break
			}
			if time.Now().After(deadline) {
				ts.Fatalf("no figures match %q:\n%s", pattern, figures)
			}
		}
	}
}

// httpGet asks the daemon by its socket and returns the answer's code and body.
func httpGet(ts *testscript.TestScript, method, path string) string {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", ts.Getenv("SANDBOXD_SOCKET"))
	}}
	request, err := http.NewRequest(method, "http://sandboxd"+path, nil)
	ts.Check(err)
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Do(request)
	ts.Check(err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	return fmt.Sprintf("%d\n%s", response.StatusCode, body)
}
