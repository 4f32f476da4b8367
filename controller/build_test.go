package controller_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

func script(name, text string) v1.ProvisionStep { return v1.ProvisionStep{Name: name, Script: text} }

func file(name, path, content, mode string) v1.ProvisionStep {
	return v1.ProvisionStep{Name: name, File: &v1.ProvisionFile{Path: path, Content: content, Mode: mode}}
}

// builtImage is an image with provision steps.
func builtImage(name string, steps ...v1.ProvisionStep) *v1.GoldenImage {
	img := goldenImage(name)
	img.Spec.Provision = steps
	return img
}

// inGuest is what a command prints in a sandbox's guest.
func (d *daemon) inGuest(id types.UID, command ...string) string {
	d.t.Helper()
	var out strings.Builder
	_, err := d.provider().Exec(d.t.Context(), id, providers.ExecRequest{Command: command, Stdout: &out, Stderr: &out})
	must(d.t, err)
	return out.String()
}

func (d *daemon) updateImage(img *v1.GoldenImage, change func(*v1.GoldenImage)) {
	d.t.Helper()
	must(d.t, d.client.Get(d.t.Context(), client.ObjectKeyFromObject(img), img))
	before := img.DeepCopy()
	change(img)
	must(d.t, d.client.Patch(d.t.Context(), img, client.MergeFrom(before)))
}

// machines counts the machines that the host has.
func (d *daemon) machines() int {
	n := 0
	for _, r := range d.leftovers() {
		if r.Kind == providers.ResourceMachine {
			n++
		}
	}
	return n
}

func (d *daemon) buildLog(img *v1.GoldenImage) string {
	d.t.Helper()
	f, err := build.NewLogs(d.dir+"/builds").Open(d.t.Context(), img.UID, false)
	must(d.t, err)
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(f)
	must(d.t, err)
	return string(text)
}

func settled(img *v1.GoldenImage) bool {
	return ready(img) && img.Status.ObservedGeneration == img.Generation &&
		(img.Status.Build == nil || img.Status.Build.Phase == v1.BuildDone)
}

func TestProvisionedImage(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img := builtImage("golden",
		file("tool", "/usr/local/tool", "echo a tool", "0755"),
		script("prepare", "#!/bin/sh\necho built >/opt/built\necho preparing\nmkdir /etc/ssh\necho key >/etc/ssh/ssh_host_rsa_key\necho id >/etc/machine-id\n"),
		script("check", "cat /usr/local/tool >>/opt/built"),
	)
	sbx := newSandbox("web")
	d.create(img, sbx)
	until(d, sbx, "ready", ready)
	until(d, img, "settled", settled)
	if got, want := d.inGuest(sbx.UID, "cat", "/opt/built"), "built\necho a tool"; got != want {
		t.Errorf("the steps left %q, want %q", got, want)
	}
	if got := d.inGuest(sbx.UID, "sh", "-c", "cat /etc/machine-id; test -e /etc/ssh/ssh_host_rsa_key && echo shared"); got != "" {
		t.Errorf("clones share %q", got)
	}
	if log := d.buildLog(img); !strings.Contains(log, "step 2 of 3: prepare\npreparing\n") {
		t.Errorf("log: %q", log)
	}
	if got := condition(img, v1.ConditionProvisioned); got.Status != metav1.ConditionTrue || img.Status.Build.Phase != v1.BuildDone {
		t.Errorf("status: %s", show(img))
	}
	if n := d.machines(); n != 1 {
		t.Errorf("%d machines, want the sandbox's alone", n)
	}
	must(t, d.client.Delete(t.Context(), sbx))
	must(t, d.client.Delete(t.Context(), img))
	d.gone(sbx)
	d.gone(img)
	if left := d.leftovers(); len(left) != 0 {
		t.Errorf("left over: %+v", left)
	}
	if _, err := build.NewLogs(d.dir+"/builds").Open(d.t.Context(), img.UID, false); err == nil {
		t.Error("the log outlives its image")
	}
}

// thrice is an image whose steps leave a trace each, so that one that ran twice
// on a disk, or not at all, is seen.
func thrice(name string) *v1.GoldenImage {
	return builtImage(name,
		script("one", "echo one >>/opt/built"),
		file("two", "/opt/two", "2", ""),
		script("three", "echo three >>/opt/built; mkdir /etc/ssh; echo key >/etc/ssh/ssh_host_rsa_key"),
	)
}

