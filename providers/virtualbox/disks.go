package virtualbox

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
)

// mostLayers bounds the disks that lie on each other.
const mostLayers = 1000

// OpenDisk implements providers.Disks. Machines whose disks are in it do not start,
// and none of their snapshots is removed, until it is closed.
func (p *Provider) OpenDisk(ctx context.Context, ref providers.DiskRef) (providers.Disk, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Disk{}, err
	}
	layers, release, err := p.holdDisk(ctx, ref)
	if err != nil {
		return providers.Disk{}, err
	}
	out := providers.Disk{Size: layers[0].size, Release: release}
	for _, l := range layers {
		f, err := os.OpenFile(l.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			out.Close()
			return providers.Disk{}, p.fileError(ref.String(), err)
		}
		out.Layers = append(out.Layers, providers.DiskLayer{File: f, Format: v1.DiskFormatVDI})
	}
	return out, nil
}

// checkDisk tells, without waiting, whether there is such a disk that can be read.
func (p *Provider) checkDisk(ctx context.Context, ref providers.DiskRef) error {
	switch {
	case ref.Machine == "":
		if err := datafolder.CheckRef(ref.Image); err != nil {
			return err
		}
		_, err := p.readSealed(ref.Image)
		return err
	case ref.Snapshot != "":
		_, _, err := p.snapshotNamed(providers.SnapshotRef{Machine: ref.Machine, ID: ref.Snapshot})
		return err
	}
	m, err := p.look(ctx, ref.Machine)
	if err != nil {
		return err
	}
	return readable(m)
}

// readable tells whether nobody writes to a machine's disk.
func readable(m machine) error {
	if m.power != providers.PowerOff && m.power != providers.PowerSaved {
		return providers.Errorf(providers.ErrBusy, machineObject(m.id), "it is %s: its disk can be read while it is off or suspended, or from a snapshot", m.power)
	}
	return nil
}

// holdDisk finds the files that make up a disk, the last written first, and keeps
// them from changing until release is called.
func (p *Provider) holdDisk(ctx context.Context, ref providers.DiskRef) (layers []vdi, release func(), err error) {
	if err := p.checkDisk(ctx, ref); err != nil { // not one to be waited for
		return nil, nil, err
	}
	var held []func()
	letGo := func() {
		for _, unlock := range slices.Backward(held) {
			unlock()
		}
		held = nil
	}
	defer func() {
		if err != nil {
			letGo()
		}
	}()
	hold := func(object string) error {
		unlock, err := p.locks.Share(ctx, object)
		if err == nil {
			held = append(held, unlock)
		}
		return err
	}
	image := ref.Image
	near := map[string]vdi{}
	// The machine, and those that it was forked from, one after the other.
	for id, n := ref.Machine, 0; id != "" && n < mostLayers; n++ {
		if err := hold(machineObject(id)); err != nil {
			return nil, nil, err
		}
		r, err := p.readRecord(id)
		if err != nil {
			return nil, nil, providers.Errorf(providers.ErrNotFound, machineObject(id), "it does not exist")
		}
		own, err := vdisIn(p.vmDir(r))
		if err != nil {
			return nil, nil, p.fileError(machineObject(id), err)
		}
		maps.Copy(near, own)
		if image, id = r.Image, ""; r.Snapshot != nil {
			id = r.Snapshot.Machine
		}
	}
	var s sealed
	if (image != providers.ImageRef{}) { // else it lies on none
		if err := hold(imageObject(image)); err != nil {
			return nil, nil, err
		}
		if s, err = p.readSealed(image); err != nil {
			return nil, nil, err
		}
	}
	if !s.Adopted && s.Machine != "" {
		v, err := readVDI(p.data.goldenDisk(image))
		if err != nil {
			return nil, nil, p.fileError(imageObject(image), err)
		}
		near[v.id] = v
	}
	top, err := p.topOf(ctx, ref, s)
	if err != nil {
		return nil, nil, err
	}
	layers, err = p.layersOf(ctx, ref, top, near, s.Adopted)
	return layers, letGo, err
}

