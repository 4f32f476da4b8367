package controller_test

import (
	"io"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
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
	f, err := build.NewLogs(d.dir + "/builds").Open(img.UID)
	must(d.t, err)
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(f)
	must(d.t, err)
	return string(text)
}

func settled(img *v1.GoldenImage) bool {
	return ready(img) && img.Status.ObservedGeneration == img.Generation &&
		(img.Status.Build == nil || img.Status.Build.MachineID == "")
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
	if _, err := build.NewLogs(d.dir + "/builds").Open(img.UID); err == nil {
		t.Error("the log outlives its image")
	}
}
