package kubectl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/test/capture"
	"sandboxd.dev/sandboxd/test/daemon"
)

// kubectl is one release of it, in a namespace that one check has for itself.
type kubectl struct {
	t      *testing.T
	d      *daemon.Daemon
	bin    string
	minor  int
	ns     string
	config string // the kubeconfig
	dir    string
	home   string
}

// result is how a run of kubectl ended.
type result struct {
	t        *testing.T
	args     []string
	out, err string
	code     int
}

// command prepares a run. KUBECTL_ variables of whoever runs the tests do not matter.
func (k *kubectl) command(ctx context.Context, stdin string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.bin, args...)
	cmd.Dir = k.dir
	cmd.Env = []string{
		"HOME=" + k.home, "KUBECONFIG=" + k.config, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + k.dir,
		"EDITOR=" + filepath.Join(k.dir, "editor"), "NO_PROXY=*",
	}
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

// run runs kubectl and returns how it ended.
func (k *kubectl) run(stdin string, args ...string) *result {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), daemon.Patience)
	defer cancel()
	cmd := k.command(ctx, stdin, args)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		k.t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	return &result{t: k.t, args: args, out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
}

// shell runs another program where kubectl is run, such as one that sets a variable for
// it.
func (k *kubectl) shell(stdin string, program string, args ...string) *result {
	k.t.Helper()
	other := *k
	other.bin = program
	return other.run(stdin, args...)
}

// ok runs kubectl, which must succeed.
func (k *kubectl) ok(args ...string) *result {
	k.t.Helper()
	return k.fails(0, args...)
}

// fails runs kubectl, which must end with that code.
func (k *kubectl) fails(code int, args ...string) *result {
	k.t.Helper()
	return k.run("", args...).ended(code)
}

// pipe runs kubectl with something to read; it must succeed.
func (k *kubectl) pipe(stdin string, args ...string) *result {
	k.t.Helper()
	return k.run(stdin, args...).ended(0)
}

// apply makes objects as a manifest says.
func (k *kubectl) apply(manifest string) {
	k.t.Helper()
	k.pipe(manifest, "apply", "-f", "-")
}

// file writes a file below the check's folder and returns its path.
func (k *kubectl) file(name, content string) string {
	k.t.Helper()
	path := filepath.Join(k.dir, name)
	must(k.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(k.t, os.WriteFile(path, []byte(content), 0o755)) // #nosec G306 -- some are programs
	return path
}

// editor is the program that `kubectl edit` runs: it gets the file as "$1".
func (k *kubectl) editor(script string) {
	k.t.Helper()
	k.file("editor", "#!/bin/sh\nset -eu\n"+script+"\n")
}

// get reads a field of an object.
func (k *kubectl) get(object, path string) string {
	k.t.Helper()
	return k.ok("get", object, "-o", "jsonpath={"+path+"}").out
}

// gone tells whether an object does not exist.
func (k *kubectl) gone(object string) {
	k.t.Helper()
	k.fails(1, "get", object).says(`\(NotFound\)`)
}

// eventually repeats f until it returns true.
func (k *kubectl) eventually(what string, f func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(daemon.Patience); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("never: %s", what)
		}
	}
}

// ready waits until a sandbox is.
func (k *kubectl) ready(name string) {
	k.t.Helper()
	k.ok("wait", "sandbox/"+name, "--for=condition=Ready", "--timeout=2m")
}

// settled waits until the daemon has done what was asked of a sandbox that is to be off:
// it has nothing more to say of it then, and no write of its comes between two of ours.
func (k *kubectl) settled(name string) {
	k.t.Helper()
	k.eventually(name+" has stopped, as its newest version says", func() bool {
		got := k.ok("get", "sbx", name, "-o", "jsonpath={.status.phase} {.status.observedGeneration} {.metadata.generation}").out
		said := strings.Fields(got)
		return len(said) == 3 && said[0] == "Stopped" && said[1] == said[2]
	})
}

// timesOut runs kubectl, whose patience of a second must come to its end as the pattern
// says. Where one request takes as long as that, kubectl has other words, and is run again.
func (k *kubectl) timesOut(pattern string, args ...string) {
	k.t.Helper()
	var r *result
	k.eventually("kubectl gets to waiting within a second", func() bool {
		r = k.fails(1, append(args, "--timeout=1s")...)
		return !strings.Contains(r.err, "deadline exceeded")
	})
	r.says(pattern)
}

