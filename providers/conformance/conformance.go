// Package conformance proves that a provider keeps the contract of package
// providers, against whatever hypervisor it drives.
//
//	Run ── opens a provider ──▶ Images, Sources,
//	         │                  Machines, Power           no guest is waited for
//	         │                  Guest                     one running guest, shared
//	         │                  State                     one guest, started anew a few times
//	         │                  Timeline                  one guest and a fork of it
//	         │                  Networks, Drift, Forwards, Snapshots, Forks, Promotion,
//	         │                  Disks, Install, Inventory, Ownership,
//	         │                  Cancellation, Crashes, Parallel
//	         └── at the end ──▶ Audit: nothing is left on the hypervisor
//
// Every subtest is named after the sentence that it proves, and runs alone with
// -run as well, but for the steps of State, which are one story. What is asserted is the state of the world as the provider, the
// guest and the host show it, never that something was called.
//
// Besides what a subtest looks at itself, every error of every call must have
// exactly one kind and be one sentence, and every machine that was observed must
// make sense, and have no drift unless a subtest tampers with it.
//
// The guest needs a POSIX sh, cat, hostname, id, kill, ls, mkdir, mount,
// sha256sum, sleep and sync, a serial console at /dev/console and, where it has
// a network, a service that greets.
package conformance

