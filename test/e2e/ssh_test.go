//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// plain is an image of which is said that its guests have no agent.
const plain = `
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: plain}
spec:
  source: {disk: {path: tiny.qcow2}}
  machine: {memory: 128Mi}
  guest: {agent: None}
---
`

func plainSandbox(name, spec string) string {
	return strings.ReplaceAll(sandbox(name, spec), "image: tiny", "image: plain")
}

// TestGuestWithoutAgent reaches into guests by ssh alone. That it is not the
// agent, which the image has all the same, who answers is seen in the guest.
func TestGuestWithoutAgent(t *testing.T) {
	h := newHost(t)
	h.apply(plain+
		plainSandbox("direct", ", network: {mode: hostonly}, readiness: {mode: ssh}")+
		plainSandbox("forwarded", ", network: {mode: nat, portForwards: [{name: ssh, guestPort: 22}]}, readiness: {mode: ssh}")+
		plainSandbox("alone", ", readiness: {mode: none}"),
		"--wait", "--timeout", "12m")

	h.reachesInto("direct")
	h.worksAtTerminal("direct")
	h.reachesInto("forwarded")
	r := h.run("", "exec", "alone", "--", "true")
	if r.code != 1 || !strings.Contains(r.err, "set spec.network.mode to hostonly, or to nat and add {name: ssh, guestPort: 22} to spec.network.portForwards") {
		t.Errorf("exec without a way in: %+v", r)
	}

	h.setsUp()
	info, err := os.Stat(h.path("data/ssh/id_ed25519"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the daemon's key: %v, %v", info, err)
	}
	h.ok("delete", "sandbox", "--all")
	h.ok("delete", "goldenimage", "plain")
	h.cleanedUp()
}

// reachesInto runs commands in a guest and copies files.
func (h *host) reachesInto(name string) {
	t := h.t
	t.Helper()
	// A fresh clone makes its host key at the first login.
	h.eventually("exec", func() error {
		_, err := h.try("exec", name, "--", "true")
		return err
	})
	if got := h.ok("exec", name, "--", "hostname"); got != name+"\n" {
		t.Errorf("hostname in the guest: %q", got)
	}
	if got := h.ok("exec", name, "--", "sh", "-c", `p=$$; while [ "$p" -gt 1 ]; do cat /proc/$p/comm; p=$(sed -n 's/^PPid:\t//p' /proc/$p/status); done`); !strings.Contains(got, "dropbear") || strings.Contains(got, "qemu-ga") {
		t.Errorf("the command's ancestors are %q", got)
	}
	r := h.run("from the host", "exec", "-i", name, "--", "sh", "-c", "cat; echo to stderr >&2; exit 3")
	if r.out != "from the host" || strings.TrimSpace(r.err) != "to stderr" || r.code != 3 {
		t.Errorf("exec: %+v", r)
	}
	long := strings.Repeat("0123456789abcde\n", 1<<15)
	if r := h.run(long, "exec", "-i", name, "--", "cat"); r.out != long || r.code != 0 {
		t.Errorf("%d bytes came back as %d, %d, %s", len(long), len(r.out), r.code, r.err)
	}
	for code, command := range map[int][]string{137: {"sh", "-c", "kill -9 $$"}, 127: {"no-such-program"}, 126: {"/etc/passwd"}, 255: {"sh", "-c", "exit 255"}} {
		if r := h.run("", append([]string{"exec", name, "--"}, command...)...); r.code != code {
			t.Errorf("%q: %+v, want exit %d", command, r, code)
		}
	}
	if r := h.run("", "exec", "--timeout", "2s", name, "--", "sleep", "100"); r.code != 124 {
		t.Errorf("a command that takes too long: %+v, want exit 124", r)
	}
	h.noSleep(name)
	must(t, os.MkdirAll(h.path("tree/sub"), 0o755))
	must(t, os.WriteFile(h.path("tree/sub/file"), []byte(long), 0o640))
	h.ok("cp", "tree", name+":/root/tree")
	h.ok("cp", name+":/root/tree", "back-"+name)
	if got, err := os.ReadFile(h.path("back-" + name + "/sub/file")); err != nil || string(got) != long {
		t.Errorf("a directory, copied there and back: %d bytes, %v", len(got), err)
	}
	h.ok("cp", "tree/sub/file", name+":/tmp/file")
	h.ok("cp", name+":/tmp/file", "file-"+name)
	if got, err := os.ReadFile(h.path("file-" + name)); err != nil || string(got) != long {
		t.Errorf("a file, copied there and back: %d bytes, %v", len(got), err)
	}
	// Besides what the very command that looks needs itself.
	h.eventually("a guest without leftovers", func() error {
		if left := h.ok("exec", name, "--", "sh", "-c", "ls -A /tmp /root | grep sandboxd"); strings.Count(left, "\n") > 1 {
			return fmt.Errorf("left in the guest: %q", left)
		}
		return nil
	})
}

// setsUp changes keys and mounts folders of running guests.
func (h *host) setsUp() {
	t := h.t
	t.Helper()
	const someone = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIFekejB9hgnjPIxzBeozQdlrYpQnIY3N370rpTFxUMX one@example"
	keys := func() string { return h.ok("exec", "direct", "--", "cat", "/root/.ssh/authorized_keys") }
	if got := keys(); strings.Count(got, "\n") != 1 || !strings.Contains(got, " sandboxd\n") {
		t.Errorf("a guest that was given no keys has %q", got)
	}
	direct := func(more string) string {
		return plainSandbox("direct", ", network: {mode: hostonly}, readiness: {mode: ssh}"+more)
	}
	h.apply(direct(fmt.Sprintf(", cloudInit: {sshAuthorizedKeys: [%q]}", someone)))
	h.eventually("the key in the guest", func() error {
		if got := keys(); strings.Count(got, "\n") != 2 || !strings.Contains(got, someone) {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
	h.apply(direct(""))
	h.eventually("the key gone", func() error {
		if got := keys(); strings.Count(got, "\n") != 1 {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
	must(t, os.WriteFile(h.path("share/input"), []byte("input"), 0o644))
	folder := fmt.Sprintf(", sharedFolders: [{name: in, hostPath: %s}]", h.path("share"))
	h.apply(plainSandbox("folder", ", network: {mode: hostonly}, readiness: {mode: ssh}"+folder), "--wait", "--timeout", "12m")
	if got := h.ok("exec", "folder", "--", "cat", "/mnt/in/input"); got != "input" {
		t.Errorf("shared folder: %q", got)
	}
	if r := h.run("", "exec", "folder", "--", "sh", "-c", "echo changed > /mnt/in/input"); r.code == 0 {
		t.Error("the guest wrote to a read-only folder")
	}
	// Nobody can mount it where there is no way in: that is said.
	h.apply(plainSandbox("unmounted", ", readiness: {mode: none}"+folder))
	h.eventually("told that the folder cannot be mounted", func() error {
		if got := h.field("unmounted", `.status.conditions[?(@.type=="Ready")].reason`); got != "GuestConfigFailed" {
			return fmt.Errorf("Ready has the reason %q", got)
		}
		return nil
	})
}
