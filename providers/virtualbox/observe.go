package virtualbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// errForeign: VirtualBox has a machine of that UUID, and it is not ours.
var errForeign = errors.New("made by somebody else")

// VirtualBox's words for a machine's state that are compared with.
const (
	statePoweroff = "poweroff"
	stateSaved    = "saved"
	stateRunning  = "running"
)

// At work on the disks of a machine that is off or saved.
const (
	stateDeleting     = "deletingsnapshot"
	stateSnapshotting = "snapshotting"
)

var atDisks = []string{stateDeleting, stateSnapshotting}

// machine is what VirtualBox and the record say of a machine.
type machine struct {
	id     types.UID
	power  providers.Power
	off    providers.OffReason
	record record
	info   vboxmanage.Info
	asked  time.Time // when VirtualBox was asked: it was so then, or a little later
}

// on tells whether the machine's process exists.
func (m machine) on() bool {
	return m.power == providers.PowerRunning || m.power == providers.PowerPaused || m.power == providers.PowerStopping
}

// once tells whether the machine was made to the end, be it from another spec.
func (m machine) once() bool { return m.whole() || m.record.MemoryBytes != 0 }

// whole tells whether the machine is what its record says: not on its way from
// one spec to the next.
func (m machine) whole() bool { return m.record.Hashes != providers.Hashes{} }

// look asks VirtualBox about a machine. One that is not ours is errForeign, which
// is also ErrNotFound.
func (p *Provider) look(ctx context.Context, id types.UID) (machine, error) {
	object := machineObject(id)
	if !datafolder.IsUUID(id) {
		return machine{}, providers.Errorf(providers.ErrNotFound, object, "the ID is not a UUID, so there is no such machine")
	}
	asked := time.Now()
	info, err := p.vbox.Show(ctx, object, string(id))
	if err != nil {
		return machine{}, err
	}
	m := machine{id: id, info: info, asked: asked}
	m.record, err = p.readRecord(id)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return machine{}, p.fileError(object, err)
	case err != nil || !within(p.data.MachineDir(id), m.info["CfgFile"]):
		return machine{}, providers.Errorf(providers.ErrNotFound, object, "VirtualBox's machine of that UUID was %w", errForeign)
	}
	m.power, m.off = power(m.info["VMState"])
	switch state := m.info["VMState"]; {
	case m.power == "":
		return machine{}, providers.Errorf(providers.ErrUnavailable, object, "VirtualBox says that it is %s, which is no state that sandboxd knows", shown(state))
	case slices.Contains(atDisks, state) && m.info["VMStateFile"] != "":
		m.power = providers.PowerSaved
	case m.power == providers.PowerOff && (m.off == "" || m.record.Forced):
		m.off = p.offReason(m)
	}
	return m, nil
}

// power translates VirtualBox's state of a machine, and is empty for one that is none.
// How one came to be powered off, VirtualBox does not say.
func power(state string) (providers.Power, providers.OffReason) {
	switch state {
	case stateRunning, "livesnapshotting", "onlinesnapshotting", "deletingsnapshotlive", "teleporting":
		return providers.PowerRunning, ""
	case "paused", "gurumeditation", "starting", "restoring", "saving", "teleportingpausedvm", "teleportingin",
		"deletingsnapshotlivepaused":
		return providers.PowerPaused, ""
	case "stopping":
		return providers.PowerStopping, ""
	case stateSaved, "abortedsaved", "aborted-saved":
		return providers.PowerSaved, ""
	case "aborted":
		return providers.PowerOff, providers.OffCrashed
	case statePoweroff, "teleported", "restoringsnapshot", stateDeleting, stateSnapshotting, "settingup":
		return providers.PowerOff, ""
	default:
		return "", ""
	}
}