// wholly checks that what was sealed went through every step once.
func (d *daemon) wholly(img *v1.GoldenImage) {
	d.t.Helper()
	sbx := newSandbox("of-" + img.Name)
	sbx.Spec.Image = img.Name
	d.create(sbx)
	until(d, sbx, "ready", ready)
	if got := d.inGuest(sbx.UID, "sh", "-c", "cat /opt/built /opt/two; test -e /etc/ssh/ssh_host_rsa_key && echo key"); got != "one\nthree\n2" {
		d.t.Errorf("what was sealed has %q of the steps", got)
	}
	if n := d.machines(); n != 1 {
		d.t.Errorf("%d machines, want the sandbox's alone: %+v", n, d.leftovers())
	}
	must(d.t, d.client.Delete(d.t.Context(), sbx))
	d.gone(sbx)
}

func (d *daemon) nothingLeft(img *v1.GoldenImage) {
	d.t.Helper()
	must(d.t, d.client.Delete(d.t.Context(), img))
	d.gone(img)
	if left := d.leftovers(); len(left) != 0 {
		d.t.Errorf("left over: %+v", left)
	}
}

// TestBuildDiesAnywhere kills the daemon before and after each call that a build
// makes, and lets another one go on.
func TestBuildDiesAnywhere(t *testing.T) {
	count := fault.NewDeath(0)
	whole := host(t, fake.Options{})
	whole.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(p, count.Hook) }
	whole.start()
	img := thrice("golden")
	whole.create(img)
	until(whole, img, "settled", settled)
	points := count.Points()
	whole.stop()
	if points < 30 {
		t.Fatalf("a build makes %d calls: too few to be true", points)
	}
	step := int64(1)
	if testing.Short() || raced {
		step = 7
	}
	for n := int64(1); n <= points; n += step {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			dieInBuild(t, n)
		})
	}
}

// dieInBuild kills a daemon at its n-th point, if it gets there, and has another
// one go on.
func dieInBuild(t *testing.T, n int64) {
	death := fault.NewDeath(n)
	d := host(t, fake.Options{})
	d.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(p, death.Hook) }
	d.start()
	img := thrice("golden")
	d.create(img)
	d.eventually("dead or settled", func() error {
		select {
		case <-death.Died():
			return nil
		default:
		}
		if err := d.client.Get(t.Context(), client.ObjectKeyFromObject(img), img); err != nil || settled(img) {
			return err
		}
		return errors.New("neither")
	})
	d.stop()
	select {
	case <-death.Died():
	default: // the first one was slower, or looked for garbage more often
		if got := death.Points(); got >= n {
			t.Errorf("it passed %d points and did not die", got)
		}
	}
	d.wrap = nil
	d.start()
	until(d, img, "settled", settled)
	d.wholly(img)
	d.nothingLeft(img)
}

// TestBuildOnAFlakyHost lets calls fail at random.
func TestBuildOnAFlakyHost(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d := host(t, fake.Options{})
			d.limits = build.DefaultLimits()
			d.limits.Attempts, d.limits.Backoff = 1000, 0
			d.wrap = func(p providers.Provider) providers.Provider {
				return fault.Wrap(p, fault.Flaky(seed, 12, providers.ErrUnavailable, providers.ErrBusy))
			}
			d.start()
			img := thrice("golden")
			d.create(img)
			// It may settle or not, as chance and ever longer pauses have it; but it
			// must when the host is well again.
			for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && !settled(img); time.Sleep(100 * time.Millisecond) {
				must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(img), img))
			}
			d.stop()
			d.wrap = nil
			d.start()
			until(d, img, "settled", settled)
			d.wholly(img)
			d.nothingLeft(img)
		})
	}
}

