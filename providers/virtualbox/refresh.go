package virtualbox

import (
	"context"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// Reset implements providers.Machines.
func (p *Provider) Reset(ctx context.Context, id types.UID) error {
	return p.withMachine(ctx, id, func(m machine) error {
		if m.power != providers.PowerOff {
			return providers.Errorf(providers.ErrBusy, machineObject(id), "it is %s: only the disk of a machine that is off can be replaced", m.power)
		}
		if err := p.withAllDisks(m); err != nil {
			return err
		}
		for _, putRight := range []func(context.Context, machine) (machine, error){p.unplug, p.reattach} {
			var err error
			if m, err = putRight(ctx, m); err != nil {
				return err
			}
		}
		r := m.record
		if err := p.refresh(ctx, &r, m); err != nil {
			return err
		}
		return p.writeRecord(r)
	})
}

// refresh replaces the disks of a machine that is off by fresh ones on its image, or
// on the snapshot that it was forked from, of the same size. One whose disk is gone
// gets one.
func (p *Provider) refresh(ctx context.Context, r *record, m machine) error {
	if err := p.withAllDisks(m); err != nil {
		return err // also if there is nothing to replace: it must not start so
	}
	if len(p.ownDisks(m)) == 0 {
		if err := p.replant(ctx, r, m); err != nil {
			return err
		}
		r.Fresh, r.Reverted = true, false
		return nil
	}
	if r.Fresh && !p.diskLost(m) {
		return nil
	}
	if err := p.replaceDisks(ctx, r, m, func(d disk) (string, error) { return p.goldenParent(ctx, *r, d) }); err != nil {
		return err
	}
	r.Fresh, r.Reverted = true, false
	return nil
}

// replaceDisks replaces the disks of a machine that is off by empty ones on others:
//
//	disk-2 made, on its parent ──▶ attached in the place of disk-1 ──▶ disk-1 deleted
//
// Cut off anywhere, the next one clears away whatever is neither attached nor a
// snapshot's.
func (p *Provider) replaceDisks(ctx context.Context, r *record, m machine, parentOf func(disk) (string, error)) error {
	if err := p.withAllDisks(m); err != nil {
		return err
	}
	if err := p.closeStrays(ctx, *r, m); err != nil {
		return err
	}
	disks := p.ownDisks(m) // what somebody has attached is left alone
	if len(disks) == 0 {
		return providers.Errorf(providers.ErrInvalid, machineObject(r.ID), "somebody took its disk out: ensure the machine first").WithReason(v1.ReasonDiskChanged)
	}
	for n, d := range disks {
		parent, err := parentOf(d)
		if err != nil {
			return err
		}
		next, err := p.replaceDisk(ctx, *r, d, n, parent)
		if err != nil {
			return err
		}
		if n == 0 {
			r.Disk = next
		}
	}
	return nil
}

// closeStrays removes what replaceDisks has left that was cut off.
func (p *Provider) closeStrays(ctx context.Context, r record, m machine) error {
	if p.withAllDisks(m) != nil {
		return nil // what looks like a stray may be a disk that somebody took out
	}
	states, err := p.statesOf(r)
	if err != nil {
		return err
	}
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return p.fileError(machineObject(r.ID), err)
	}
	used := disksUnder(states)
	var keep []string
	for _, d := range disksOf(m.info) {
		used[d.medium] = true
		keep = append(keep, d.path) // of whatever format
	}
	for _, v := range lyingUnder(own, used) {
		keep = append(keep, v.path)
	}
	return p.closeMedia(ctx, r.ID, p.vmDir(r), keep...)
}

// lyingUnder finds, among all disks of a folder, some and all that they lie on.
func lyingUnder(all map[string]vdi, some map[string]bool) map[string]vdi {
	found := map[string]vdi{}
	for id := range some {
		for v, is := all[id]; is; v, is = all[v.parent] {
			if _, again := found[v.id]; again {
				break
			}
			found[v.id] = v
		}
	}
	return found
}

