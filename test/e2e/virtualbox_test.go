//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/test/private"
)

// A machine on VirtualBox that starts, and whose processor halts at once: it needs
// no patience, and has no guest.
const haltImage = `
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: halt}
spec:
  source: {disk: {path: halt.raw, format: raw}}
  machine: {memory: 64Mi}
---
`

func haltSandbox(name, spec string) string {
	return fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s}\nspec: {image: halt, readiness: {mode: none}%s}\n---\n", name, spec)
}

// newVirtualBoxHost prepares a host with VirtualBox and starts a daemon on it.
func newVirtualBoxHost(t *testing.T) *host {
	t.Helper()
	private.Require(t, "VIRTUALBOX", "there is no private VirtualBox: run the test by hack/private-virtualbox -- go test ./test/e2e")
	private.WatchVirtualBox(t)
	h := prepare(t, hypervisor{
		name:  "virtualbox",
		flags: []string{"--virtualbox-execution-engine", "interpreter"},
		world: virtualBoxWorld,
	})
	t.Cleanup(func() {
		h.kill()
		h.endMachines()
	})
	disk := make([]byte, 2<<20)
	copy(disk, []byte{0xfa, 0xf4, 0xeb, 0xfd}) // cli; hlt; jmp to the hlt
	disk[510], disk[511] = 0x55, 0xaa
	must(t, os.WriteFile(h.path("images/halt.raw"), disk, 0o644))
	h.start()
	return h
}

// virtualBoxWorld lists what a sandbox may leave on a machine with VirtualBox.
func virtualBoxWorld(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, list := range []string{"vms", "hdds", "dvds", "hostonlyifs"} {
		out, err := manage("list", list)
		must(t, err)
		for line := range strings.Lines(out) {
			if list == "vms" || strings.HasPrefix(line, "Location:") || strings.HasPrefix(line, "Name:") {
				all = append(all, list+" "+strings.TrimSpace(line))
			}
		}
	}
	for range processes("VBoxHeadless") {
		all = append(all, "process VBoxHeadless")
	}
	slices.Sort(all)
	return all
}

// manage runs VBoxManage to look at something, again where VBoxSVC, or it itself, ended
// in the middle: unless it says that something is not there.
func manage(args ...string) (string, error) {
	for tries := 1; ; tries++ {
		out, err := manageOnce(args...)
		if err == nil || tries == 10 || strings.Contains(err.Error(), "VBOX_E_OBJECT_NOT_FOUND") {
			return out, err
		}
		time.Sleep(time.Second)
	}
}

// manageOnce bounds VBoxManage, which may wait for ever if VBoxSVC dies while it
// connects.
func manageOnce(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, os.Getenv("VBOX_MANAGE_PATH"), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("VBoxManage %v: %w: %s", args, err, out)
	}
	return string(out), nil
}

// processes lists the processes that run a program with this argument, if it is
// not empty.
func processes(program string, arg ...string) []int {
	var found []int
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		b, err := os.ReadFile(path)
		argv := strings.Split(string(b), "\x00")
		if err != nil || filepath.Base(argv[0]) != program || len(arg) > 0 && !slices.Contains(argv, arg[0]) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// endMachines ends and removes what a test that has failed left on VirtualBox, as far
// as that is possible: it is nothing to the next one.
func (h *host) endMachines() {
	if left := h.hypervisor.world(h.t); slices.Equal(left, h.before) {
		return
	}
	for range 3 { // what others lie on goes after them
		vms, err := manage("list", "vms")
		if err != nil {
			h.t.Logf("what is left cannot be listed: %v", err)
			return
		}
		for line := range strings.Lines(vms) {
			line = strings.TrimSpace(line)
			if slices.Contains(h.before, "vms "+line) {
				continue
			}
			id := strings.TrimSuffix(line[strings.LastIndex(line, "{")+1:], "}")
			for _, pid := range processes("VBoxHeadless", id) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			_, err := manageOnce("unregistervm", id, "--delete")
			h.t.Logf("machine %s was left, and is removed: %v", line, err)
		}
		for kind, list := range map[string]string{"disk": "hdds", "dvd": "dvds"} {
			media, _ := manage("list", list)
			for line := range strings.Lines(media) {
				if path, ok := strings.CutPrefix(line, "Location:"); ok && strings.Contains(path, h.dir) {
					_, _ = manageOnce("closemedium", kind, strings.TrimSpace(path))
				}
			}
		}
	}
}

// killSVC ends VBoxSVC, so long after VBoxManage was seen at work on a command that a
// new sandbox needs, or else after it was there: it may have been too quick to be seen.
func (h *host) killSVC(sandbox, command string, after time.Duration) {
	h.t.Helper()
	for begun := time.Now(); command != "" && len(processes("VBoxManage", command)) == 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > 10*time.Second && h.field(sandbox, ".status.startedAt") != "" {
			break
		}
		if time.Since(begun) > patience {
			h.t.Fatalf("VBoxManage %s was never seen, and sandbox %s does not start", command, sandbox)
		}
	}
	time.Sleep(after)
	atWork := command != "" && len(processes("VBoxManage", command)) > 0
	services := processes("VBoxSVC")
	private.Killed(services...)
	for _, pid := range services {
		if err := syscall.Kill(pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) { // unless it has just ended
			must(h.t, err)
		}
	}
	h.t.Logf("VBoxSVC was killed %v into %q, which was at work: %v", after, command, atWork)
}