// TestFailedStep: the log stays and the machine goes; nothing is tried again until
// somebody changes something or asks for it.
func TestFailedStep(t *testing.T) {
	d := host(t, fake.Options{})
	var made atomic.Int32
	d.wrap = func(p providers.Provider) providers.Provider {
		return fault.Wrap(p, func(_ context.Context, at fault.Point) error {
			if at.Verb == "EnsureMachine" && at.When == fault.Before {
				made.Add(1)
			}
			return nil
		})
	}
	d.start()
	failed := func(attempts int32) func(*v1.GoldenImage) bool {
		return func(i *v1.GoldenImage) bool {
			c := condition(i, v1.ConditionStalled)
			return made.Load() == attempts && c.Reason == v1.ReasonProvisionFailed && i.Status.ObservedGeneration == i.Generation && i.Status.Build.MachineID == ""
		}
	}
	img := builtImage("golden", script("first", "echo well"), script("install", "echo reading; echo 'no such package' >&2; exit 7"), script("last", "echo never"))
	d.create(img)
	until(d, img, "failed", failed(1))
	if b := img.Status.Build; b.Step != "install" || b.ExitCode == nil || *b.ExitCode != 7 || img.Status.Phase != v1.ImageFailed {
		t.Errorf("build: %+v", b)
	}
	if m := condition(img, v1.ConditionReady).Message; !strings.Contains(m, `step "install" ended with exit code 7: reading / no such package`) {
		t.Errorf("message: %s", m)
	}
	if log := d.buildLog(img); !strings.Contains(log, "well\n") || !strings.Contains(log, "no such package\n") || strings.Contains(log, "never\n") {
		t.Errorf("log: %q", log)
	}
	if n := d.machines(); n != 0 {
		t.Errorf("%d machines", n)
	}
	// Sandboxes that come and go wake the image's reconciler, and so does a new daemon.
	sbx := newSandbox("web")
	d.create(sbx)
	until(d, sbx, "waiting", because(v1.ConditionReady, v1.ReasonImageNotReady))
	d.stop()
	d.start()
	until(d, img, "still failed", func(i *v1.GoldenImage) bool { return i.Status.Clones == 1 && failed(1)(i) })

	d.updateImage(img, func(i *v1.GoldenImage) { i.Annotations = map[string]string{v1.AnnotationRebuild: "again"} })
	until(d, img, "failed again", failed(2))
	d.updateImage(img, func(i *v1.GoldenImage) { i.Spec.Provision[1].Script = "echo mended >/opt/built" })
	until(d, sbx, "ready", ready)
	if got := d.inGuest(sbx.UID, "cat", "/opt/built"); got != "mended\n" {
		t.Errorf("the step left %q", got)
	}
}

// TestChangedSteps: a changed script is another revision, old clones keep theirs,
// and what was built once is not built again.
func TestChangedSteps(t *testing.T) {
	d := host(t, fake.Options{})
	var imports, made atomic.Int32
	d.wrap = func(p providers.Provider) providers.Provider {
		return fault.Wrap(p, func(_ context.Context, at fault.Point) error {
			switch {
			case at.When == fault.After || at.Err != nil:
			case at.Verb == "ImportImage":
				imports.Add(1)
			case at.Verb == "EnsureMachine":
				made.Add(1)
			}
			return nil
		})
	}
	d.start()
	img, old := builtImage("golden", script("version", "echo 1 >/opt/version")), newSandbox("old")
	d.create(img, old)
	until(d, old, "ready", ready)
	until(d, img, "settled", settled)
	first := img.Status.Revision

	d.updateImage(img, func(i *v1.GoldenImage) { i.Spec.Provision[0].Script = "echo 2 >/opt/version" })
	until(d, img, "built anew", func(i *v1.GoldenImage) bool { return settled(i) && i.Status.Revision != first })
	young := newSandbox("young")
	d.create(young)
	until(d, young, "ready", ready)
	for sbx, want := range map[*v1.Sandbox]string{old: "1\n", young: "2\n"} {
		if got := d.inGuest(sbx.UID, "cat", "/opt/version"); got != want {
			t.Errorf("sandbox %s has version %q, want %q", sbx.Name, got, want)
		}
	}
	// The source, and what each of the two machines has left.
	if n := imports.Load(); n != 3 {
		t.Errorf("%d imports, want 3: the source is the same", n)
	}
	// What is there already is not built again.
	before := made.Load()
	d.updateImage(img, func(i *v1.GoldenImage) { i.Spec.Provision[0].Script = "echo 1 >/opt/version" })
	until(d, img, "as at first", func(i *v1.GoldenImage) bool { return settled(i) && i.Status.Revision == first })
	if n := made.Load(); n != before {
		t.Errorf("%d machines were made for a revision that exists", n-before)
	}
}

