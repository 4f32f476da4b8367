//go:build linux

package e2e_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// reboot does what a reboot of the host does: everything ends without a word, and
// libvirt and the daemon are started.
func (h *host) reboot() {
	h.t.Helper()
	h.kill()
	for _, program := range []string{"SANDBOXD_LIBVIRTD_REBOOT", "SANDBOXD_LIBVIRTD_START"} {
		if out, err := exec.Command(os.Getenv(program)).CombinedOutput(); err != nil {
			h.t.Fatalf("%s: %v: %s", program, err, out)
		}
	}
	h.start()
}

// TestHostReboots: what is to run runs again, what is stopped stays so, and what is
// suspended goes on from its memory.
func TestHostReboots(t *testing.T) {
	h := newHost(t)
	h.apply(image+sandbox("always", ", network: {mode: nat}, restartPolicy: Always")+
		sandbox("asleep", ", network: {mode: hostonly}")+
		sandbox("stopped", ", network: {mode: nat}, readiness: {mode: none}"), "--wait", "--timeout", "12m")
	h.ok("exec", "always", "--", "sh", "-c", "echo kept > /mark; sync")
	h.ok("exec", "asleep", "--", "touch", "/run/mark")
	h.apply(sandbox("stopped", ", network: {mode: nat}, readiness: {mode: none}, powerState: Stopped") +
		sandbox("asleep", ", network: {mode: hostonly}, powerState: Suspended"))
	phase := func(name, want string) error {
		if got := h.field(name, ".status.phase"); got != want {
			return errors.New(name + " is " + got + ", not yet " + want)
		}
		return nil
	}
	h.eventually("at rest", func() error { return errors.Join(phase("stopped", "Stopped"), phase("asleep", "Suspended")) })

	h.reboot()

	h.ok("wait", "--for=condition=Ready", "sandbox/always", "--timeout", "12m")
	if got := strings.TrimSpace(h.ok("exec", "always", "--", "cat", "/mark")); got != "kept" {
		t.Errorf("the disk of what runs again has %q", got)
	}
	if restarts := h.field("always", ".status.restarts"); restarts != "1" {
		t.Errorf("what runs again was restarted %q times", restarts)
	}
	if err := errors.Join(phase("stopped", "Stopped"), phase("asleep", "Suspended")); err != nil {
		t.Error(err)
	}
	if running := strings.Fields(virsh(t, "list", "--name")); len(running) != 1 {
		t.Errorf("there run %q", running)
	}
	h.apply(sandbox("asleep", ", network: {mode: hostonly}"))
	h.ok("wait", "--for=condition=Ready", "sandbox/asleep", "--timeout", "12m")
	h.ok("exec", "asleep", "--", "test", "-e", "/run/mark")
	for _, name := range []string{"always", "asleep", "stopped"} {
		if drifted := h.ok("get", "sandbox", name, "-o", `jsonpath={.status.conditions[?(@.type=="Drifted")].message}`); drifted != "" {
			t.Errorf("nobody changed %s, and it says: %s", name, drifted)
		}
		if events := h.ok("events", "--for", "sandbox/"+name); strings.Contains(events, "Drifted") {
			t.Errorf("it was told to have drifted: %s", events)
		}
	}
	h.ok("delete", "sandbox", "--all")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
}