// events returns the reasons and messages of a sandbox's events.
func (h *host) events(sandbox string) string {
	h.t.Helper()
	return h.ok("events", "--for", "sandbox/"+sandbox)
}

// TestVirtualBoxServiceKilled kills VirtualBox's service in the middle of a clone
// and of a start, and while a machine runs. Each time the sandbox becomes ready
// again, what happened is told, and the golden image is as good as before.
func TestVirtualBoxServiceKilled(t *testing.T) {
	h := newVirtualBoxHost(t)
	h.apply(haltImage, "--wait", "--timeout", "12m")
	golden := h.golden()

	for i, after := range []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond} {
		name := fmt.Sprintf("cloned-%d", i)
		h.apply(haltSandbox(name, ""))
		h.killSVC(name, "clonevm", after)
		h.ready(name)
		h.ok("delete", "sandbox", name)

		name = fmt.Sprintf("started-%d", i)
		h.apply(haltSandbox(name, ""))
		h.killSVC(name, "startvm", after)
		h.ready(name)
		if i < 2 {
			h.ok("delete", "sandbox", name)
		}
	}
	// What goes well when it is tried again at once is told in the log only. On a slow
	// machine VBoxManage may not have got as far as to need the service.
	for after := 400 * time.Millisecond; ; after *= 2 {
		told := h.ok("events", "--all-namespaces", "--types", "Warning")
		if strings.Contains(told+h.log(), "VBoxSVC, ended during VBoxManage") {
			break
		}
		if after > 10*time.Second {
			t.Errorf("neither the log nor an event tells that VirtualBox's service ended:\n%s", told)
			break
		}
		h.apply(haltSandbox("more", ""))
		h.killSVC("more", "startvm", after)
		h.ready("more")
		h.ok("delete", "sandbox", "more")
	}

	const survivor = "started-2"
	h.killSVC(survivor, "", 0)
	h.eventually("restarted", func() error {
		if n := h.field(survivor, ".status.restarts"); n == "" || n == "0" {
			return errors.New("its machine, which ended with VirtualBox's service, was not started again")
		}
		return nil
	})
	h.ready(survivor)
	h.eventually("told", func() error { // events are written beside all else
		if told := h.events(survivor); !strings.Contains(told, "Restarted") || !strings.Contains(told, "Crashed") {
			return fmt.Errorf("no event tells that the machine crashed and was restarted:\n%s", told)
		}
		return nil
	})

	if out := h.ok("get", "goldenimage", "halt", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`); out != "True" {
		t.Errorf("the golden image is Ready=%s", out)
	}
	h.deletesInUse("halt", survivor)
	if now := h.golden(); !bytes.Equal(now, golden) {
		t.Error("the golden image's disk has changed")
	}
	h.ok("delete", "sandbox", "--all")
	h.ok("wait", "goldenimage/halt", "--for=delete", "--timeout", "4m")
	h.cleanedUp()
}

func (h *host) ready(sandbox string) {
	h.t.Helper()
	h.ok("wait", "--for=condition=Ready", "sandbox/"+sandbox, "--timeout", "12m")
	uid := h.field(sandbox, ".metadata.uid")
	h.eventually("running", func() error {
		out, err := manage("showvminfo", uid, "--machinereadable")
		if err == nil && !strings.Contains(out, `VMState="running"`) {
			err = errors.New("it is Ready, and its machine does not run")
		}
		return err
	})
}

// golden reads the disk of the golden image.
func (h *host) golden() []byte {
	h.t.Helper()
	disks, err := filepath.Glob(h.path("data/virtualbox/images/*/*/disk.vdi"))
	must(h.t, err)
	if len(disks) != 1 {
		h.t.Fatalf("the golden image has the disks %q", disks)
	}
	b, err := os.ReadFile(disks[0])
	must(h.t, err)
	return b
}

// TestVirtualBoxMany: eight linked clones of one image become ready side by side
// and are deleted, ten times, and nothing is left of them.
func TestVirtualBoxMany(t *testing.T) {
	h := newVirtualBoxHost(t)
	h.apply(haltImage, "--wait", "--timeout", "12m")
	var clones strings.Builder
	for i := range 8 {
		clones.WriteString(haltSandbox(fmt.Sprintf("clone-%d", i), ", network: {mode: nat, portForwards: [{name: ssh, guestPort: 22}]}"))
	}
	golden := h.hypervisor.world(t)
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		h.apply(clones.String(), "--wait", "--timeout", "12m")
		ready := h.ok("get", "sandbox", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		if want := strings.TrimSpace(strings.Repeat("True ", 8)); ready != want {
			t.Fatalf("after apply --wait, the sandboxes are Ready: %s", ready)
		}
		if n := len(processes("VBoxHeadless")); n != 8 {
			t.Errorf("%d machines run", n)
		}
		h.ok("delete", "sandbox", "--all", "--timeout", "12m")
		h.eventually("as before", func() error {
			if now := h.hypervisor.world(t); !slices.Equal(now, golden) {
				return fmt.Errorf("there is %q, before there was %q", now, golden)
			}
			return nil
		})
		if left, err := filepath.Glob(h.path("data/virtualbox/machines/*")); err != nil || len(left) > 0 {
			t.Fatalf("of the machines there is left %q, %v", left, err)
		}
	}
	h.ok("delete", "goldenimage", "halt")
	h.cleanedUp()
}
