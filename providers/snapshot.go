package providers

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// SnapshotRef names a snapshot of a machine.
type SnapshotRef struct {
	// Machine is the UID of the Sandbox that it was taken of.
	Machine types.UID `json:"machine"`
	// ID is the UID of the SandboxSnapshot.
	ID types.UID `json:"id"`
}

// String formats the reference for messages.
func (r SnapshotRef) String() string { return string(r.Machine) + "/" + string(r.ID) }

// SnapshotSpec says what to take.
type SnapshotSpec struct {
	SnapshotRef
	// Namespace and Name of the SandboxSnapshot, for messages and for people who
	// look at the hypervisor.
	Namespace, Name string
	// Memory keeps memory and devices too; ErrBusy of a machine that is off.
	Memory bool
}

// Snapshot is a snapshot as observed.
type Snapshot struct {
	SnapshotRef
	// Image that the machine was cloned from.
	Image ImageRef
	// Memory: a revert brings the memory back.
	Memory bool
	// Frozen: the guest's file systems were held still, or the machine was off.
	Frozen bool
	// TakenAt is when the state was taken.
	TakenAt time.Time
	// Size on the host, in bytes: what is freed at most when it is deleted.
	Size int64
}

// Snapshots keeps states of machines. A snapshot never changes. It belongs to its
// machine: DeleteMachine takes all of its snapshots along, and is ErrBusy while
// another machine was forked from one.
type Snapshots interface {
	// TakeSnapshot keeps the state of the machine's disk and, if asked, of its
	// memory, and returns at once when it is there already. A machine that runs
	// goes on running; it may stand still meanwhile. With a guest agent its file
	// systems are frozen first and thawed after, also when the call was
	// interrupted and repeated. Interrupted, it leaves the machine's data as it
	// was, perhaps saved or paused (Start brings it back), and nothing that
	// GetSnapshot finds. ErrNotFound when there is no such machine; ErrBusy while
	// it is starting or shutting down; ErrUnsupported where the machine's devices
	// do not allow it; ErrInvalid for a snapshot that is there with another
	// Memory.
	TakeSnapshot(ctx context.Context, spec SnapshotSpec) (Snapshot, error)

	// GetSnapshot returns a snapshot or ErrNotFound.
	GetSnapshot(ctx context.Context, ref SnapshotRef) (Snapshot, error)

	// RevertMachine puts the machine back to one of its snapshots, from any power
	// state; what happened since is lost. The machine is PowerOff then or, after
	// a snapshot with memory, PowerSaved: Start goes on with it. Hardware that
	// was changed since the snapshot stays changed; a memory that does not fit it
	// is left out, which is no error. With DiscardOnStop, the next run begins with
	// the snapshot: with its disk, if its memory is discarded before it has run.
	// Interrupted, it leaves the machine off,
	// with either disk, and is to be repeated. ErrNotFound when there is no such
	// snapshot or machine.
	RevertMachine(ctx context.Context, ref SnapshotRef) error

	// DeleteSnapshot removes a snapshot. The machine and its other snapshots keep
	// their state, whatever the order in which they are deleted. ErrBusy while a
	// machine that was forked from it exists, and, where the hypervisor needs
	// the machine to be off for it, while that runs. ErrNotFound when there is
	// nothing (any more).
	DeleteSnapshot(ctx context.Context, ref SnapshotRef) error
}
