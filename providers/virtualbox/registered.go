package virtualbox

import (
	"context"
	"errors"
	"io/fs"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// missing is what there is of a machine that VirtualBox does not have: nothing, or its
// record and perhaps its disk. One with snapshots VirtualBox is given back as it was,
// because its disk is of no use without theirs.
//
//	disks opened, those below first ──▶ registervm ──▶ registry of disks written
func (p *Provider) missing(ctx context.Context, id types.UID) (machine, error) {
	r, err := p.readRecord(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return machine{}, p.fileError(machineObject(id), err)
	}
	was := machine{id: id, record: r}
	states, err := p.statesOf(r)
	if err != nil || len(states) == 0 {
		return was, err
	}
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return was, p.fileError(machineObject(id), err)
	}
	if err := p.openDisks(ctx, id, parentsFirst(own)); err != nil {
		return was, err
	}
	if _, err := p.manage(ctx, id, 0, "registervm", p.definition(r)); err != nil {
		return was, providers.Errorf(providers.ErrUnavailable, machineObject(id), "somebody removed it from VirtualBox, which does not take it back with its snapshots: delete the sandbox and apply it again (%w)", said(err))
	}
	if err := p.writeRegistry(ctx, r, own); err != nil {
		return was, err
	}
	p.log.Info("a machine with snapshots, which somebody had removed from VirtualBox, was given back to it", "machine", id)
	return p.look(ctx, id)
}

// openDisks makes VirtualBox know disks again, those below first: it forgets the ones
// that nothing lies on together with their machine, and remembers those that it is
// asked about.
func (p *Provider) openDisks(ctx context.Context, id types.UID, disks []vdi) error {
	for _, v := range disks {
		_, err := p.vbox.Run(ctx, vboxmanage.Call{Object: machineObject(id), VM: string(id), Args: []string{"showmediuminfo", "disk", v.path}})
		if err != nil && (ctx.Err() != nil || !understood(err)) {
			return err
		}
	}
	return nil
}

// remind makes VirtualBox know the disk that a machine keeps, with those of its own
// that it lies on, and lists their files.
func (p *Provider) remind(ctx context.Context, r record) ([]string, error) {
	paths := []string{r.Disk}
	own, err := vdisIn(p.vmDir(r))
	top, topErr := readVDI(r.Disk)
	if err != nil || topErr != nil { // it is not of VirtualBox's own format
		return paths, p.fileError(machineObject(r.ID), err)
	}
	below := map[string]vdi{}
	for v, is := own[top.parent]; is && len(below) < len(own); v, is = own[v.parent] {
		below[v.id] = v
		paths = append(paths, v.path)
	}
	if len(below) == 0 {
		return paths, nil
	}
	return paths, p.openDisks(ctx, r.ID, parentsFirst(below))
}

// writeRegistry makes VirtualBox write down which disks it knows, which it does when
// one comes or goes. Else it would have forgotten some when its service ends.
func (p *Provider) writeRegistry(ctx context.Context, r record, own map[string]vdi) error {
	path := freeDisk(p.vmDir(r), 0)
	for _, v := range parentsFirst(own) {
		if _, err := p.manage(ctx, r.ID, 0, "createmedium", "disk", "--filename", path, "--diffparent", v.id); err != nil {
			return err
		}
		_, err := p.manage(ctx, r.ID, 0, "closemedium", "disk", path, "--delete")
		return err
	}
	return nil
}

// parentsFirst sorts disks: each comes after the one that it lies on.
func parentsFirst(all map[string]vdi) []vdi {
	var sorted []vdi
	done := map[string]bool{}
	for len(sorted) < len(all) {
		before := len(sorted)
		for id, v := range all {
			if _, inside := all[v.parent]; !done[id] && (!inside || done[v.parent]) {
				done[id] = true
				sorted = append(sorted, v)
			}
		}
		if len(sorted) == before { // disks that lie on each other: damaged
			return sorted
		}
	}
	return sorted
}
