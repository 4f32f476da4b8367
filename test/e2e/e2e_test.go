//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const image = `
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: tiny}
spec:
  source: {disk: {path: tiny.qcow2}}
  machine: {memory: 128Mi}
---
`

func sandbox(name, spec string) string {
	return fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s}\nspec: {image: tiny%s}\n---\n", name, spec)
}

// TestLife is a sandbox's whole life, as the README tells it.
func TestLife(t *testing.T) {
	h := newHost(t)
	h.apply(image+sandbox("hello", ""), "--wait", "--timeout", "12m")

	if got := h.ok("exec", "hello", "--", "hostname"); got != "hello\n" {
		t.Errorf("hostname in the guest: %q", got)
	}
	r := h.run("from the host", "exec", "-i", "hello", "--", "sh", "-c", "cat; echo to stderr >&2; exit 3")
	if r.out != "from the host" || strings.TrimSpace(r.err) != "to stderr" || r.code != 3 {
		t.Errorf("exec: %+v", r)
	}
	if r := h.run("", "exec", "--timeout", "1s", "hello", "--", "sleep", "100"); r.code != 124 {
		t.Errorf("a command that takes too long: %+v, want exit 124", r)
	}
	h.noSleep("hello")
	if links := h.ok("exec", "hello", "--", "ls", "/sys/class/net"); strings.TrimSpace(links) != "lo" {
		t.Errorf("network mode none, but the guest has %q", links)
	}

	must(t, os.MkdirAll(h.path("tree/sub"), 0o755))
	must(t, os.WriteFile(h.path("tree/sub/file"), []byte("content"), 0o640))
	h.ok("cp", "tree", "hello:/root/tree")
	h.ok("cp", "hello:/root/tree", "back")
	if got, err := os.ReadFile(h.path("back/sub/file")); err != nil || string(got) != "content" {
		t.Errorf("copied there and back: %q, %v", got, err)
	}
	if log := h.ok("logs", "hello"); !strings.Contains(log, "tiny: ready") {
		t.Errorf("console log:\n%s", log)
	}
	h.deletesInUse("tiny", "hello")
	if out := h.ok("exec", "hello", "--", "cat", "/root/tree/sub/file"); out != "content" {
		t.Errorf("on an image that is being deleted: %q", out)
	}
	h.ok("delete", "sandbox", "hello")
	h.ok("wait", "goldenimage/tiny", "--for=delete", "--timeout", "4m")
	h.cleanedUp()
	h.stop()
}

// deletesInUse deletes an image, which stays as long as a sandbox uses it and says so.
func (h *host) deletesInUse(image, sandbox string) {
	h.t.Helper()
	h.ok("delete", "goldenimage", image, "--wait=false")
	h.ok("wait", "goldenimage/"+image, `--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=InUse`, "--timeout", "4m")
	if said := h.ok("get", "goldenimage", image, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`); !strings.Contains(said, "default/"+sandbox) {
		h.t.Errorf("an image that is in use and was deleted says %q", said)
	}
	if ready := h.field(sandbox, `.status.conditions[?(@.type=="Ready")].status`); ready != "True" {
		h.t.Errorf("a sandbox of an image that is being deleted is Ready=%s", ready)
	}
}