// TestBuildIsCancelled by a change of the spec, and by deletion.
func TestBuildIsCancelled(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img := builtImage("golden", script("wait", "echo begun; sleep 100000"))
	d.create(img)
	running := func(i *v1.GoldenImage) bool {
		b := i.Status.Build
		return b != nil && b.Phase == v1.BuildProvisioning && b.Step == "wait" && b.Generation == i.Generation
	}
	until(d, img, "in its step", running)
	d.updateImage(img, func(i *v1.GoldenImage) { i.Spec.Provision[0].Script = "echo other; sleep 200000" })
	until(d, img, "in its other step", running)
	if log := d.buildLog(img); strings.Contains(log, "begun\n") {
		t.Errorf("the log is still the other build's: %q", log)
	}
	d.nothingLeft(img)

	img = builtImage("golden", script("wait", "sleep 100000"))
	d.create(img)
	until(d, img, "in its step", running)
	d.updateImage(img, func(i *v1.GoldenImage) { i.Spec.Provision = nil })
	until(d, img, "ready without steps", func(i *v1.GoldenImage) bool { return settled(i) && i.Status.Build.Phase == v1.BuildDone })
	if n := d.machines(); n != 0 {
		t.Errorf("%d machines", n)
	}
	if condition(img, v1.ConditionProvisioned).Type != "" {
		t.Error("an image without steps says that they were run")
	}
}

// TestBuildTimesOut and is not tried again.
func TestBuildTimesOut(t *testing.T) {
	d, wall := host(t, fake.Options{}), &jumpingClock{}
	d.clock = wall
	d.start()
	img := builtImage("golden", script("wait", "sleep 100000"))
	img.Spec.Build.Timeout = &metav1.Duration{Duration: 10 * time.Hour}
	d.create(img)
	until(d, img, "in its step", func(i *v1.GoldenImage) bool {
		return i.Status.Build != nil && i.Status.Build.Phase == v1.BuildProvisioning && i.Status.Build.Step == "wait"
	})
	wall.jump(11 * time.Hour)
	until(d, img, "timed out", func(i *v1.GoldenImage) bool {
		return condition(i, v1.ConditionStalled).Reason == v1.ReasonBuildTimedOut && i.Status.Build.MachineID == ""
	})
	if m := condition(img, v1.ConditionReady).Message; !strings.Contains(m, `in step "wait"`) || d.machines() != 0 {
		t.Errorf("message %s, %d machines", m, d.machines())
	}
}

// TestGuestOfBuildIsLost: it is begun again with a fresh machine, a few times.
func TestGuestOfBuildIsLost(t *testing.T) {
	d := host(t, fake.Options{})
	d.limits = build.DefaultLimits()
	d.limits.Attempts, d.limits.Backoff = 2, 10*time.Millisecond
	d.start()
	img := builtImage("golden", script("first", "echo one >>/opt/built"), script("wait", "sleep 100000"))
	d.create(img)
	inStep := func(attempt int32) func(*v1.GoldenImage) bool {
		return func(i *v1.GoldenImage) bool {
			b := i.Status.Build
			return b != nil && b.Phase == v1.BuildProvisioning && b.Step == "wait" && b.Attempt == attempt
		}
	}
	until(d, img, "in its step", inStep(1))
	must(t, d.world.Crash(img.UID))
	until(d, img, "in its step again", inStep(2))
	if got := d.inGuest(img.UID, "cat", "/opt/built"); got != "one\n" {
		t.Errorf("the fresh machine's disk has %q", got)
	}
	must(t, d.world.Crash(img.UID))
	until(d, img, "given up", func(i *v1.GoldenImage) bool {
		return condition(i, v1.ConditionStalled).Reason == v1.ReasonBuildFailed && i.Status.Build.MachineID == ""
	})
	if n := d.machines(); n != 0 {
		t.Errorf("%d machines", n)
	}
}

// TestForgottenBuildLog: the log of an image that is gone, as a daemon leaves it that
// is killed while it deletes one, is collected; that of one that exists is not.
func TestForgottenBuildLog(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img := builtImage("golden", script("one", "echo one"))
	d.create(img)
	until(d, img, "settled", settled)
	forgotten := filepath.Join(d.dir, "builds", "0f1e2d3c-0000-4000-8000-000000000009.log")
	must(t, os.WriteFile(forgotten, []byte("of nobody"), 0o600))
	d.eventually("log of nobody collected", func() error {
		if _, err := os.Stat(forgotten); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it is there: %w", errors.Join(err))
		}
		return nil
	})
	if log := d.buildLog(img); !strings.Contains(log, "one\n") {
		t.Errorf("the log of the image that exists is %q", log)
	}
}