// topOf is the medium, by its UUID, that was written last. What it belongs to is held.
func (p *Provider) topOf(ctx context.Context, ref providers.DiskRef, s sealed) (string, error) {
	switch {
	case ref.Machine == "" && s.Adopted:
		return p.adoptedDisk(ctx, s)
	case ref.Machine == "":
		v, err := readVDI(p.data.goldenDisk(ref.Image))
		return v.id, p.fileError(ref.String(), err)
	case ref.Snapshot != "":
		_, of, err := p.snapshotNamed(providers.SnapshotRef{Machine: ref.Machine, ID: ref.Snapshot})
		if err != nil {
			return "", err
		}
		return firstDisk(ref, of)
	}
	m, err := p.look(ctx, ref.Machine)
	if err != nil {
		return "", err
	}
	if err := readable(m); err != nil {
		return "", err
	}
	if err := p.diskThere(m); err != nil {
		return "", err
	}
	disks := disksOf(m.info)
	if len(disks) == 0 {
		return "", providers.Errorf(providers.ErrNotFound, ref.String(), "somebody took its disk out")
	}
	return disks[0].medium, nil
}

// firstDisk is the first disk of a snapshot, by its UUID.
func firstDisk(ref providers.DiskRef, s state) (string, error) {
	id := firstOf(s.disks)
	if id == "" {
		return "", providers.Errorf(providers.ErrNotFound, ref.String(), "it has no disk")
	}
	return id, nil
}

// adoptedDisk is the disk of the snapshot that an adopted image is, by its UUID.
func (p *Provider) adoptedDisk(ctx context.Context, s sealed) (string, error) {
	ref := providers.DiskRef{Image: s.Image.ImageRef}
	info, err := p.vbox.Show(ctx, ref.String(), string(s.Machine))
	if err != nil {
		return "", err
	}
	all, err := readStates(info["CfgFile"], p.opts.Instance)
	if err != nil {
		return "", p.fileError(ref.String(), err)
	}
	i := slices.IndexFunc(all, func(of state) bool { return of.uuid == s.Snapshot })
	if i < 0 {
		return "", providers.Errorf(providers.ErrNotFound, ref.String(), "its snapshot is gone from VirtualBox")
	}
	return firstDisk(ref, all[i])
}

// layersOf follows a disk down to the one that lies on nothing. All but those of an
// adopted machine are our own, and known.
func (p *Provider) layersOf(ctx context.Context, ref providers.DiskRef, top string, near map[string]vdi, adopted bool) ([]vdi, error) {
	var layers []vdi
	for id := top; id != ""; {
		v, known := near[id]
		if !known && adopted {
			var err error
			if v, err = p.askMedium(ctx, ref, id); err != nil {
				return nil, err
			}
		} else if !known {
			return nil, providers.Errorf(providers.ErrUnavailable, ref.String(), "its disk %s is not where sandboxd keeps disks", id)
		}
		if layers = append(layers, v); len(layers) > mostLayers {
			return nil, providers.Errorf(providers.ErrUnsupported, ref.String(), "it is made up of more than %d files", mostLayers)
		}
		id = v.parent
	}
	if len(layers) == 0 {
		return nil, providers.Errorf(providers.ErrUnavailable, ref.String(), "its disk has no UUID")
	}
	return layers, nil
}

// askMedium asks VirtualBox for a disk that is an adopted machine's.
func (p *Provider) askMedium(ctx context.Context, ref providers.DiskRef, id string) (vdi, error) {
	if !datafolder.IsUUID(types.UID(id)) {
		return vdi{}, providers.Errorf(providers.ErrUnavailable, ref.String(), "its disk has no UUID")
	}
	medium, err := p.vbox.Medium(ctx, ref.String(), "", id)
	if err != nil {
		return vdi{}, err
	}
	if !strings.EqualFold(medium["Storage format"], "VDI") {
		return vdi{}, providers.Errorf(providers.ErrUnsupported, ref.String(), "a disk of the adopted machine is not of VirtualBox's own format VDI: clone it into one (VBoxManage clonemedium --format VDI) and adopt a machine with that")
	}
	v, err := readVDI(medium["Location"])
	if err == nil && v.id != id {
		err = providers.Errorf(providers.ErrUnavailable, ref.String(), "the file %s is another disk than VirtualBox says", v.path)
	}
	return v, p.fileError(ref.String(), err)
}
