package fake_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
	"sandboxd.dev/sandboxd/providers/fake"
)

// downloadStall is how long servers that stall are waited for.
const downloadStall = 2 * time.Second

func TestConformance(t *testing.T) {
	w := fake.NewWorld(fake.Options{
		Bridges: []string{"br0"}, DownloadStall: downloadStall,
		Latency: fake.Latency{
			Step: 300 * time.Microsecond, Import: 10 * time.Millisecond,
			Boot: 5 * time.Millisecond, Shutdown: 5 * time.Millisecond,
		},
	})
	path, sum := goldenFile(t)
	play := func(f func(types.UID) error) func(testing.TB, types.UID) {
		return func(t testing.TB, id types.UID) {
			t.Helper()
			if err := f(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	conformance.Run(t, conformance.Backend{
		Open: func(_ testing.TB, instance providers.Instance) providers.Provider {
			return fake.New(w, v1.ProviderKVM, instance)
		},
		Image:     v1.DiskSource{Path: path, SHA256: sum},
		Installer: conformance.Installer{Path: path, SHA256: sum, Boots: true},
		Hardware:  providers.MachineSpec{CPUs: 1, MemoryBytes: 128 << 20, Firmware: v1.FirmwareBIOS},
		OtherUser: "nobody",
		Service:   conformance.Service{Port: 22, Greeting: "SSH-2.0-"},
		Bridge:    "br0",
		Dial:      w.DialContext,
		Occupy:    func(t testing.TB) int32 { return occupy(t, w) },
		Foreign:   func(t testing.TB, id types.UID) func() string { return foreign(t, w, id) },
		Crash:     play(w.Crash),
		Pause:     play(w.Pause),
		Undefine:  play(w.Undefine),
		BreakNetwork: play(func(id types.UID) error {
			return w.SetNetworkFault(id, "its interface was moved to another bridge")
		}),
		Tamper:    func(t testing.TB, id types.UID, how conformance.Tampering) { tamper(t, w, id, how) },
		Audit:     func(testing.TB) []string { return w.Inventory() },
		Interrupt: func(n int, call func()) bool { return interrupt(w, n, call) },
		Parallel:  32,
		Limits:    conformance.Limits{Boot: time.Minute, Call: time.Minute},
	})
}

// tamper changes a machine by hand.
func tamper(t testing.TB, w *fake.World, id types.UID, how conformance.Tampering) {
	t.Helper()
	err := map[conformance.Tampering]func() error{
		conformance.TamperMemory:   func() error { return w.EditMemory(id, 512<<20) },
		conformance.TamperCPUs:     func() error { return w.EditCPUs(id, 7) },
		conformance.TamperName:     func() error { return w.Rename(id, "mine") },
		conformance.TamperNIC:      func() error { return w.MoveCard(id, "eth0") },
		conformance.TamperDisk:     func() error { return w.SwapDisk(id, "/tmp/mine.qcow2") },
		conformance.TamperDevice:   func() error { return w.AddDevice(id, "usb controller") },
		conformance.TamperDiskFile: func() error { return w.RemoveDiskFile(id) },
		conformance.TamperSnapshot: func() error { return w.TakeSnapshotByHand(id) },
		conformance.TamperNetwork:  func() error { return w.RemoveNetworkOf(id) },
	}[how]()
	if err != nil {
		t.Fatal(err)
	}
}

// goldenFile writes a qcow2 file with a header that tells a disk of 256 MiB.
func goldenFile(t *testing.T) (path, sum string) {
	t.Helper()
	b := make([]byte, 3<<20)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint32(b[20:], 16) // bits of a cluster
	binary.BigEndian.PutUint32(b[100:], 104)
	binary.BigEndian.PutUint64(b[24:], 256<<20)
	path = filepath.Join(t.TempDir(), "golden.qcow2")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(b)
	return path, hex.EncodeToString(digest[:])
}

func occupy(t testing.TB, w *fake.World) int32 {
	t.Helper()
	port, err := w.OccupyPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.ReleasePort(port) })
	return port
}

func foreign(t testing.TB, w *fake.World, id types.UID) func() string {
	t.Helper()
	if err := w.AddForeign(id, "somebody else's"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.RemoveForeign(id); err != nil {
			t.Error(err)
		}
	})
	return func() string {
		return strings.Join(slices.DeleteFunc(w.Inventory(), func(line string) bool {
			return !strings.Contains(line, string(id))
		}), "\n")
	}
}

// interrupt ends the goroutine that makes a call at its n-th step.
func interrupt(w *fake.World, n int, call func()) (completed bool) {
	steps := 0
	w.OnStep(func(fake.Step) {
		if steps++; steps == n {
			runtime.Goexit()
		}
	})
	defer w.OnStep(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		call()
		completed = true
	}()
	<-done
	return completed
}
