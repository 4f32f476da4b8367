package kubeapiserver_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestLife: whoever keeps the objects, a daemon does the same for a Sandbox. The hosts
// differ in their kubeconfig alone.
func TestLife(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { life(t, newHost(t, "embedded", "")) })
	t.Run("kube-apiserver", func(t *testing.T) {
		c, kubeconfig := startCluster(t)
		h := newHost(t, "cluster", kubeconfig)
		life(t, h)
		described(t, h, c.Kubeconfig)
	})
}

// life is that of a sandbox, from its making to its end.
func life(t *testing.T, h *host) {
	h.start()
	h.apply(tiny+sandbox("web"), "--wait")
	field := func(path string) string { return h.run("get", "sandbox", "web", "-o", "jsonpath={"+path+"}") }
	if uid, machine := field(".metadata.uid"), field(".status.machineID"); uid != machine {
		t.Errorf("machine %q of object %q", machine, uid)
	}
	if got := field(".metadata.finalizers[0]"); got != "sandboxd.dev/machine" {
		t.Errorf("finalizer %q", got)
	}
	if out := h.run("exec", "web", "--", "sh", "-c", "echo before > /root/mark; cat /root/mark"); out != "before" {
		t.Errorf("exec printed %q", out)
	}
	h.run("snapshot", "create", "web", "clean", "--wait")
	h.run("exec", "web", "--", "sh", "-c", "echo after > /root/mark")
	h.run("revert", "web", "clean", "--wait")
	if out := h.run("exec", "web", "--", "cat", "/root/mark"); out != "before" {
		t.Errorf("after the revert, the mark is %q", out)
	}
	h.run("stop", "web", "--wait")
	if phase := field(".status.phase"); phase != "Stopped" {
		t.Errorf("stopped, it is %s", phase)
	}
	h.run("start", "web", "--wait")
	h.want("the machine runs", "events")

	// What the embedded server refuses at once, the reconcilers refuse of a real one.
	_, err := h.try(sandbox("bad", "  sharedFolders: [{name: etc, hostPath: /etc, mountPath: /mnt}]\n"), "apply", "-f", "-")
	if h.kubeconfig == "" {
		if err == nil || !strings.Contains(err.Error(), "not below an allowed root") {
			t.Errorf("a forbidden folder: %v", err)
		}
	} else {
		must(t, err)
		h.want("HostPathForbidden", "get", "sandbox", "bad", "-o", `jsonpath={.status.conditions[?(@.type=="Stalled")].reason}`)
		h.run("delete", "sandbox", "bad")
	}

	h.run("delete", "sandbox", "web")
	h.run("delete", "goldenimage", "tiny")
	h.want("nothing is left over", "gc")
	if out := h.run("get", "sandboxes,goldenimages,sandboxsnapshots"); out != "" {
		t.Errorf("left: %s", out)
	}
}

// described: kubectl shows the events of a sandbox.
func described(t *testing.T, h *host, kubeconfig string) {
	h.apply(tiny+sandbox("told"), "--wait")
	kubectl := os.Getenv("SANDBOXD_KUBECTL")
	if kubectl == "" {
		t.Fatal("$SANDBOXD_KUBECTL does not name kubectl: run make test-kube-apiserver")
	}
	h.eventually("kubectl describe shows the events", func() error {
		cmd := exec.Command(kubectl, "--kubeconfig", kubeconfig, "describe", "sandbox", "told")
		out, err := cmd.CombinedOutput()
		if err == nil && (!strings.Contains(string(out), "made machine") || !strings.Contains(string(out), "sandboxd")) {
			err = os.ErrNotExist
		}
		if err != nil {
			t.Logf("%v:\n%s", err, out)
		}
		return err
	})
}

// TestRestartOfTheServer: while the API server is away, machines stay as they are; once
// it is back, the daemon goes on.
func TestRestartOfTheServer(t *testing.T) {
	c, kubeconfig := startCluster(t)
	h := newHost(t, "host", kubeconfig)
	h.start()
	h.apply(tiny+sandbox("before"), "--wait")
	started := h.run("get", "sandbox", "before", "-o", "jsonpath={.status.startedAt} {.status.machineID}")
	h.run("exec", "before", "--", "sh", "-c", "echo here > /root/mark")
	must(t, c.Restart())
	h.eventually("objects are written again", func() error {
		_, err := h.try(sandbox("after"), "apply", "-f", "-")
		return err
	})
	h.run("wait", "sandbox/after", "sandbox/before", "--for=condition=Ready", "--timeout=4m")
	if now := h.run("get", "sandbox", "before", "-o", "jsonpath={.status.startedAt} {.status.machineID}"); now != started {
		t.Errorf("the machine was %s and is %s", started, now)
	}
	if out := h.run("exec", "before", "--", "cat", "/root/mark"); out != "here" {
		t.Errorf("the mark is %q", out)
	}
	h.eventually("is ready", func() error { _, err := h.ask("/readyz"); return err })
}
