package virtualbox_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
)

// noDriver is why some network modes cannot be shown without the kernel driver.
const noDriver = "VirtualBox starts no machine with such a card without its kernel driver; its configuration is tested on its own"

func TestConformance(t *testing.T) {
	h := newHost(t)
	conformance.Run(t, conformance.Backend{
		Open: func(_ testing.TB, i providers.Instance) providers.Provider {
			return h.open(t, i)
		},
		Image:     guestImage(t),
		Hardware:  providers.MachineSpec{CPUs: 1, MemoryBytes: 128 << 20, Firmware: v1.FirmwareBIOS},
		OtherUser: "sandbox",
		RootDisk:  "sda",
		Service:   conformance.Service{Port: 22, Greeting: "SSH-2.0-"},
		Foreign:   foreignMachine,
		Crash:     func(t testing.TB, id types.UID) { kill(t, "VBoxHeadless", string(id)) },
		Pause:     func(t testing.TB, id types.UID) { manage(t, "controlvm", string(id), "pause") },
		Undefine:  func(t testing.TB, id types.UID) { manage(t, "unregistervm", string(id)) },
		Audit:     h.audit,
		Parallel:  3,
		Limits:    conformance.Limits{Boot: 10 * time.Minute, Call: 5 * time.Minute},
		Skip: map[conformance.Feature]string{
			conformance.Mode(v1.NetworkIntnet):   noDriver,
			conformance.Mode(v1.NetworkHostOnly): noDriver,
			conformance.Mode(v1.NetworkBridged):  noDriver,
			conformance.BrokenNetwork:            noDriver,
		},
	})
}

// foreignMachine makes a machine that is somebody else's.
func foreignMachine(t testing.TB, id types.UID) func() string {
	t.Helper()
	manage(t, "createvm", "--name", "somebody-elses", "--uuid", string(id), "--ostype", "Linux_64", "--basefolder", t.TempDir(), "--register")
	t.Cleanup(func() { manage(t, "unregistervm", string(id), "--delete") })
	return func() string { return manage(t, "showvminfo", string(id), "--machinereadable") }
}
