package providers

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// MachineSpec is everything that makes a machine, with defaults filled in.
type MachineSpec struct {
	// ID is the UID of the Sandbox and the machine's UUID on the hypervisor. The
	// machine that builds a GoldenImage has the image's UID.
	ID types.UID
	// Namespace and Name of the Sandbox. A GoldenImage is in no namespace: its
	// machine is connected to none or nat.
	Namespace, Name string
	// Image to clone; empty with Install, and for a machine whose disk an Install
	// has made.
	Image ImageRef
	// Snapshot to clone in place of the image; Image is the one that it lies on.
	Snapshot *SnapshotRef
	// Install, when set, boots an installer on an empty disk of DiskBytes, at
	// every start. Of a machine that was made with it and is ensured without, and
	// without an Image, the next start boots what was installed, and nothing of
	// the installer is left; ErrInvalid when nothing that boots was.
	Install *Install
	// CPUs is the number of virtual CPUs.
	CPUs int
	// MemoryBytes of the machine.
	MemoryBytes int64
	// DiskBytes the disk is grown to; 0 means the image's size, and less than
	// that is ErrInvalid.
	DiskBytes int64
	// Firmware to boot with.
	Firmware v1.Firmware
	// OSType hints at the guest's operating system.
	OSType string
	// Network to connect to. A HostPort of 0 asks for a free port.
	Network v1.Network
	// SharedFolders to offer. Host paths are resolved: absolute, below an
	// allowed root, no symlinks.
	SharedFolders []v1.SharedFolder
	// Seed for the guest's cloud-init.
	Seed Seed
	// DiscardOnStop makes every start begin from the image, or from the snapshot
	// that took its place.
	DiscardOnStop bool
}

// Install is an unattended installation of an operating system.
type Install struct {
	// ISO is the installer's image on the host: absolute, below an allowed root, no
	// symlinks. It is copied: EnsureMachine may take minutes the first time, and
	// whoever changes the file later changes nothing for the machine.
	ISO string
	// URL to download the installer from, in place of ISO.
	URL string
	// SHA256 that the installer must have, in lower-case hexadecimal; empty means
	// any. Another one is ErrInvalid with ReasonDigestMismatch.
	SHA256 string
	// Answers to the installer's questions.
	Answers v1.UnattendedInstall
	// Password of the user. Installers get a hash of it; where a hypervisor asks
	// for the password itself, it is written where only that reads it, and no
	// longer than it takes. It is no part of the Hashes.
	Password string
}

// Seed is what the guest's cloud-init is given.
type Seed struct {
	Hostname          string
	User              string
	SSHAuthorizedKeys []string
	UserData          string
	NetworkConfig     string
}

// Hashes identify the parts of a MachineSpec, to find out cheaply whether a
// machine was made from it. They are opaque.
type Hashes struct {
	// Hardware covers what takes effect at the next start: CPUs, memory, disk
	// size, firmware, shared folders, DiscardOnStop.
	Hardware string `json:"hardware"`
	// Network covers mode, name and bridge.
	Network string `json:"network"`
	// Forwards covers the port forwards.
	Forwards string `json:"forwards"`
	// Seed covers the seed.
	Seed string `json:"seed"`
}

// Hashes of the spec.
func (s MachineSpec) Hashes() Hashes {
	network := s.Network
	network.PortForwards = nil
	install := s.Install
	if install != nil {
		unspoken := *install
		unspoken.Password = "" // a hash of this kind would be easy to guess it by
		install = &unspoken
	}
	return Hashes{
		Hardware: hashOf(struct {
			CPUs              int
			Memory, Disk      int64
			Firmware          v1.Firmware
			OSType            string
			SharedFolders     []v1.SharedFolder
			DiscardOnStop     bool
			ImageUID, ImageRv string
			Snapshot          *SnapshotRef `json:",omitempty"`
			Install           *Install     `json:",omitempty"`
		}{
			s.CPUs, s.MemoryBytes, s.DiskBytes, s.Firmware, s.OSType, s.SharedFolders,
			s.DiscardOnStop, string(s.Image.UID), s.Image.Revision, s.Snapshot, install,
		}),
		Network:  hashOf(network),
		Forwards: hashOf(s.Network.PortForwards),
		Seed:     hashOf(s.Seed),
	}
}

// Power is a machine's power state as observed.
type Power string

// The observed power states.
const (
	// PowerOff: not running; OffReason says how it ended.
	PowerOff Power = "Off"
	// PowerRunning: the CPUs run.
	PowerRunning Power = "Running"
	// PowerPaused: in memory, CPUs halted: by a start that was interrupted,
	// by hand, or after an I/O error.
	PowerPaused Power = "Paused"
	// PowerSaved: memory and devices are saved on disk.
	PowerSaved Power = "Saved"
	// PowerStopping: the guest is shutting down.
	PowerStopping Power = "Stopping"
)

// OffReason says how a machine that is off came to be so.
type OffReason string

// The reasons for being off.
const (
	// OffNeverStarted since it was made, as far as the hypervisor knows.
	OffNeverStarted OffReason = "NeverStarted"
	// OffShutdown: the guest shut down.
	OffShutdown OffReason = "Shutdown"
	// OffDestroyed: somebody forced it off.
	OffDestroyed OffReason = "Destroyed"
	// OffCrashed: the guest or the hypervisor process died.
	OffCrashed OffReason = "Crashed"
	// OffUnknown: the hypervisor does not say, as after a reboot of the host.
	OffUnknown OffReason = "Unknown"
)

