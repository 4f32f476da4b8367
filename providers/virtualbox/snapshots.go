package virtualbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// A snapshot is VirtualBox's own, so that VirtualBox itself knows what there is
// after any crash. One of a machine that is on has its memory, whether it was asked
// for or not; a revert leaves that out then.
//
// What VirtualBox's own way back would undo, such as changes of the hardware, stays:
// a revert only gives the machine a new disk on that of the snapshot, and the memory.

// longest bounds the calls that write a machine's memory, or copy between its disks.
const longest = time.Hour

func snapshotObject(ref providers.SnapshotRef) string { return "snapshot " + ref.String() }

func noSnapshot(ref providers.SnapshotRef) error {
	return providers.Errorf(providers.ErrNotFound, snapshotObject(ref), "it does not exist")
}

// TakeSnapshot implements providers.Snapshots.
func (p *Provider) TakeSnapshot(ctx context.Context, spec providers.SnapshotSpec) (taken providers.Snapshot, err error) {
	if !datafolder.IsUUID(spec.ID) {
		return taken, providers.Errorf(providers.ErrInvalid, snapshotObject(spec.SnapshotRef), "its ID is not a UUID")
	}
	err = p.withMachine(ctx, spec.Machine, func(m machine) error {
		all, err := p.statesOf(m.record)
		if err != nil {
			return err
		}
		s, there := find(all, spec.ID)
		if !there {
			if s, err = p.takeState(ctx, m, spec, all); err != nil {
				return err
			}
		}
		if s.note.Memory != spec.Memory {
			return providers.Errorf(providers.ErrInvalid, snapshotObject(spec.SnapshotRef), "it was taken before, %s: take another one", withOrWithout(s.note.Memory))
		}
		taken = p.snapshot(m.record, s)
		return nil
	})
	return taken, err
}

func withOrWithout(memory bool) string {
	if memory {
		return "with memory"
	}
	return "without memory"
}

// mayTake tells whether a snapshot of a machine can be taken now.
func mayTake(m machine, spec providers.SnapshotSpec) error {
	object := snapshotObject(spec.SnapshotRef)
	switch state := m.info["VMState"]; {
	case !m.whole():
		return providers.Errorf(providers.ErrBusy, object, "its machine is not configured to its end: ensure the machine again")
	case m.power == providers.PowerStopping:
		return providers.Errorf(providers.ErrBusy, object, "its machine is shutting down: take it once that is off")
	case m.power == providers.PowerOff && spec.Memory:
		return providers.Errorf(providers.ErrBusy, object, "its machine is off and has no memory that could be kept: start it, or take a snapshot without memory")
	case m.power == providers.PowerPaused && state != "paused", m.power == providers.PowerRunning && state != stateRunning:
		return providers.Errorf(providers.ErrBusy, object, "its machine is %s: take it once that has ended", state)
	}
	return nil
}

// takeState takes a snapshot. It is given its name last: until then it is a remnant.
func (p *Provider) takeState(ctx context.Context, m machine, spec providers.SnapshotSpec, before []state) (state, error) {
	if err := mayTake(m, spec); err != nil {
		return state{}, err
	}
	if err := p.diskThere(m); err != nil {
		return state{}, err
	}
	if now, err := p.dropRemnants(ctx, m, remnantsOf(before, spec.ID)); err == nil {
		m = now
	} else if !errors.Is(err, providers.ErrBusy) {
		return state{}, err
	}
	n := note{
		Instance: p.opts.Instance, ID: spec.ID, Memory: spec.Memory, Frozen: m.power == providers.PowerOff,
		Hardware: m.record.Hashes.Hardware, Network: m.record.Hashes.Network, Engine: m.record.Engine,
		TakenAt: time.Now().UTC().Truncate(time.Millisecond),
	}
	text, err := n.describe(spec)
	if err != nil {
		return state{}, err
	}
	if _, err := p.manage(ctx, m.id, longest, "snapshot", string(m.id), "take", remnantName+string(spec.ID), "--description", text); err != nil {
		return state{}, err
	}
	if m, err = p.noteDisk(ctx, m); err != nil {
		return state{}, err
	}
	all, err := p.statesOf(m.record)
	if err != nil {
		return state{}, err
	}
	i := slices.IndexFunc(all, func(s state) bool {
		return s.remnant() && s.note == n && !slices.ContainsFunc(before, func(b state) bool { return b.uuid == s.uuid })
	})
	if i < 0 {
		return state{}, providers.Errorf(providers.ErrUnavailable, snapshotObject(spec.SnapshotRef), "VirtualBox took it and does not show it: take it again")
	}
	s := all[i]
	s.name = snapshotName + string(spec.ID)
	_, err = p.manage(ctx, m.id, 0, "snapshot", string(m.id), "edit", s.uuid, "--name", s.name)
	return s, err
}