// offReason says how a machine that VirtualBox calls powered off came to be so:
// it has a log once it was started, we note when we take the power away, and a
// process that came to its end in good order has logged that last.
func (p *Provider) offReason(m machine) providers.OffReason {
	tail, err := readTail(p.logOf(m.record), logTail)
	switch {
	case m.record.Forced:
		return providers.OffDestroyed
	case errors.Is(err, fs.ErrNotExist):
		return providers.OffNeverStarted
	case err != nil:
		return providers.OffUnknown
	case endedInOrder.Match(tail):
		return providers.OffShutdown
	default: // with VBoxSVC, for one; VirtualBox forgets that it ran
		return providers.OffCrashed
	}
}

// logTail is how much of a machine's log is searched for its end, in bytes.
const logTail = 16 << 10

var endedInOrder = regexp.MustCompile(`(?m)^[0-9:.]+ Console: Machine state changed to 'PoweredOff'`)

// readTail reads so many bytes at the end of a file, or all that there are.
func readTail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(io.NewSectionReader(f, max(0, info.Size()-n), n), n))
}

// GetMachine implements providers.Machines.
func (p *Provider) GetMachine(ctx context.Context, id types.UID) (providers.Machine, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Machine{}, err
	}
	unlock, idle := p.locks.TryShare(machineObject(id))
	if idle {
		defer unlock()
	}
	m, justSeen := p.watch.take(id)
	if !justSeen {
		var err error
		if m, err = p.look(ctx, id); err != nil {
			if errors.Is(err, providers.ErrNotFound) {
				p.drifts.note(id, nil)
			}
			return providers.Machine{}, err
		}
	}
	out := providers.Machine{
		ID: id, Power: m.power, OffReason: m.off, Hashes: m.record.Hashes,
		ImageRevision: m.record.Image.Revision, PortForwards: m.record.Network.PortForwards,
		Accelerator: accelerator(m.record.Engine), Agent: providers.AgentDisconnected,
	}
	if idle { // else what is seen is on its way from one state to another
		p.drifts.note(id, p.drifted(m))
	}
	out.Drift = p.drifts.of(id)
	out.Network = p.observeNetwork(m)
	if m.power == providers.PowerOff {
		if isolated, detail := p.isolated(m); !isolated {
			// What the record says is not what VirtualBox has: whoever compares hashes
			// will ensure the machine again.
			out.Network.Detail, out.Hashes = "the machine is off; "+detail, providers.Hashes{}
		}
	}
	if m.power == providers.PowerRunning {
		if m.record.Starting {
			// The start was cut off: whoever compares hashes will ensure the machine,
			// which confirms it.
			out.Hashes.Forwards = ""
		}
		out.Agent = agentOf(m)
		out.Addresses = p.addresses(ctx, m)
		if out.Agent == providers.AgentConnected {
			p.watch.seen(m)
		}
	}
	return out, nil
}

// observeNetwork judges a machine's network while there is something to look at.
func (p *Provider) observeNetwork(m machine) providers.NetworkObservation {
	if m.power == providers.PowerOff {
		return providers.NetworkObservation{Detail: "the machine is off"}
	}
	isolated, detail := p.isolated(m)
	seen := providers.NetworkObservation{Isolated: isolated, Detail: detail}
	if isolated {
		seen.Beyond = beyond(m.record.Network.Mode)
	}
	return seen
}

// agentLevel is the run level of the Guest Additions from which on their
// services answer ("userland").
const agentLevel = 2

// agentOf tells whether a running machine's Guest Additions are up. Their run
// level is the machine's, and does not outlive its process.
func agentOf(m machine) providers.AgentState {
	if level, err := strconv.Atoi(m.info["GuestAdditionsRunLevel"]); err == nil && level >= agentLevel {
		return providers.AgentConnected
	}
	return providers.AgentDisconnected
}

// since is when a machine came into its present state.
func (m machine) since() time.Time {
	t, _ := time.Parse("2006-01-02T15:04:05.999999999", m.info["VMStateChangeTime"])
	return t
}
