//go:build linux

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestSnapshots keeps the state of a guest that runs, with its memory and without,
// and goes back to it.
func TestSnapshots(t *testing.T) {
	h := newHost(t)
	h.apply(image+sandbox("web", ""), "--wait", "--timeout", "12m")
	guest := func(script string) string {
		t.Helper()
		return strings.TrimSpace(h.ok("exec", "web", "--", "sh", "-c", script))
	}
	guest("echo before >/root/mark; echo before >/dev/shm/mark; sync")
	boot := guest("cat /proc/sys/kernel/random/boot_id")

	h.ok("snapshot", "create", "web", "disk", "--wait")
	h.ok("snapshot", "create", "web", "all", "--memory", "--wait")
	if got := guest("cat /proc/sys/kernel/random/boot_id"); got != boot || h.field("web", ".status.restarts") != "" {
		t.Errorf("it was started again: boot %s, before %s, restarts %q", got, boot, h.field("web", ".status.restarts"))
	}
	guest("echo after >/root/mark; echo after >/dev/shm/mark; sync")

	h.ok("revert", "web", "all", "--wait")
	if got := guest("cat /root/mark /dev/shm/mark /proc/sys/kernel/random/boot_id"); got != "before\nbefore\n"+boot {
		t.Errorf("reverted with memory: %q, want the marks of before and the boot %s", got, boot)
	}
	guest("echo after >/root/mark; sync")
	h.ok("revert", "web", "disk", "--wait")
	if got := guest("cat /root/mark; cat /dev/shm/mark || true"); got != "before" {
		t.Errorf("reverted to the disk: %q", got)
	}
	if got := guest("cat /proc/sys/kernel/random/boot_id"); got == boot {
		t.Error("reverted to the disk alone, and it goes on with the memory")
	}
	if got := h.field("web", ".status.restarts"); got != "" {
		t.Errorf("reverts count as restarts: %s", got)
	}
	h.ok("delete", "snap", "disk")
	h.ok("delete", "-n", "default", "sandbox", "web")
	if out := h.ok("get", "snap", "-o", "name"); out != "" {
		t.Errorf("left of the snapshots: %s", out)
	}
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	h.stop()
}

// TestForksAreStrangers makes ten sandboxes of one: each has the data, and an
// identity of its own.
func TestForksAreStrangers(t *testing.T) {
	h := newHost(t)
	h.apply(image+sandbox("src", ", network: {mode: nat}"), "--wait", "--timeout", "12m")
	h.ok("exec", "src", "--", "sh", "-c", "echo shared >/root/mark; head -c 64 /dev/urandom >/etc/dropbear/dropbear_ed25519_host_key; sync")
	count := 10
	if testing.Short() {
		count = 3
	}
	h.ok("fork", "src", "fork", "--count", fmt.Sprint(count), "--wait", "--timeout", "12m")

	names := []string{"src"}
	for i := range count {
		names = append(names, fmt.Sprintf("fork-%d", i+1))
	}
	identity := map[string]string{
		"hostname":    "hostname",
		"machine ID":  "cat /etc/machine-id",
		"MAC address": "cat /sys/class/net/eth0/address",
		"boot":        "cat /proc/sys/kernel/random/boot_id",
		"randomness":  "head -c 32 /dev/urandom | sha256sum",
	}
	for what, script := range identity {
		of := map[string]string{}
		for _, name := range names {
			got := strings.TrimSpace(h.ok("exec", name, "--", "sh", "-c", script))
			if other, ok := of[got]; ok || got == "" {
				t.Errorf("%s and %s have the same %s: %q", name, other, what, got)
			}
			of[got] = name
		}
	}
	for _, name := range names[1:] {
		if got := h.ok("exec", name, "--", "sh", "-c", "cat /root/mark; ls /etc/dropbear | grep host_key || true"); got != "shared\n" {
			t.Errorf("%s has %q: want the mark of the source, and none of its ssh host keys", name, got)
		}
	}
	h.ok("delete", "sandbox", "--all")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	h.stop()
}