// AgentState is what is known of the guest's agent.
type AgentState string

// The states of a guest's agent.
const (
	// AgentUnknown: the hypervisor does not say, or an agent is connected and
	// does not answer.
	AgentUnknown AgentState = "Unknown"
	// AgentDisconnected: no agent is connected.
	AgentDisconnected AgentState = "Disconnected"
	// AgentConnected: an agent is connected and answered.
	AgentConnected AgentState = "Connected"
)

// NetworkObservation is what was seen of a machine's connections on the host.
type NetworkObservation struct {
	// Isolated is true only when every connection of the machine was looked at
	// and is defined as the spec asks, with the known leaks closed that the
	// hypervisor can close. There is nothing to look at while the machine is off.
	Isolated bool
	// Detail is one sentence: what was seen, or what is wrong.
	Detail string
	// Beyond says what the guest reaches all the same that its network mode rules
	// out, because the hypervisor cannot keep it from that; empty when the mode
	// holds. A machine of which it is said runs, and is not reported as isolated.
	Beyond string
}

// Machine is a machine as observed.
type Machine struct {
	ID    types.UID
	Power Power
	// OffReason is set while Power is PowerOff.
	OffReason OffReason
	// Hashes of the spec in effect: the running machine's while it runs (or is
	// paused or saved), the defined one's while it is off.
	Hashes Hashes
	// ImageRevision that the disk was cloned from.
	ImageRevision string
	// Network as seen on the host.
	Network NetworkObservation
	// Agent of the guest.
	Agent AgentState
	// Addresses of the guest that are known to be current.
	Addresses []v1.GuestAddress
	// PortForwards with their real host ports.
	PortForwards []v1.PortForward
	// Accelerator the machine runs with.
	Accelerator string
	// Drift is what others have changed of it, as far as it was looked at; in an
	// order that does not change by itself.
	Drift []Drift
}

// StopMode says how to stop.
type StopMode int

// The stop modes.
const (
	// StopGraceful asks the guest to shut down and returns; the guest may
	// ignore it.
	StopGraceful StopMode = iota
	// StopForce takes the power away and returns when the machine is off.
	StopForce
)

// Machines makes, runs and removes machines.
type Machines interface {
	// EnsureMachine makes the machine, its disk (a linked clone of the image),
	// seed and network, or brings those of a machine that is off to the spec.
	// An existing disk is kept (grown if the spec asks for more, never shrunk)
	// and stays on the image revision it was cloned from, also when the machine
	// itself was removed by others. Of a machine that is not off only the port
	// forwards are changed. ErrNotFound when the image is missing;
	// ErrAlreadyExists when a machine of that ID is not ours; ErrInvalid when
	// the spec cannot be met as it is written.
	//
	// A machine keeps the host ports of its forwards from here until it is
	// deleted or its spec drops the forward, over stops and new processes, and
	// they accept connections while it runs. A host port that is taken is
	// ErrBusy and named, and one that the spec itself names twice is ErrInvalid;
	// ErrCapacity when none is free.
	//
	// What others have changed of the machine (see Drift) is put right as far as
	// its remedy says that EnsureMachine does. Of a machine with a drift whose
	// remedy is RemedyNone nothing is changed: ErrInvalid, with the drift's reason.
	EnsureMachine(ctx context.Context, spec MachineSpec) error

	// GetMachine observes the machine, or returns ErrNotFound.
	GetMachine(ctx context.Context, id types.UID) (Machine, error)

	// Start brings the machine to PowerRunning from any state. The guest's
	// CPUs do not run before its network was seen to be isolated as defined:
	// if it is not, the machine is powered off again and an error returned.
	// ErrBusy while the guest is shutting down. ErrNotFound when there is no
	// such machine, here and in the methods below.
	Start(ctx context.Context, id types.UID) error

	// Stop powers the machine off, or asks for it. It is no error if it is
	// off already. A saved state is discarded by StopForce; StopGraceful
	// answers ErrBusy, because no guest runs that could be asked.
	Stop(ctx context.Context, id types.UID, mode StopMode) error

	// Suspend saves memory and devices to disk and returns when the machine is
	// PowerSaved, at once if it is so already. ErrUnsupported where its devices
	// do not allow it; ErrBusy when it is off.
	Suspend(ctx context.Context, id types.UID) error

	// Reset replaces the disk of a machine that is off, also one that is lost, by
	// a fresh clone of the image revision, or of the snapshot, it was made from, of the same size. Its
	// snapshots stay. ErrBusy when it is not off.
	Reset(ctx context.Context, id types.UID) error

	// DeleteMachine powers the machine off and removes it with its disk, seed,
	// saved state, console log and port forwards, and the network if nothing
	// else uses it. ErrNotFound when no trace of it is left: callers repeat
	// until then.
	DeleteMachine(ctx context.Context, id types.UID) error
}

// StopGrace is how long a guest may take to shut down before it is forced off.
const StopGrace = 60 * time.Second