// TestRunningGuest changes what can be changed of a sandbox that runs.
func TestRunningGuest(t *testing.T) {
	h := newHost(t)
	key := func(name string) string {
		must(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", h.path(name)).Run())
		public, err := os.ReadFile(h.path(name + ".pub"))
		must(t, err)
		return strings.TrimSpace(string(public))
	}
	spec := func(key string) string {
		return sandbox("web", fmt.Sprintf(", network: {mode: nat, portForwards: [{name: ssh, guestPort: 22}]}, cloudInit: {sshAuthorizedKeys: [%q]}, readiness: {mode: ssh}, lifecycle: {idleTimeout: 12h}, sharedFolders: [{name: in, hostPath: %s}, {name: out, hostPath: %s, readOnly: false}]",
			key, h.path("share"), h.path("share")))
	}
	must(t, os.WriteFile(h.path("share/input"), []byte("input"), 0o644))
	first, second := key("first"), key("second")
	h.apply(image+spec(first), "--wait", "--timeout", "12m")

	port := h.field("web", ".status.portForwards[0].hostPort")
	ssh := func(key string) error {
		out, err := exec.Command("ssh", "-i", h.path(key), "-p", port, "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=120", "root@127.0.0.1", "true").CombinedOutput()
		if err != nil {
			return fmt.Errorf("ssh with key %s: %w: %s", key, err, out)
		}
		return nil
	}
	h.eventually("ssh with the first key", func() error { return ssh("first") })
	if ssh("second") == nil {
		t.Error("a key that nobody allowed may log in")
	}
	h.apply(spec(second))
	h.eventually("ssh with the second key", func() error { return ssh("second") })
	h.eventually("the first key refused", func() error {
		if ssh("first") == nil {
			return fmt.Errorf("it may still log in")
		}
		return nil
	})
	h.logsIn("web", "second", "first")

	if got := h.ok("exec", "web", "--", "cat", "/mnt/in/input"); got != "input" {
		t.Errorf("shared folder: %q", got)
	}
	if r := h.run("", "exec", "web", "--", "sh", "-c", "echo changed > /mnt/in/input; mount -o remount,rw /mnt/in; echo changed > /mnt/in/input"); r.code == 0 {
		t.Error("the guest wrote to a read-only folder")
	}
	h.ok("exec", "web", "--", "sh", "-c", "echo output > /mnt/out/output; ln -s /etc/shadow /mnt/out/link")
	if got, err := os.ReadFile(h.path("share/output")); err != nil || string(got) != "output\n" {
		t.Errorf("output: %q, %v", got, err)
	}
	if info, err := os.Lstat(h.path("share/link")); err != nil || info.Mode()&os.ModeSymlink != 0 {
		t.Errorf("a guest's symlink is one on the host: %v, %v", info, err)
	}
	if got, err := os.ReadFile(h.path("share/input")); err != nil || string(got) != "input" {
		t.Errorf("the read-only input: %q, %v", got, err)
	}
	h.ok("delete", "sandbox", "web")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
}

// TestSerialUse: one machine for one task after the other. A new word in revertTo
// puts its disk back to the golden state and starts it again; a sandbox that
// discards starts from it whenever it starts. The machines stay the same ones.
func TestSerialUse(t *testing.T) {
	h := newHost(t)
	serial := func(request string) string {
		return sandbox("serial", ", memory: 96Mi, revertTo: {snapshot: golden, request: "+request+"}")
	}
	forgetful := func(power string) string {
		return sandbox("forgetful", ", memory: 96Mi, discardOnStop: true, powerState: "+power)
	}
	marked := func(name string) bool {
		return h.ok("exec", name, "--", "sh", "-c", "test -e /root/mark && echo marked || echo unmarked") == "marked\n"
	}
	h.apply(image+serial("task-1")+forgetful("Running"), "--wait", "--timeout", "12m")
	ids := virsh(t, "list", "--uuid")
	for _, name := range []string{"serial", "forgetful"} {
		h.ok("exec", name, "--", "sh", "-c", "touch /root/mark; sync")
	}

	h.apply(serial("task-1"), "--wait", "--timeout", "12m")
	if !marked("serial") {
		t.Error("the same request reverted the disk again")
	}
	h.apply(serial("task-2"), "--wait", "--timeout", "12m")
	h.eventually("reverted", func() error {
		if done := h.field("serial", ".status.revert.request"); done != "task-2" {
			return fmt.Errorf("the last request that was served is %q", done)
		}
		return nil
	})
	h.ok("wait", "--for=condition=Ready", "sandbox/serial", "--timeout", "12m")
	if marked("serial") {
		t.Error("the disk is not as cloned from the image")
	}
	h.apply(forgetful("Stopped"), "--wait", "--timeout", "12m")
	h.apply(forgetful("Running"), "--wait", "--timeout", "12m")
	if marked("forgetful") {
		t.Error("the disk kept what was to be discarded")
	}
	if now := virsh(t, "list", "--uuid"); len(strings.Fields(now)) != len(strings.Fields(ids)) {
		t.Errorf("there are the machines %q, before there were %q", now, ids)
	} else {
		for _, id := range strings.Fields(ids) {
			if !strings.Contains(now, id) {
				t.Errorf("machine %s is gone", id)
			}
		}
	}
	h.ok("delete", "sandbox", "--all")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
}

// TestKilled kills the daemon at moments spread over the creation and the
// deletion of a sandbox. It must converge, with the same machine and nothing
// else.
func TestKilled(t *testing.T) {
	h := newHost(t)
	h.apply(image, "--wait", "--timeout", "12m")
	moments := []time.Duration{0, 20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond, time.Second}
	for i, moment := range moments {
		name := fmt.Sprintf("victim-%d", i)
		h.apply(sandbox(name, ", network: {mode: hostonly}, memory: 96Mi, readiness: {mode: none}"))
		time.Sleep(moment)
		h.kill()
		h.start()
		h.ok("wait", "--for=condition=Ready", "sandbox/"+name, "--timeout", "12m")
		if got := strings.Count(strings.Join(world(t), "\n"), "domain "); got != 1 {
			t.Errorf("killed %v into a creation: %d domains, want 1: %q", moment, got, world(t))
		}
		if uid := h.field(name, ".metadata.uid"); !strings.Contains(virsh(t, "list", "--uuid"), uid) {
			t.Errorf("killed %v into a creation: no machine %s runs", moment, uid)
		}
		if restarts := h.field(name, ".status.restarts"); restarts != "" {
			t.Errorf("killed %v into a creation: restarts %s", moment, restarts)
		}
		h.ok("delete", "sandbox", name, "--wait=false")
		time.Sleep(moment)
		h.kill()
		h.start()
		h.ok("wait", "--for=delete", "sandbox/"+name, "--timeout", "12m")
		h.eventually("no domain", func() error {
			if names := strings.TrimSpace(virsh(t, "list", "--all", "--name")); names != "" {
				return fmt.Errorf("domains %q", names)
			}
			return nil
		})
	}
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
}

// TestImportKilled kills the daemon while it imports an image.
func TestImportKilled(t *testing.T) {
	h := newHost(t)
	for _, moment := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond} {
		h.apply(image)
		time.Sleep(moment)
		h.kill()
		h.start()
		h.ok("wait", "--for=condition=Ready", "goldenimage/tiny", "--timeout", "12m")
		h.ok("delete", "goldenimage", "tiny")
		h.cleanedUp()
	}
}