// noteDisk looks at a machine anew, whose disk may be another file by now, and notes
// which one.
func (p *Provider) noteDisk(ctx context.Context, m machine) (machine, error) {
	m, err := p.look(ctx, m.id)
	if err != nil {
		return m, err
	}
	disks := disksOf(m.info)
	if len(disks) == 0 || disks[0].path == m.record.Disk {
		return m, nil
	}
	m.record.Disk = disks[0].path
	return m, p.writeRecord(m.record)
}

// snapshot describes a snapshot.
func (p *Provider) snapshot(r record, s state) providers.Snapshot {
	out := providers.Snapshot{
		SnapshotRef: providers.SnapshotRef{Machine: r.ID, ID: s.note.ID}, Image: r.Image,
		Memory: s.note.Memory, Frozen: s.note.Frozen, TakenAt: s.note.TakenAt,
	}
	paths := []string{s.memory}
	if own, err := vdisIn(p.vmDir(r)); err == nil {
		for _, id := range s.disks {
			paths = append(paths, own[id].path)
		}
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			out.Size += files.Allocated(info)
		}
	}
	return out
}

// GetSnapshot implements providers.Snapshots. That VirtualBox has the machine is not
// looked at: its definition says what snapshots there are.
func (p *Provider) GetSnapshot(ctx context.Context, ref providers.SnapshotRef) (providers.Snapshot, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Snapshot{}, err
	}
	r, s, err := p.snapshotNamed(ref)
	if err != nil {
		return providers.Snapshot{}, err
	}
	return p.snapshot(r, s), nil
}

// snapshotNamed finds a snapshot of a machine of ours.
func (p *Provider) snapshotNamed(ref providers.SnapshotRef) (record, state, error) {
	if !datafolder.IsUUID(ref.Machine) || !datafolder.IsUUID(ref.ID) {
		return record{}, state{}, noSnapshot(ref)
	}
	r, err := p.readRecord(ref.Machine)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, state{}, noSnapshot(ref)
	case err != nil:
		return r, state{}, p.fileError(snapshotObject(ref), err)
	}
	all, err := p.statesOf(r)
	if err != nil {
		return r, state{}, err
	}
	s, there := find(all, ref.ID)
	if !there {
		return r, state{}, noSnapshot(ref)
	}
	return r, s, nil
}

// DeleteSnapshot implements providers.Snapshots. VirtualBox does not remove one on
// whose disk two others lie, nor one under a fork that runs. Such a one stays as a
// remnant, which nobody finds, until it can be removed.
func (p *Provider) DeleteSnapshot(ctx context.Context, ref providers.SnapshotRef) error {
	err := p.dropSnapshot(ctx, ref, false)
	var r remains
	if errors.As(err, &r) {
		providers.Logger(ctx, p.log).Info("a snapshot stays until VirtualBox can remove it", "snapshot", ref.String(), "reason", r.Error())
		if r.was {
			return nil
		}
		return noSnapshot(ref)
	}
	return err
}

// remains: what is left of a snapshot cannot be removed now.
type remains struct {
	error
	was bool // the snapshot was there before
}

func (r remains) Unwrap() error { return r.error }

