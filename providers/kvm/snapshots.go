//go:build linux

package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// snapshotFile is what a snapshot's file says.
type snapshotFile struct {
	Instance  providers.Instance `json:"instance"`
	Namespace string             `json:"namespace"`
	Name      string             `json:"name"`
	// Layer of its machine that holds the disk.
	Layer    int                `json:"layer"`
	Snapshot providers.Snapshot `json:"snapshot"`
}

func (f snapshotFile) place() place { return place{f.Snapshot.Machine, f.Layer} }

// layersLock is held by who changes the layers of a machine or removes what
// names them, and shared by who reads or forks them. It is taken after the lock
// of the machine.
func layersLock(id types.UID) string { return "layers of " + string(id) }

func snapshotObject(r providers.SnapshotRef) string { return "snapshot " + r.String() }

func errNoSnapshot(r providers.SnapshotRef) error {
	return providers.Errorf(providers.ErrNotFound, snapshotObject(r), "it does not exist")
}

// GetSnapshot implements providers.Snapshots.
func (p *Provider) GetSnapshot(ctx context.Context, ref providers.SnapshotRef) (providers.Snapshot, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Snapshot{}, err
	}
	f, err := p.readSnapshot(ref)
	if err != nil {
		return providers.Snapshot{}, err
	}
	f.Snapshot.Size, err = p.sizeOf(f.Snapshot, f.place())
	return f.Snapshot, p.fileError(snapshotObject(ref), err)
}

// sizeOf is what the files of a snapshot take. It grows when another layer is
// merged into its own.
func (p *Provider) sizeOf(s providers.Snapshot, at place) (size int64, err error) {
	paths := []string{p.data.layer(at)}
	if s.Memory {
		paths = append(paths, p.data.snapshotMemory(s.SnapshotRef))
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if err == nil {
			size += files.Allocated(info)
		}
	}
	return size, nil
}

