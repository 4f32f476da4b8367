//go:build linux

package e2e_test

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"sandboxd.dev/sandboxd/test/kubeapiserver/plane"
)

// TestCluster: a real kube-apiserver keeps the objects of real machines, which are safe
// from another cluster's answers.
func TestCluster(t *testing.T) {
	requireLibvirt(t)
	plane.Required(t)
	join := func(name string) []string {
		c, err := plane.Start(filepath.Join(t.TempDir(), name))
		must(t, err)
		t.Cleanup(func() { must(t, c.Stop()) })
		kubeconfig, err := c.Install(t.Context())
		must(t, err)
		return []string{"--kubeconfig", kubeconfig}
	}
	own := join("own")
	h := prepare(t, hypervisor{name: "kvm", flags: own, world: world})
	copyFile(t, tinyImage(t), h.path("images/tiny.qcow2"))
	h.start()
	h.apply(image+sandbox("hello", ""), "--wait", "--timeout", "12m")
	if got := h.ok("exec", "hello", "--", "hostname"); got != "hello\n" {
		t.Errorf("hostname in the guest: %q", got)
	}
	id := h.field("hello", ".metadata.uid")
	made := func() bool {
		return slices.ContainsFunc(world(t), func(s string) bool { return strings.HasPrefix(s, "domain ") && strings.Contains(s, "hello") })
	}
	if !made() {
		t.Fatalf("there is no domain of machine %s: %q", id, world(t))
	}

	// Another cluster has no object of that machine, and is told apart from its own.
	h.stop()
	r := h.run("", append([]string{"serve", "--data-dir", h.path("data"), "--socket", h.path("other.sock"), "--gc-interval", "1s", "--gc-grace", "1s"}, join("other")...)...)
	if r.code == 0 || !strings.Contains(r.err, "not the cluster that this host belongs to: it is another cluster") {
		t.Errorf("with another cluster: %+v", r)
	}
	if !made() {
		t.Fatalf("the machine is gone: %q", world(t))
	}

	// Killed and started again with its own, the daemon finds its machine.
	h.start()
	h.kill()
	h.start()
	h.ok("wait", "sandbox/hello", "--for=condition=Ready", "--timeout=12m")
	if got := h.ok("exec", "hello", "--", "hostname"); got != "hello\n" {
		t.Errorf("hostname in the guest: %q", got)
	}
	h.ok("delete", "sandbox", "hello")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	must(t, h.daemon.cmd.Process.Signal(syscall.Signal(0)))
}