import (
	"context"
	"net"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Feature is something that not every backend can show.
type Feature string

// The features. Each network mode is one, too: see Mode.
const (
	// Suspend and go on from a saved state.
	Suspend Feature = "suspend"
	// GracefulStop: the guest shuts down when it is asked to.
	GracefulStop Feature = "graceful stop"
	// Console: the guest writes to a serial console.
	Console Feature = "console"
	// GuestKeys: ssh keys can be set inside the guest.
	GuestKeys Feature = "guest keys"
	// SharedFolders can be mounted in the guest.
	SharedFolders Feature = "shared folders"
	// PortForwards lead into the guest.
	PortForwards Feature = "port forwards"
	// Growth: the guest sees that its disk has grown.
	Growth Feature = "growth"
	// CPUs: a guest may have more than one.
	CPUs Feature = "cpus"
	// Outside: Crash, Pause and Undefine can be played.
	Outside Feature = "outside"
	// Snapshots of machines, and forks of them.
	Snapshots Feature = "snapshots"
	// MemorySnapshots: a snapshot may keep the memory.
	MemorySnapshots Feature = "memory snapshots"
	// Promotion: an image can be made of the disk of a machine.
	Promotion Feature = "promotion"
	// ReadDisks: disks can be opened.
	ReadDisks Feature = "read disks"
	// Install: an installer can install a system.
	Install Feature = "install"
	// BrokenNetwork: BreakNetwork can be played.
	BrokenNetwork Feature = "broken network"
)

// Tampering is a change of a machine behind our back.
type Tampering string

// The tamperings.
const (
	// TamperMemory changes the memory that the machine is defined with.
	TamperMemory Tampering = "memory"
	// TamperCPUs changes the number of CPUs that it is defined with.
	TamperCPUs Tampering = "cpus"
	// TamperName renames it.
	TamperName Tampering = "name"
	// TamperNIC defines its network card to be connected elsewhere, or adds one
	// that leads to the host; of a machine that is on, it is so now.
	TamperNIC Tampering = "network card"
	// TamperDisk defines another disk in place of its own.
	TamperDisk Tampering = "disk"
	// TamperDevice adds a device that we never give: one for USB, audio or a
	// clipboard.
	TamperDevice Tampering = "device"
	// TamperDiskFile removes the file of its disk.
	TamperDiskFile Tampering = "disk file"
	// TamperSnapshot takes a snapshot of it by hand.
	TamperSnapshot Tampering = "snapshot"
	// TamperNetwork removes the network that it is connected to.
	TamperNetwork Tampering = "network"
)

// Drifts is the feature of seeing and mending a tampering with a machine that is
// off.
func Drifts(how Tampering) Feature { return Feature("drift of " + how) }

// DriftsOn is the same of a machine that is on.
func DriftsOn(how Tampering) Feature { return Feature("drift of " + how + " while on") }

// Mode is the feature of starting a machine in a network mode.
func Mode(m v1.NetworkMode) Feature { return Feature("network mode " + m) }

// Backend is a hypervisor to run the suite against.
type Backend struct {
	// Open opens the provider for an instance, as a new process of the daemon
	// would: on the same hypervisor and, for the same instance, the same data
	// folder each time. The suite closes it.
	Open func(t testing.TB, instance providers.Instance) providers.Provider

	// Image is a disk file that boots to a guest as the package comment asks
	// for.
	Image v1.DiskSource
	// Idle is a disk file with which a machine runs and does nothing, for the
	// tests that wait for no guest: where processors are emulated, a guest that
	// boots takes the time of all others. Without a path Image serves.
	Idle v1.DiskSource
	// Installer of a system, for Install.
	Installer Installer
	// Hardware of the machines: CPUs, MemoryBytes, Firmware and OSType.
	Hardware providers.MachineSpec
	// User of the guest whose ssh keys are set; empty means root.
	User string
	// OtherUser is another user of the guest.
	OtherUser string
	// RootDisk is the name of the machine's disk in the guest's /sys/block;
	// empty means vda.
	RootDisk string
	// Service that the guest offers where it has a network.
	Service Service
	// Bridge of the host, for mode bridged.
	Bridge string

	// Folder makes a directory of the host that the hypervisor may read and
	// write, gone after the test; nil means t.TempDir.
	Folder func(t testing.TB) string
	// Dial connects to a host port; nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Occupy makes a program of the host listen on a free TCP port of 127.0.0.1
	// until the test ends; nil means that the test listens.
	Occupy func(t testing.TB) (port int32)

	// Foreign makes a machine that is not ours and has the given UUID, gone
	// after the test. It returns what tells how the machine is, in full.
	Foreign func(t testing.TB, id types.UID) (describe func() string)
	// Crash ends a machine as if its process had died.
	Crash func(t testing.TB, id types.UID)
	// Pause halts the CPUs of a running machine.
	Pause func(t testing.TB, id types.UID)
	// BreakNetwork changes the network of a machine that is on, behind our back,
	// so that it is not connected as its spec says.
	BreakNetwork func(t testing.TB, id types.UID)
	// Undefine makes the hypervisor forget a machine that is off and leaves its
	// disk where it is.
	Undefine func(t testing.TB, id types.UID)
	// Tamper changes a machine, behind our back, in one of the ways that are not
	// skipped, and returns when it is changed; the machine is off, or on where
	// DriftsOn is not skipped: with the memory, the network card, the network, the
	// disk file and a snapshot. It may be called again once that was put back. What
	// others put there is gone after the test.
	Tamper func(t testing.TB, id types.UID, how Tampering)
	// Audit lists what is on the hypervisor, in its data folders and among the
	// host's processes, networks and ports that was not there before Run. It is
	// asked once everything was deleted.
	Audit func(t testing.TB) []string

	// Interrupt runs call and cuts it off at the n-th of its inner steps,
	// counted from 1, as a crash of the process would; completed tells that it
	// had fewer steps. nil when the provider offers no such means.
	Interrupt func(n int, call func()) (completed bool)

	// Skip says of features why they cannot be shown here.
	Skip map[Feature]string
	// Parallel is how many machines run at the same time; 0 means 4.
	Parallel int
	// Commands is how many commands run in a guest at the same time; 0 means 50.
	Commands int
	// Brief leaves out what takes many commands in a guest and shows details, for
	// guests that are slow. The whole suite is to be run from time to time.
	Brief bool
	// Bulk is how many bytes large inputs, outputs and files have; 0 means 1 MiB.
	Bulk int
	// Limits stop what hangs. Nothing fails for being slow below them.
	Limits Limits
}

// Service is a TCP service of a guest.
type Service struct {
	Port int32
	// Greeting that it sends first, or the beginning of it.
	Greeting string
}

// Limits of time. Zero values mean the defaults, which suit emulated guests on
// a busy machine.
type Limits struct {
	// Boot of a guest until its agent is connected, or its shutdown: 10 minutes.
	Boot time.Duration
	// Call of a method, and everything else that is waited for: 5 minutes.
	Call time.Duration
}

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	s := newSuite(t, b)
	t.Run("Probe", s.testProbe)
	t.Run("Images", s.testImages)
	t.Run("Sources", s.testSources)
	t.Run("Machines", s.testMachines)
	t.Run("Power", s.testPower)
	t.Run("Guest", s.testGuest)
	t.Run("State", s.testState)
	t.Run("Networks", s.testNetworks)
	t.Run("Drift", s.testDrift)
	t.Run("Forwards", s.testForwards)
	t.Run("Snapshots", s.testSnapshots)
	t.Run("Forks", s.testForks)
	t.Run("Timeline", s.testTimeline)
	t.Run("Promotion", s.testPromotion)
	t.Run("Disks", s.testDisks)
	t.Run("Install", s.testInstall)
	t.Run("Inventory", s.testInventory)
	t.Run("Ownership", s.testOwnership)
	t.Run("Cancellation", s.testCancellation)
	t.Run("Crashes", s.testCrashes)
	t.Run("Parallel", s.testParallel)
}

func (s *suite) testProbe(t *testing.T) {
	info, err := s.p.Probe(s.ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Version == "" || info.Accelerator == "" {
		t.Errorf("the hypervisor says too little of itself: %+v", info)
	}
}
