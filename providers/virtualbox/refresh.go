package virtualbox

import (
	"context"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// Reset implements providers.Machines.
func (p *Provider) Reset(ctx context.Context, id types.UID) error {
	return p.withMachine(ctx, id, func(m machine) error {
		if m.power != providers.PowerOff {
			return providers.Errorf(providers.ErrBusy, machineObject(id), "it is %s: only the disk of a machine that is off can be replaced", m.power)
		}
		r := m.record
		if err := p.refresh(ctx, &r, m); err != nil {
			return err
		}
		return p.writeRecord(r)
	})
}

// refresh replaces the disks of a machine that is off by fresh ones on its image, or
// on the snapshot that it was forked from, of the same size.
func (p *Provider) refresh(ctx context.Context, r *record, m machine) error {
	if r.Fresh {
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
	if err := p.closeStrays(ctx, *r, m); err != nil {
		return err
	}
	disks := disksOf(m.info)
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
	states, err := p.statesOf(r)
	if err != nil {
		return err
	}
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return p.fileError(machineObject(r.ID), err)
	}
	var keep []string
	for id := range disksUnder(states) {
		keep = append(keep, own[id].path)
	}
	for _, d := range disksOf(m.info) {
		keep = append(keep, d.path)
	}
	return p.closeMedia(ctx, r.ID, p.vmDir(r), keep...)
}

// goldenParent is the disk, by its UUID, that a machine's disk begins from: the
// nearest below it which is not the machine's own. Between them are those of its
// snapshots.
func (p *Provider) goldenParent(ctx context.Context, r record, d disk) (string, error) {
	object := machineObject(r.ID)
	out, err := p.vbox.Run(ctx, vboxmanage.Call{Object: object, VM: string(r.ID), Args: []string{"showmediuminfo", "disk", d.medium}})
	if err != nil {
		return "", err
	}
	blocks := vboxmanage.Blocks(out.Stdout)
	if len(blocks) == 0 || !datafolder.IsUUID(types.UID(blocks[0]["Parent UUID"])) {
		return "", providers.Errorf(providers.ErrInvalid, object, "its disk %s lies on no image: delete the sandbox and apply it again", d.path)
	}
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return "", p.fileError(object, err)
	}
	parent := blocks[0]["Parent UUID"]
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