func (r *result) ended(code int) *result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("%s: exit %d, want %d", r, r.code, code)
	}
	return r
}

func (r *result) String() string {
	return fmt.Sprintf("kubectl %s\n--- stdout\n%s--- stderr\n%s---\n", strings.Join(r.args, " "), r.out, r.err)
}

// has wants standard output to match, line by line.
func (r *result) has(patterns ...string) *result {
	r.t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(r.out) {
			r.t.Errorf("%s: standard output does not match %q", r, p)
		}
	}
	return r
}

// lacks wants standard output not to match.
func (r *result) lacks(patterns ...string) *result {
	r.t.Helper()
	for _, p := range patterns {
		if regexp.MustCompile("(?m)" + p).MatchString(r.out) {
			r.t.Errorf("%s: standard output matches %q", r, p)
		}
	}
	return r
}

// is wants standard output to be that, but for space at its ends.
func (r *result) is(want string) *result {
	r.t.Helper()
	if got := strings.TrimSpace(r.out); got != strings.TrimSpace(want) {
		r.t.Errorf("%s: standard output is not %q", r, want)
	}
	return r
}

// says wants standard error to match, line by line.
func (r *result) says(patterns ...string) *result {
	r.t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(r.err) {
			r.t.Errorf("%s: standard error does not match %q", r, p)
		}
	}
	return r
}

// quiet wants nothing on standard error.
func (r *result) quiet() *result {
	r.t.Helper()
	if r.err != "" {
		r.t.Errorf("%s: standard error is not empty", r)
	}
	return r
}

// lines of standard output.
func (r *result) lines() []string {
	return strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
}

// process is a kubectl that goes on, such as a watch.
type process struct {
	k         *kubectl
	args      []string
	cmd       *exec.Cmd
	out, errs capture.Buffer
	done      chan error
}

// start runs kubectl beside the check, which ends it at the latest.
func (k *kubectl) start(args ...string) *process {
	k.t.Helper()
	return k.startTyping("", args...)
}

// startTyping is start with something to read.
func (k *kubectl) startTyping(stdin string, args ...string) *process {
	k.t.Helper()
	p := &process{k: k, args: args, cmd: k.command(context.Background(), stdin, args), done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	must(k.t, p.cmd.Start())
	go func() { p.done <- p.cmd.Wait() }()
	k.t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// shows waits until standard output matches.
func (p *process) shows(pattern string) {
	p.k.t.Helper()
	match := regexp.MustCompile("(?m)" + pattern)
	for deadline := time.Now().Add(daemon.Patience); !match.MatchString(p.out.String()); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-p.done:
			p.done <- err
			if match.MatchString(p.out.String()) {
				return
			}
			p.k.t.Fatalf("kubectl %s ended (%v) and never showed %q:\n%s%s", strings.Join(p.args, " "), err, pattern, &p.out, &p.errs)
		default:
		}
		if time.Now().After(deadline) {
			p.k.t.Fatalf("kubectl %s never showed %q:\n%s%s", strings.Join(p.args, " "), pattern, &p.out, &p.errs)
		}
	}
}

// asks waits until it has asked the server for something, as -v=6 has it say.
func (p *process) asks(path string) {
	p.k.t.Helper()
	p.errs.Shows(p.k.t, daemon.Patience, path)
}

// wait waits until it ends by itself.
func (p *process) wait() *result {
	p.k.t.Helper()
	select {
	case err := <-p.done:
		p.done <- err // for who asks again; the exit code tells how it ended
	case <-time.After(daemon.Patience):
		p.k.t.Fatalf("kubectl %s does not end:\n%s%s", strings.Join(p.args, " "), &p.out, &p.errs)
	}
	return &result{t: p.k.t, args: p.args, out: p.out.String(), err: p.errs.String(), code: p.cmd.ProcessState.ExitCode()}
}

// interrupt ends it as a person does.
func (p *process) interrupt() *result {
	p.k.t.Helper()
	must(p.k.t, p.cmd.Process.Signal(syscall.SIGINT))
	return p.wait()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
