package virtualbox

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// A machine that somebody removed from VirtualBox keeps its disk, with those of its
// own that it lies on. Its snapshots are gone: VirtualBox registers no machine with
// snapshots whose disks it has forgotten, and one that is only asked about such disks
// was seen to forget all of its machines when it ended.

// missing is what there is of a machine that VirtualBox does not have: nothing, or its
// record and perhaps its disk.
func (p *Provider) missing(id types.UID) (machine, error) {
	r, err := p.readRecord(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return machine{}, p.fileError(machineObject(id), err)
	}
	// A disk that is being put into a new clone is the record's word alone, and a
	// machine that was never whole has none to keep. Else the record may be older than
	// the definition: VirtualBox gives a machine a new disk with each snapshot.
	if r.Disk != "" && r.Kept == "" {
		path, err := p.definedDisk(r)
		if err != nil {
			return machine{}, p.fileError(machineObject(id), err)
		}
		if path != "" {
			r.Disk = path
		}
	}
	return machine{id: id, record: r}, nil
}

// definedDisk is the file of a machine's first disk by its definition; empty when
// there is none, or the definition is damaged.
func (p *Provider) definedDisk(r record) (string, error) {
	if r.VM == "" || !files.Exists(p.definition(r)) {
		return "", nil
	}
	id, err := readFirstDisk(p.definition(r))
	if hostRefused(err) {
		return "", err
	}
	if err != nil {
		return "", nil
	}
	own, err := vdisIn(p.vmDir(r))
	return own[id].path, err
}

// readFirstDisk reads the first disk in a definition, by its UUID.
func readFirstDisk(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	var doc struct {
		Controllers []controllerElement `xml:"Machine>Hardware>StorageControllers>StorageController"`
		Before119   []controllerElement `xml:"Machine>StorageControllers>StorageController"`
	}
	if err := xml.NewDecoder(io.LimitReader(f, definitionLimit)).Decode(&doc); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return firstOf(disksIn(slices.Concat(doc.Controllers, doc.Before119))), nil
}

// below lists the disks of a machine's own that a disk of it lies on, the lowest
// first.
func (p *Provider) below(r record, path string) ([]vdi, error) {
	own, err := vdisIn(p.vmDir(r))
	if err != nil {
		return nil, p.fileError(machineObject(r.ID), err)
	}
	top, err := readVDI(path)
	if hostRefused(err) {
		return nil, p.fileError(machineObject(r.ID), err)
	}
	if err != nil {
		return nil, nil // it is not of VirtualBox's own format, and had no snapshots
	}
	var chain []vdi
	for v, is := own[top.parent]; is && len(chain) < len(own); v, is = own[v.parent] {
		chain = append(chain, v)
	}
	slices.Reverse(chain)
	return chain, nil
}

// putBack puts the kept disk in the place of a clone's own. Until the record says
// that the machine is whole, the next call does so again. Each disk below it that
// VirtualBox has forgotten is attached first, by which it knows that for good.
func (p *Provider) putBack(ctx context.Context, r *record, m machine) (machine, error) {
	disks := disksOf(m.info)
	if len(disks) == 0 || disks[0].path == r.Kept {
		r.Kept = ""
		return m, nil
	}
	at := disks[0]
	chain, err := p.attachOwn(ctx, *r, at, r.Kept)
	if err != nil {
		return machine{}, err
	}
	if !slices.ContainsFunc(chain, func(v vdi) bool { return v.path == at.path }) { // else an earlier call was cut off
		if _, err := p.manage(ctx, r.ID, 0, "closemedium", "disk", at.medium, "--delete"); p.ignoreMissing(err) != nil {
			return machine{}, err
		}
	}
	r.Kept = ""
	return p.look(ctx, r.ID)
}

// attachOwn attaches one of a machine's own disks, and before it each disk of those
// below it that VirtualBox has forgotten. These are returned.
func (p *Provider) attachOwn(ctx context.Context, r record, at disk, path string) (chain []vdi, err error) {
	if chain, err = p.below(r, path); err != nil {
		return nil, err
	}
	if len(chain) > 0 {
		known, err := p.knownDisks(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		for _, v := range chain {
			if known[v.id] {
				continue
			}
			if err := p.attach(ctx, r.ID, at, v.path); err != nil {
				return nil, err
			}
		}
	}
	return chain, p.attach(ctx, r.ID, at, path)
}

// knownDisks are all disks that VirtualBox knows, by their UUIDs.
func (p *Provider) knownDisks(ctx context.Context, id types.UID) (map[string]bool, error) {
	out, err := p.vbox.List(ctx, machineObject(id), "hdds")
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, b := range vboxmanage.Blocks(out) {
		known[b["UUID"]] = true
	}
	return known, nil
}

// clearFolder removes what VirtualBox has left of a machine that it does not
// have, all but the disk if that is kept, with what that lies on, and what forks lie
// on.
func (p *Provider) clearFolder(ctx context.Context, r record, keep bool) error {
	dir := p.vmDir(r)
	if !files.Exists(dir) {
		return nil
	}
	var kept []string
	if keep {
		chain, err := p.below(r, r.Disk)
		if err != nil {
			return err
		}
		kept = append(kept, r.Disk)
		for _, v := range chain {
			kept = append(kept, v.path)
		}
	}
	err := p.closeMedia(ctx, r.ID, dir, kept...)
	if err != nil && (!keep || !errors.Is(err, providers.ErrBusy)) {
		return err
	}
	if !keep {
		p.steps.next()
		return p.fileError(machineObject(r.ID), os.RemoveAll(dir))
	}
	var left []string
	err = nil
	for _, pattern := range []string{"*.vbox*", "Snapshots/*.sav"} {
		found, globErr := filepath.Glob(filepath.Join(dir, pattern))
		left, err = append(left, found...), errors.Join(err, globErr)
	}
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return p.fileError(machineObject(r.ID), err)
}

// firstOf is the disk at the first of some places, by its UUID; empty when there is
// none.
func firstOf(disks map[place]string) string {
	var first disk
	id := ""
	for at, medium := range disks {
		d := disk{controller: at.controller, port: at.port, device: at.device}
		if id == "" || strings.Compare(d.order(), first.order()) < 0 {
			first, id = d, medium
		}
	}
	return id
}
