package virtualbox_test

import (
	"runtime"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
	"sandboxd.dev/sandboxd/providers/virtualbox"
)

// noDriver is why some network modes cannot be shown without the kernel driver.
const noDriver = "VirtualBox starts no machine with such a card without its kernel driver; its configuration is tested on its own"

func TestConformance(t *testing.T) {
	h := newHost(t)
	var opened *virtualbox.Provider
	within := func(n int, call func()) bool { return interrupt(opened, n, call) }
	bulk := 128 << 10
	if testing.Short() { // both take minutes: each step of each call, and bytes that an interpreted guest copies
		within, bulk = nil, 16<<10
	}
	conformance.Run(t, conformance.Backend{
		Open: func(_ testing.TB, i providers.Instance) providers.Provider {
			opened = h.open(t, i)
			return patient{opened, t}
		},
		Image:     guestImage(t),
		Idle:      haltDisk(t),
		Hardware:  providers.MachineSpec{CPUs: 1, MemoryBytes: 128 << 20, Firmware: v1.FirmwareBIOS},
		OtherUser: "sandbox",
		RootDisk:  "sda",
		Service:   conformance.Service{Port: 22, Greeting: "SSH-2.0-"},
		Foreign:   foreignMachine,
		Crash:     func(t testing.TB, id types.UID) { kill(t, "VBoxHeadless", string(id)) },
		Pause:     func(t testing.TB, id types.UID) { manage(t, "controlvm", string(id), "pause") },
		Undefine:  func(t testing.TB, id types.UID) { manage(t, "unregistervm", string(id)) },
		Tamper:    tamper,
		Audit:     h.audit,
		Interrupt: within,
		Installer: installerISO(t),
		Parallel:  3,
		Commands:  9, // more than the provider lets into a guest at a time
		Bulk:      bulk,
		Brief:     testing.Short(),
		Limits:    conformance.Limits{Boot: 10 * time.Minute, Call: 5 * time.Minute},
		Skip: map[conformance.Feature]string{
			conformance.Mode(v1.NetworkIntnet):   noDriver,
			conformance.Mode(v1.NetworkHostOnly): noDriver,
			conformance.Mode(v1.NetworkBridged):  noDriver,
			conformance.BrokenNetwork:            noDriver,

			conformance.Drifts(conformance.TamperNetwork):   noNetwork,
			conformance.DriftsOn(conformance.TamperNetwork): noNetwork,
			conformance.DriftsOn(conformance.TamperMemory):  locked,
			conformance.CPUs: "without its kernel driver VirtualBox lets several processors wait for each other: its firmware alone takes minutes",
		},
	})
}

// interrupt ends the goroutine that makes a call at its n-th step.
func interrupt(p *virtualbox.Provider, n int, call func()) (completed bool) {
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

// foreignMachine makes a machine that is somebody else's.
func foreignMachine(t testing.TB, id types.UID) func() string {
	t.Helper()
	manage(t, "createvm", "--name", "somebody-elses", "--uuid", string(id), "--ostype", "Linux_64", "--basefolder", t.TempDir(), "--register")
	t.Cleanup(func() { manage(t, "unregistervm", string(id), "--delete") })
	return func() string { return settingsOf(t, string(id)) }
}
