//go:build linux

package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/machinespec"
)

// origin is what a fork's file of that name says: it was forked from a snapshot,
// whose layer its disk may lie on.
type origin struct {
	providers.SnapshotRef
	Layer int `json:"layer"`
}

func (o origin) place() place { return place{o.Machine, o.Layer} }

// readOrigin tells whether a machine was forked, and from what.
func (p *Provider) readOrigin(id types.UID) (o origin, forked bool, err error) {
	b, err := os.ReadFile(p.data.origin(id))
	if errors.Is(err, fs.ErrNotExist) {
		return o, false, nil
	}
	if err != nil {
		return o, false, p.fileError(machineObject(id), err)
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return o, false, providers.Errorf(providers.ErrInvalid, machineObject(id), "its file %s is damaged: delete the sandbox", p.data.origin(id))
	}
	return o, true, nil
}

// forksOf lists the machines that were forked from each snapshot of a machine.
func (p *Provider) forksOf(id types.UID) (map[types.UID][]types.UID, error) {
	list, err := filepath.Glob(filepath.Join(p.data.Machines(), "*", "origin"))
	if err != nil {
		return nil, err
	}
	forks := map[types.UID][]types.UID{}
	for _, path := range list {
		fork := types.UID(filepath.Base(filepath.Dir(path)))
		o, ok, err := p.readOrigin(fork)
		if err != nil && !errors.Is(err, providers.ErrInvalid) {
			return nil, err
		}
		if ok && o.Machine == id && fork != id {
			forks[o.ID] = append(forks[o.ID], fork)
		}
	}
	return forks, nil
}

// unforked refuses to take away what forks of a machine lie on. The lock of its
// layers is held.
func (p *Provider) unforked(id types.UID) error {
	forks, err := p.forksOf(id)
	if err != nil {
		return p.fileError(machineObject(id), err)
	}
	for snapshot, of := range forks {
		return providers.Errorf(providers.ErrBusy, machineObject(id),
			"machine %s was forked from its snapshot %s: delete the fork first", of[0], snapshot)
	}
	return nil
}

// fork makes a fresh disk on a snapshot of another machine.
func (p *Provider) fork(ctx context.Context, id types.UID, image providers.ImageRef, ref providers.SnapshotRef, size int64) error {
	object := machineObject(id)
	if ref.Machine == id {
		return providers.Errorf(providers.ErrInvalid, object, "it cannot be forked from a snapshot of its own")
	}
	unlock, err := p.locks.Share(ctx, layersLock(ref.Machine))
	if err != nil {
		return err
	}
	defer unlock()
	s, err := p.readSnapshot(ref)
	if err != nil {
		return err
	}
	if s.Snapshot.Image != image {
		return providers.Errorf(providers.ErrInvalid, object, "%s lies on image %s, not on %s", snapshotObject(ref), s.Snapshot.Image, image)
	}
	c, err := p.layerChain(s.place())
	if err != nil {
		return err
	}
	if err := machinespec.CheckDisk(object, size, providers.Image{VirtualSize: c.size}); err != nil {
		return err
	}
	if len(c.layers)+1 > maxLayers {
		return providers.Errorf(providers.ErrCapacity, object,
			"%s lies on %d others already, which is as many as there may be: delete some of them", snapshotObject(ref), len(c.layers))
	}
	b, err := json.Marshal(origin{ref, s.Layer})
	if err != nil {
		return p.fileError(object, err)
	}
	p.steps.next()
	if err := files.Write(p.data.origin(id), append(b, '\n'), datafolder.FileMode); err != nil {
		return p.fileError(object, err)
	}
	return p.layDisk(ctx, id, c.files, max(size, c.size))
}
