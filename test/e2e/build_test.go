//go:build linux

package e2e_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const provisioned = `
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: tiny}
spec:
  source: {disk: {path: tiny.qcow2}}
  machine: {memory: 128Mi}
  provision:
  - name: greeting
    file: {path: /etc/greeting, content: "hello from the manifest\n", mode: "0640"}
  - name: prepare
    script: |
      #!/bin/sh -e
      echo "preparing as $(id -u)"
      mkdir -p /etc/dropbear /opt
      echo shared >/etc/dropbear/dropbear_ed25519_host_key
      cp /etc/machine-id /opt/built-as
      echo 'echo secret' >/root/.ash_history
  - name: check
    script: |
      test "$(stat -c %a /etc/greeting)" = 640
---
`

// TestProvision builds an image in a machine: its clones have what the steps have
// done, and nothing that they must not share.
func TestProvision(t *testing.T) {
	h := newHost(t)
	h.apply(provisioned)
	h.eventually("built", func() error {
		_, err := h.try("wait", "--for", "condition=Ready", "--timeout", "1s", "goldenimage/tiny")
		return err
	})
	h.apply(sandbox("one", "")+sandbox("two", ""), "--wait", "--timeout", "12m")
	ids := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		if got := h.ok("exec", name, "--", "cat", "/etc/greeting"); got != "hello from the manifest\n" {
			t.Errorf("%s: the file of the first step has %q", name, got)
		}
		left := h.ok("exec", name, "--", "sh", "-c", "ls -a /etc/dropbear /root /tmp")
		if strings.Contains(left, "host_key") || strings.Contains(left, "history") || strings.Contains(left, "sandboxd-build") {
			t.Errorf("%s: clones share %q", name, left)
		}
		id, builder := h.ok("exec", name, "--", "cat", "/etc/machine-id"), h.ok("exec", name, "--", "cat", "/opt/built-as")
		if id == builder || ids[id] || len(strings.TrimSpace(id)) != 32 {
			t.Errorf("%s: machine-id %q, that of the machine that built it %q, others %v", name, id, builder, ids)
		}
		ids[id] = true
	}
	if log := h.ok("logs", "goldenimage/tiny"); !strings.Contains(log, "step 2 of 3: prepare\npreparing as 0\n") {
		t.Errorf("log of the build:\n%s", log)
	}
	if domains := world(t); strings.Contains(strings.Join(domains, " "), "image.tiny") {
		t.Errorf("the machine of the build is still there: %q", domains)
	}
	revision := h.ok("get", "goldenimage", "tiny", "-o", "jsonpath={.status.revision}")
	for name, want := range map[string]string{"/etc/machine-id": "", "/etc/greeting": "hello from the manifest"} {
		if got := h.inSealed(revision, name); got != want {
			t.Errorf("the sealed image has %q in %s, want %q", got, name, want)
		}
	}
	h.ok("delete", "sandbox", "one", "two")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	h.stop()
}

// inSealed reads a file of a sealed revision, without a guest.
func (h *host) inSealed(revision, name string) string {
	h.t.Helper()
	disks, err := filepath.Glob(h.path("data/kvm/images/*/" + revision + ".qcow2"))
	must(h.t, err)
	if len(disks) != 1 {
		out, _ := exec.Command("find", h.path("data/kvm/images")).Output()
		h.t.Fatalf("revision %s has the disks %q; there are\n%s", revision, disks, out)
	}
	raw := h.path("sealed.raw")
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", disks[0], raw).CombinedOutput(); err != nil {
		h.t.Fatalf("convert: %v: %s", err, out)
	}
	f, err := os.Open(raw)
	must(h.t, err)
	defer func() { _ = f.Close() }()
	entry := make([]byte, 16) // the second partition's
	_, err = f.ReadAt(entry, 446+16)
	must(h.t, err)
	at := fmt.Sprintf("%s?offset=%d", raw, int64(binary.LittleEndian.Uint32(entry[8:]))*512)
	var out []byte
	for _, request := range []string{"stat ", "cat "} { // cat of what is not there is no error
		out, err = exec.Command("debugfs", "-R", request+name, at).Output()
		if err != nil || (request == "stat " && !strings.Contains(string(out), "Type: regular")) {
			h.t.Fatalf("debugfs %s%s: %v: %s", request, name, err, out)
		}
	}
	return strings.TrimSpace(string(out))
}

// TestProvisionFails shows what a failed step leaves, and how it is mended. The
// daemon is killed in the middle of the build that succeeds.
func TestProvisionFails(t *testing.T) {
	h := newHost(t)
	manifest := func(script string) string {
		return fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: GoldenImage\nmetadata: {name: tiny}\nspec:\n  source: {disk: {path: tiny.qcow2}}\n  machine: {memory: 128Mi}\n  provision: [{name: prepare, script: %q}]\n---\n", script)
	}
	condition := func(kind, field string) string {
		return h.ok("get", "goldenimage", "tiny", "-o", fmt.Sprintf(`jsonpath={.status.conditions[?(@.type=="%s")].%s}`, kind, field))
	}
	h.apply(manifest("echo first; echo 'no such package' >&2; exit 3"))
	h.eventually("failed", func() error {
		if reason := condition("Stalled", "reason"); reason != "ProvisionFailed" {
			return fmt.Errorf("reason %q: %s", reason, condition("Ready", "message"))
		}
		return nil
	})
	if message := condition("Ready", "message"); !strings.Contains(message, `step "prepare" ended with exit code 3: first / no such package`) {
		t.Errorf("message: %s", message)
	}
	if log := h.ok("logs", "goldenimage/tiny", "--tail", "2"); !strings.Contains(log, "no such package") || strings.Contains(log, "step 1") {
		t.Errorf("the log's last two lines: %q", log)
	}
	h.eventually("without its machine", func() error {
		if all := strings.Join(world(t), " "); strings.Contains(all, "image.tiny") {
			return fmt.Errorf("there is %s", all)
		}
		return nil
	})

	h.apply(manifest("echo once >>/root/built; sleep 5"))
	h.eventually("in its step", func() error {
		if message := condition("Provisioned", "message"); !strings.HasPrefix(message, "step 1 of 1: prepare") {
			return fmt.Errorf("message %q", message)
		}
		return nil
	})
	h.kill()
	h.start()
	h.eventually("built", func() error {
		_, err := h.try("wait", "--for", "condition=Ready", "--timeout", "1s", "goldenimage/tiny")
		return err
	})
	h.apply(sandbox("one", ""), "--wait", "--timeout", "12m")
	if got := h.ok("exec", "one", "--", "cat", "/root/built"); got != "once\n" {
		t.Errorf("the step ran on a disk that it had run on: %q", got)
	}
	h.ok("delete", "sandbox", "one")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	h.stop()
}