// TestLibvirtRestarts kills libvirt's daemon under a running sandbox.
func TestLibvirtRestarts(t *testing.T) {
	h := newHost(t)
	h.apply(image+sandbox("survivor", ""), "--wait", "--timeout", "12m")
	started := h.field("survivor", ".status.startedAt")
	h.ok("exec", "survivor", "--", "touch", "/run/mark")

	pid, err := os.ReadFile(os.Getenv("SANDBOXD_LIBVIRTD_PIDFILE"))
	must(t, err)
	must(t, exec.Command("kill", "-9", strings.TrimSpace(string(pid))).Run())
	h.apply(sandbox("late", "")) // while libvirt is down
	must(t, exec.Command(os.Getenv("SANDBOXD_LIBVIRTD_START")).Run())

	h.ok("wait", "--for=condition=Ready", "sandbox/late", "--timeout", "12m")
	h.ok("wait", "--for=condition=Ready", "sandbox/survivor", "--timeout", "12m")
	h.ok("exec", "survivor", "--", "test", "-e", "/run/mark")
	if now := h.field("survivor", ".status.startedAt"); now != started {
		t.Errorf("the restart of libvirt restarted the machine: started %s, before %s", now, started)
	}
	h.ok("delete", "sandbox", "--all")
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
}

// TestBadImages: each is refused in one sentence, and leaves nothing.
func TestBadImages(t *testing.T) {
	h := newHost(t)
	qemuImg := func(args ...string) {
		out, err := exec.Command("qemu-img", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("qemu-img %v: %v: %s", args, err, out)
		}
	}
	qemuImg("create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/hostname", h.path("images/backed.qcow2"), "1M")
	qemuImg("create", "-q", "-f", "qcow2", "-o", "data_file="+h.path("images/data.raw")+",data_file_raw=on", h.path("images/split.qcow2"), "1M")
	must(t, os.Symlink("/etc/passwd", h.path("images/link.raw")))
	must(t, os.WriteFile(h.path("images/empty.raw"), nil, 0o644))
	disk := func(d string) string {
		return fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: GoldenImage\nmetadata: {name: bad}\nspec: {source: {disk: {%s}}}\n", d)
	}
	for name, bad := range map[string]struct{ manifest, says string }{
		"backing file": {disk("path: backed.qcow2"), "backing file"},
		"data file":    {disk("path: split.qcow2"), "file"},
		"wrong digest": {disk("path: tiny.qcow2, sha256: " + strings.Repeat("ab", 32)), "but spec.source.disk.sha256 is abab"},
		"wrong format": {disk("path: tiny.qcow2, format: vmdk"), "qcow2"},
		"missing":      {disk("path: nothing.qcow2"), "no such path"},
		"empty":        {disk("path: empty.raw"), "empty"},
		"symlink out":  {disk("path: link.raw"), "/etc/passwd"},
		"outside":      {disk("path: /etc/passwd"), "allowed root"},
	} {
		t.Run(name, func(t *testing.T) {
			r := h.run(bad.manifest, "apply", "-f", "-", "--wait", "--timeout", "1m")
			message := strings.TrimSpace(r.err)
			if r.code == 0 || !strings.Contains(message, bad.says) || strings.Contains(message, "\n") {
				t.Errorf("got exit %d and %q, want one sentence that says %q", r.code, message, bad.says)
			}
			if left := strings.TrimSpace(h.ok("get", "goldenimages", "-o", "name")); left != "" {
				t.Errorf("something was stored: %s", left)
			}
		})
	}
	h.cleanedUp()
}