// dropSnapshot removes a snapshot and what is left of it, or only the latter.
func (p *Provider) dropSnapshot(ctx context.Context, ref providers.SnapshotRef, onlyRemnants bool) error {
	if !datafolder.IsUUID(ref.ID) {
		return noSnapshot(ref)
	}
	return p.withMachine(ctx, ref.Machine, func(m machine) error {
		all, err := p.statesOf(m.record)
		if err != nil {
			return err
		}
		s, there := find(all, ref.ID)
		there = there && !onlyRemnants
		left := remnantsOf(all, ref.ID)
		if !there && len(left) == 0 {
			return noSnapshot(ref)
		}
		if forks, err := p.forksOf(ref.Machine, ref.ID); err != nil || len(forks) > 0 {
			return forked(snapshotObject(ref), forks, err)
		}
		if there {
			if _, err := p.manage(ctx, m.id, 0, "snapshot", string(m.id), "edit", s.uuid, "--name", remnantName+string(ref.ID)); err != nil {
				return err
			}
			left = append(left, s)
		}
		if err = p.closeStrays(ctx, m.record, m); err == nil {
			_, err = p.dropRemnants(ctx, m, left)
		}
		if err != nil && ctx.Err() == nil {
			return remains{err, there}
		}
		if err == nil {
			p.dropOthers(ctx, m)
		}
		return err
	})
}

// dropRemnants removes what is left of snapshots, and looks at the machine again.
func (p *Provider) dropRemnants(ctx context.Context, m machine, left []state) (machine, error) {
	for _, s := range left {
		if err := p.removable(m.record, s); err != nil {
			return m, err
		}
		if _, err := p.manage(ctx, m.id, longest, "snapshot", string(m.id), "delete", s.uuid); p.ignoreMissing(err) != nil {
			return m, err
		}
		var err error
		if m, err = p.noteDisk(ctx, m); err != nil {
			return m, err
		}
	}
	return m, nil
}

// dropOthers removes the remnants that can be removed by now.
func (p *Provider) dropOthers(ctx context.Context, m machine) {
	all, err := p.statesOf(m.record)
	for _, s := range all {
		if err == nil && s.remnant() {
			_, err = p.dropRemnants(ctx, m, []state{s})
			if errors.Is(err, errChildren) {
				err = nil
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		providers.Logger(ctx, p.log).V(1).Info("what is left of a snapshot stays", "machine", m.id, "reason", err.Error())
	}
}

// errChildren: several disks lie on a snapshot's.
var errChildren = errors.New("several disks lie on its own")

// removable tells whether VirtualBox can remove a snapshot: no more than one disk
// lies on each of its disks, and the data can go there.
func (p *Provider) removable(r record, s state) error {
	object := snapshotObject(providers.SnapshotRef{Machine: r.ID, ID: s.note.ID})
	forks, err := p.forksOf(r.ID, s.note.ID)
	if err != nil || len(forks) > 0 {
		return forked(object, forks, err)
	}
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return p.fileError(object, err)
	}
	for _, id := range s.disks {
		children := 0
		for _, v := range own {
			if v.parent == id {
				children++
			}
		}
		if children > 1 {
			return providers.Errorf(providers.ErrBusy, object, "%w, whose machine was put back to it: it is removed once they are gone", errChildren)
		}
	}
	return nil
}

// forksOf names the machines that were forked from a snapshot, or from any of a
// machine. Their records are asked: they exist before a fork does and may outlive it.
func (p *Provider) forksOf(origin, snapshot types.UID) ([]string, error) {
	ids, err := p.data.machineIDs()
	if err != nil {
		return nil, p.fileError(machineObject(origin), err)
	}
	var forks []string
	for _, id := range ids {
		r, err := p.readRecord(id)
		if hostRefused(err) {
			return nil, p.fileError(machineObject(id), err)
		}
		if err != nil || r.Snapshot == nil || r.Snapshot.Machine != origin || snapshot != "" && r.Snapshot.ID != snapshot {
			continue
		}
		forks = append(forks, fmt.Sprintf("%s/%s (%s)", r.Namespace, r.Name, id))
	}
	return forks, nil
}

// forked refuses to remove what was forked.
func forked(object string, forks []string, err error) error {
	if err != nil {
		return err
	}
	return providers.Errorf(providers.ErrBusy, object, "%d machines were forked from it, and lie on its disk: delete %s first", len(forks), strings.Join(forks[:min(len(forks), 5)], ", "))
}
