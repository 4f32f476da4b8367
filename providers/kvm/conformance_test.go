//go:build linux

package kvm_test

import (
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
	"sandboxd.dev/sandboxd/providers/kvm"
)

func TestConformance(t *testing.T) {
	h := newHost(t)
	run(t, "ip", "link", "add", "confbr0", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "confbr0").Run() })
	run(t, "ip", "link", "set", "confbr0", "up")
	h.was = h.inventory()
	var opened *kvm.Provider
	var instance providers.Instance
	conformance.Run(t, conformance.Backend{
		Open: func(_ testing.TB, i providers.Instance) providers.Provider {
			p := h.open(t, i)
			opened, instance = p, i
			return p
		},
		Image:     tinySource(t),
		Installer: installerISO(t),
		Hardware:  providers.MachineSpec{CPUs: 1, MemoryBytes: 128 << 20, Firmware: v1.FirmwareBIOS},
		OtherUser: "nobody",
		Service:   conformance.Service{Port: 22, Greeting: "SSH-2.0-"},
		Bridge:    "confbr0",
		Folder:    h.folder,
		Foreign:   foreign,
		Crash: func(t testing.TB, id types.UID) {
			must(t, syscall.Kill(pid(t, id), syscall.SIGKILL))
		},
		Pause:    func(t testing.TB, id types.UID) { run(t, "virsh", "suspend", string(id)) },
		Undefine: func(t testing.TB, id types.UID) { run(t, "virsh", "undefine", string(id)) },
		BreakNetwork: func(t testing.TB, id types.UID) {
			run(t, "ip", "link", "set", tapOf(t, id), "nomaster")
		},
		Tamper: func(t testing.TB, id types.UID, how conformance.Tampering) {
			h.tamper(t, id, how, instance, "confbr0")
		},
		Audit:     h.audit,
		Interrupt: func(n int, call func()) bool { return interrupt(opened, n, call) },
		Parallel:  3,
	})
}

// interrupt ends the goroutine that makes a call at its n-th step.
func interrupt(p *kvm.Provider, n int, call func()) (completed bool) {
	steps := 0
	p.OnStep(func() {
		if steps++; steps == n {
			runtime.Goexit()
		}
	})
	defer p.OnStep(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		call()
		completed = true
	}()
	<-done
	return completed
}

// foreign makes a machine that is somebody else's.
func foreign(t testing.TB, id types.UID) func() string {
	t.Helper()
	cmd := exec.Command("virsh", "define", "/dev/stdin")
	cmd.Stdin = strings.NewReader(`<domain type="qemu"><name>somebody-elses</name><uuid>` + string(id) + `</uuid>
<memory unit="MiB">64</memory><os><type arch="x86_64" machine="pc">hvm</type></os></domain>`)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { run(t, "virsh", "undefine", string(id)) })
	return func() string {
		return run(t, "virsh", "dumpxml", string(id)) + run(t, "virsh", "domstate", "--reason", string(id))
	}
}

// tapOf is the host's end of a machine's interface.
func tapOf(t testing.TB, id types.UID) string {
	t.Helper()
	for line := range strings.Lines(run(t, "virsh", "domiflist", string(id))) {
		if f := strings.Fields(line); len(f) == 5 && f[1] == "network" {
			return f[0]
		}
	}
	t.Fatalf("machine %s has no interface", id)
	return ""
}