// TestNothingElseIsTouched: a machine of somebody else, and another daemon.
func TestNothingElseIsTouched(t *testing.T) {
	newHost(t) // a daemon with nothing of its own
	define := exec.Command("virsh", "define", "/dev/stdin")
	define.Stdin = strings.NewReader("<domain type='qemu'><name>somebody-elses</name><memory>65536</memory><os><type>hvm</type></os></domain>")
	out, err := define.CombinedOutput()
	if err != nil {
		t.Fatalf("virsh define: %v: %s", err, out)
	}
	defer virsh(t, "undefine", "somebody-elses")
	other := newHost(t)
	other.apply(image+sandbox("theirs", ", powerState: Stopped"), "--wait=false")
	other.eventually("made", func() error {
		if other.field("theirs", ".status.machineID") == "" {
			return fmt.Errorf("no machine yet")
		}
		return nil
	})
	time.Sleep(10 * time.Second) // some rounds of both daemons' garbage collection, past its grace
	names := virsh(t, "list", "--all", "--name")
	if !strings.Contains(names, "somebody-elses") || !strings.Contains(names, "theirs") {
		t.Errorf("a machine is gone: there are %q", names)
	}
	if files, err := filepath.Glob(other.path("data/kvm/machines/*")); err != nil || len(files) != 1 {
		t.Errorf("the other daemon's files: %v, %v", files, err)
	}
	other.ok("delete", "sandbox", "theirs")
	other.ok("delete", "goldenimage", "tiny")
	other.cleanedUp()
}

func virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %v: %v: %s", args, err, out)
	}
	return string(out)
}
