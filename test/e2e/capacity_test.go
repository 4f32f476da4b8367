//go:build linux

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestCapacity has room for one of two sandboxes: the second one runs once the first is
// off, over a daemon that is killed meanwhile.
func TestCapacity(t *testing.T) {
	requireLibvirt(t)
	// Whatever is not woken is not looked at.
	h := prepare(t, hypervisor{name: "kvm", world: world, flags: []string{"--capacity-memory", "200Mi", "--resync", "1h"}})
	copyFile(t, tinyImage(t), h.path("images/tiny.qcow2"))
	h.start()
	h.apply(image+sandbox("first", ""), "--wait", "--timeout", "12m")
	h.apply(sandbox("second", ""))
	// A daemon that has just started may not know yet what there is room for.
	says := func(condition string) {
		t.Helper()
		h.eventually("waiting for room", func() error {
			const why = "needs 128Mi memory, 72Mi of 200Mi free"
			if got := h.field("second", `.status.conditions[?(@.type=="`+condition+`")].message`); got != why {
				return fmt.Errorf("it waits because %q, want %q", got, why)
			}
			return nil
		})
	}
	h.ok("wait", "sandbox/second", "--for=condition=Admitted=False", "--timeout", "12m")
	says("Ready")
	if phase := h.field("second", ".status.phase"); phase != "Pending" {
		t.Errorf("phase %s, want Pending", phase)
	}
	for range 2 {
		if r := h.run("", "exec", "second", "--", "true"); r.code == 0 {
			t.Error("it runs, and there is no room for it")
		}
		h.kill()
		h.start()
		h.ok("wait", "sandbox/first", "--for=condition=Ready", "--timeout", "12m")
	}
	if got := h.field("first", ".status.restarts"); got != "" {
		t.Errorf("the first one was restarted %s times", got)
	}
	says("Admitted")
	h.ok("stop", "first")
	h.ok("wait", "sandbox/second", "--for=condition=Ready", "--timeout", "12m")
	h.ok("start", "first")
	h.ok("wait", "sandbox/first", "--for=condition=Admitted=False", "--timeout", "12m")
	if got := h.ok("exec", "second", "--", "hostname"); strings.TrimSpace(got) != "second" {
		t.Errorf("hostname %q", got)
	}
	h.ok("delete", "sandbox", "second")
	h.ok("wait", "sandbox/first", "--for=condition=Ready", "--timeout", "12m")
	h.ok("delete", "sandbox", "first")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	h.stop()
}