// replant gives a machine that has no disk any more a fresh one.
func (p *Provider) replant(ctx context.Context, r *record, m machine) error {
	if err := p.closeStrays(ctx, *r, m); err != nil {
		return err
	}
	at, room := emptyPlace(m)
	parent, err := p.firstParent(*r)
	if err == nil && (parent == "" || !room) {
		err = providers.Errorf(providers.ErrInvalid, machineObject(r.ID), "somebody took its disk out, and it is not known where it was: delete the sandbox and apply it again")
	}
	if err != nil {
		return err
	}
	next := freeDisk(p.vmDir(*r), 0)
	if err := p.layDisk(ctx, *r, next, parent, true); err != nil {
		return err
	}
	r.Disk = next
	return p.attach(ctx, r.ID, at, next)
}

// firstParent is the disk, by its UUID, that a machine's first disk begins from; empty
// where it is somebody else's, or there is none.
func (p *Provider) firstParent(r record) (string, error) {
	object := machineObject(r.ID)
	switch {
	case r.Snapshot != nil:
		_, s, err := p.snapshotNamed(*r.Snapshot)
		return firstOf(s.disks), err
	case r.Image == providers.ImageRef{}:
		return "", nil
	}
	image, err := p.readSealed(r.Image)
	if err != nil || image.Adopted {
		return "", err
	}
	v, err := readVDI(p.data.goldenDisk(r.Image))
	return v.id, p.fileError(object, err)
}

// goldenParent is the disk, by its UUID, that a machine's disk begins from. On
// somebody else's image that is the nearest below it which is not the machine's own:
// between them are those of its snapshots.
func (p *Provider) goldenParent(ctx context.Context, r record, d disk) (string, error) {
	object := machineObject(r.ID)
	if first, err := p.firstParent(r); err != nil || first != "" {
		return first, err
	}
	medium, err := p.vbox.Medium(ctx, object, string(r.ID), d.medium)
	if err != nil {
		return "", err
	}
	if !datafolder.IsUUID(types.UID(medium["Parent UUID"])) {
		return "", providers.Errorf(providers.ErrInvalid, object, "its disk %s lies on no image: delete the sandbox and apply it again", d.path)
	}
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return "", p.fileError(object, err)
	}
	parent := medium["Parent UUID"]
	for range own {
		if v, is := own[parent]; is && v.parent != "" {
			parent = v.parent
		}
	}
	return parent, nil
}

// replaceDisk replaces one disk and returns the file of the new one.
func (p *Provider) replaceDisk(ctx context.Context, r record, d disk, n int, parent string) (string, error) {
	next := freeDisk(p.vmDir(r), n)
	if err := p.layDisk(ctx, r, next, parent, n == 0); err != nil {
		return "", err
	}
	if err := p.attach(ctx, r.ID, d, next); err != nil {
		return "", err
	}
	_, err := p.manage(ctx, r.ID, 0, "closemedium", "disk", d.medium, "--delete")
	return next, p.ignoreMissing(err)
}

// layDisk makes an empty disk on another, and the first one of a machine as large as
// that was grown to.
func (p *Provider) layDisk(ctx context.Context, r record, path, parent string, first bool) error {
	if _, err := p.manage(ctx, r.ID, 0, "createmedium", "disk", "--filename", path, "--diffparent", parent); err != nil {
		return err
	}
	if v, err := readVDI(path); !first || r.DiskBytes == 0 || err == nil && v.size >= r.DiskBytes {
		return nil
	}
	_, err := p.manage(ctx, r.ID, 0, "modifymedium", "disk", path, "--resizebyte", formatBytes(r.DiskBytes))
	return err
}

// freeDisk is the path for a machine's next disk, the n-th of those that are made
// together: one that none has, because snapshots keep those that it had.
func freeDisk(dir string, n int) string {
	for i := 1; ; i++ {
		path := filepath.Join(dir, fmt.Sprintf("disk-%d.vdi", i))
		if n > 0 {
			path = filepath.Join(dir, fmt.Sprintf("disk-%d-%d.vdi", i, n))
		}
		if !files.Exists(path) {
			return path
		}
	}
}