// readSnapshot reads a snapshot, or returns ErrNotFound. A file that is damaged
// makes no snapshot, and neither does one whose layer is gone.
func (p *Provider) readSnapshot(ref providers.SnapshotRef) (snapshotFile, error) {
	var f snapshotFile
	if !datafolder.IsUUID(ref.Machine) || !datafolder.IsUUID(ref.ID) {
		return f, errNoSnapshot(ref)
	}
	b, err := os.ReadFile(p.data.snapshot(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return f, errNoSnapshot(ref)
	}
	if err != nil {
		return f, p.fileError(snapshotObject(ref), err)
	}
	if json.Unmarshal(b, &f) != nil || f.Instance != p.opts.Instance || f.Snapshot.SnapshotRef != ref || f.Layer < 1 {
		return snapshotFile{}, providers.Errorf(providers.ErrNotFound, snapshotObject(ref), "its file %s is damaged", p.data.snapshot(ref))
	}
	if !files.Exists(p.data.layer(f.place())) {
		return snapshotFile{}, providers.Errorf(providers.ErrNotFound, snapshotObject(ref), "its layer %s is gone", p.data.layer(f.place()))
	}
	return f, nil
}

// snapshotsOf lists the snapshots of a machine.
func (p *Provider) snapshotsOf(id types.UID) ([]snapshotFile, error) {
	entries, err := os.ReadDir(p.data.snapshots(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []snapshotFile
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		f, err := p.readSnapshot(providers.SnapshotRef{Machine: id, ID: types.UID(name)})
		if err == nil {
			list = append(list, f)
		} else if !errors.Is(err, providers.ErrNotFound) {
			return nil, err
		}
	}
	return list, nil
}

// TakeSnapshot implements providers.Snapshots.
//
//	off ─────────────────────────────────────────────▶ disk becomes a layer ──▶ SNAPSHOT.json
//	on  ──freeze──▶ saved in the machine's folder ───▶ the same              ──▶ restored, looked at, runs, thawed
//
// A machine that is cut off in the middle is off or saved, as its files say.
func (p *Provider) TakeSnapshot(ctx context.Context, spec providers.SnapshotSpec) (got providers.Snapshot, err error) {
	err = p.withMachine(ctx, spec.Machine, func(m machine) error {
		if !datafolder.IsUUID(spec.ID) {
			return providers.Errorf(providers.ErrInvalid, snapshotObject(spec.SnapshotRef), "its ID is not a UUID in lower-case hexadecimal")
		}
		had, err := p.readSnapshot(spec.SnapshotRef)
		switch {
		case err == nil && had.Snapshot.Memory != spec.Memory:
			return providers.Errorf(providers.ErrInvalid, snapshotObject(spec.SnapshotRef),
				"it was taken with memory: %t, and cannot become one with memory: %t", had.Snapshot.Memory, spec.Memory)
		case err == nil:
			got = had.Snapshot
			return p.thaw(ctx, m)
		case !errors.Is(err, providers.ErrNotFound):
			return err
		}
		if err := canTake(m, spec); err != nil {
			return err
		}
		if err := p.unshared(ctx, m); err != nil {
			return err
		}
		got, err = p.take(ctx, m, spec)
		return err
	})
	if err != nil {
		return providers.Snapshot{}, err
	}
	return got, nil
}

func canTake(m machine, spec providers.SnapshotSpec) error {
	switch {
	case m.power == providers.PowerStopping:
		return providers.Errorf(providers.ErrBusy, machineObject(m.id), "the guest is shutting down: take the snapshot once it is off")
	case spec.Memory && m.power == providers.PowerOff:
		return providers.Errorf(providers.ErrBusy, machineObject(m.id),
			"it is off and has no memory to keep: start it, or take the snapshot without memory")
	}
	return nil
}

// take takes a snapshot of a machine in a state that allows it.
func (p *Provider) take(ctx context.Context, m machine, spec providers.SnapshotSpec) (providers.Snapshot, error) {
	var none providers.Snapshot
	was := m
	if err := p.collect(m.id); err != nil {
		return none, err
	}
	if err := p.roomForLayer(m.id); err != nil {
		return none, err
	}
	if m.managed { // saved by Suspend: it is saved anew where its memory can be kept
		if err := p.powerOn(ctx, m); err != nil {
			return none, err
		}
		m.power, m.managed = providers.PowerPaused, false
	}
	leave, err := p.holdAgent(ctx, m.id)
	if err != nil {
		return none, err
	}
	defer leave()
	frozen := m.power == providers.PowerOff
	switch m.power {
	case providers.PowerRunning:
		if err := p.thawHeld(ctx, m); err != nil {
			return none, err
		}
		frozen = p.freeze(ctx, m)
	case providers.PowerSaved, providers.PowerPaused:
		frozen = p.isFrozen(m.id)
	}
	if m.on() {
		if err := p.saveMemory(ctx, m); err != nil {
			p.goOnAfter(ctx, m, err)
			return none, err
		}
	}
	taken, err := p.keep(ctx, m.id, spec, frozen)
	if err != nil {
		if ctx.Err() == nil && was.power == providers.PowerRunning {
			p.goOn(ctx, m.id)
		}
		return none, err
	}
	if was.on() {
		return taken, p.restoreAs(ctx, m.id, was.power)
	}
	return taken, p.describe(ctx, m.id)
}

// keep makes a snapshot of the disk and saved state of a machine that has no
// process.
func (p *Provider) keep(ctx context.Context, id types.UID, spec providers.SnapshotSpec, frozen bool) (providers.Snapshot, error) {
	var none providers.Snapshot
	object := snapshotObject(spec.SnapshotRef)
	c, err := p.makeRoom(ctx, id)
	if err != nil {
		return none, err
	}
	at, err := p.pushLayer(ctx, id, c)
	if err != nil {
		return none, err
	}
	p.steps.next()
	if err := files.Mkdir(p.data.snapshots(id), dirMode); err != nil {
		return none, p.fileError(object, err)
	}
	if spec.Memory {
		memory := p.data.snapshotMemory(spec.SnapshotRef)
		p.steps.next()
		if err := errors.Join(os.RemoveAll(memory), os.Link(p.data.memory(id), memory), files.Sync(memory)); err != nil {
			return none, p.fileError(object, err)
		}
	}
	f := snapshotFile{
		Instance: p.opts.Instance, Namespace: spec.Namespace, Name: spec.Name, Layer: at.layer,
		Snapshot: providers.Snapshot{
			SnapshotRef: spec.SnapshotRef, Image: c.image, Memory: spec.Memory, Frozen: frozen, TakenAt: time.Now().UTC().Truncate(time.Second),
		},
	}
	if f.Snapshot.Size, err = p.sizeOf(f.Snapshot, at); err != nil {
		return none, p.fileError(object, err)
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return none, p.fileError(object, err)
	}
	p.steps.next()
	if err := files.Write(p.data.snapshot(spec.SnapshotRef), append(b, '\n'), datafolder.FileMode); err != nil {
		return none, p.fileError(object, err)
	}
	return f.Snapshot, p.fileError(object, files.SyncDir(filepath.Dir(p.data.snapshots(id))))
}

// roomForLayer refuses one layer more than a disk may lie on, before anything is
// halted. Layers that can be merged do not count.
func (p *Provider) roomForLayer(id types.UID) error {
	c, err := p.diskChain(id)
	if err != nil {
		return err
	}
	if err := p.checkBase(id, c.image); err != nil {
		return err
	}
	if len(c.layers) < maxLayers {
		return nil
	}
	all, err := p.uses(id)
	if err != nil {
		return p.fileError(machineObject(id), err)
	}
	needed := len(c.layers)
	for _, u := range mergeable(all) {
		if slices.Contains(c.layers, u.place) {
			needed--
		}
	}
	return checkDepth(id, needed)
}

func checkDepth(id types.UID, layers int) error {
	if layers < maxLayers {
		return nil
	}
	return providers.Errorf(providers.ErrCapacity, machineObject(id),
		"its disk lies on %d snapshots already, which is as many as it may have one upon the other: delete some of them", layers)
}

// makeRoom returns the chain of a machine without a process, with place for one
// more layer.
func (p *Provider) makeRoom(ctx context.Context, id types.UID) (chain, error) {
	c, err := p.diskChain(id)
	if err != nil || len(c.layers) < maxLayers {
		return c, err
	}
	unlock, err := p.locks.Lock(ctx, layersLock(id))
	if err != nil {
		return c, err
	}
	defer unlock()
	if err := p.tidy(ctx, id); err != nil {
		return c, err
	}
	if c, err = p.diskChain(id); err != nil {
		return c, err
	}
	return c, checkDepth(id, len(c.layers))
}

// DeleteSnapshot implements providers.Snapshots. The layer is merged into what
// lies on it at once when the machine is off, and otherwise later.
func (p *Provider) DeleteSnapshot(ctx context.Context, ref providers.SnapshotRef) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	if !datafolder.IsUUID(ref.Machine) || !datafolder.IsUUID(ref.ID) {
		return errNoSnapshot(ref)
	}
	unlock, err := p.locks.Lock(ctx, machineObject(ref.Machine))
	if err != nil {
		return err
	}
	defer unlock()
	m, err := p.look(ctx, ref.Machine)
	if err != nil && !errors.Is(err, providers.ErrNotFound) {
		return err
	}
	return p.deleteSnapshot(ctx, ref, m)
}

// deleteSnapshot deletes a snapshot of a machine that is locked and may not exist
// any more.
func (p *Provider) deleteSnapshot(ctx context.Context, ref providers.SnapshotRef, m machine) error {
	unlock, err := p.locks.Lock(ctx, layersLock(ref.Machine))
	if err != nil {
		return err
	}
	defer unlock()
	forks, err := p.forksOf(ref.Machine)
	if err != nil {
		return p.fileError(snapshotObject(ref), err)
	}
	if of := forks[ref.ID]; len(of) > 0 {
		return providers.Errorf(providers.ErrBusy, snapshotObject(ref), "%d machines were forked from it, such as %s: delete them first", len(of), of[0])
	}
	found := false
	for _, path := range []string{p.data.snapshot(ref), p.data.snapshotMemory(ref)} {
		if !files.Exists(path) {
			continue
		}
		found = true
		p.steps.next()
		if err := errors.Join(os.Remove(path), files.SyncDir(filepath.Dir(path))); err != nil {
			return p.fileError(snapshotObject(ref), err)
		}
	}
	if !found {
		return errNoSnapshot(ref)
	}
	if m.on() || m.managed {
		return p.collect(ref.Machine)
	}
	if err := p.tidy(ctx, ref.Machine); err != nil {
		return err
	}
	if m.id == "" {
		return nil
	}
	return p.describe(ctx, ref.Machine)
}
