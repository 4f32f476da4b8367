//go:build linux

package kvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// layerUse is what is known of one layer, the oldest first in a list.
type layerUse struct {
	place
	// named: a snapshot needs it.
	named bool
	// on are the disks and layers that lie on it.
	on []string
	// foreign: one of them is another machine's, or damaged.
	foreign bool
}

// uses looks at who needs the layers of a machine.
func (p *Provider) uses(id types.UID) ([]layerUse, error) {
	list, err := p.ownLayers(id)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	on, err := p.overlays()
	if err != nil {
		return nil, err
	}
	snapshots, err := p.snapshotsOf(id)
	if err != nil {
		return nil, err
	}
	damaged, err := p.damagedOn(id, on[unreadable])
	if err != nil {
		return nil, err
	}
	var all []layerUse
	for _, at := range list {
		u := layerUse{place: at, on: slices.Concat(on[p.data.layer(at)], damaged)}
		u.named = slices.ContainsFunc(snapshots, func(s snapshotFile) bool { return s.Layer == at.layer })
		u.foreign = len(damaged) > 0 || slices.ContainsFunc(u.on, func(path string) bool { return p.ownerOf(path) != id })
		all = append(all, u)
	}
	return all, nil
}

// damagedOn are those of the damaged files that may lie on any layer of a machine.
// They may be repaired, and must find what they lie on then.
func (p *Provider) damagedOn(id types.UID, damaged []string) ([]string, error) {
	var may []string
	for _, path := range damaged {
		owner := p.ownerOf(path)
		o, forked, err := p.readOrigin(owner)
		switch {
		case owner == id, forked && o.Machine == id:
			may = append(may, path)
		case err != nil && !errors.Is(err, providers.ErrInvalid):
			return nil, err
		}
	}
	return may, nil
}

// spare returns a layer that nothing needs, the newest first, if there is one.
func spare(all []layerUse) (layerUse, bool) {
	for _, u := range slices.Backward(all) {
		if !u.named && len(u.on) == 0 {
			return u, true
		}
	}
	return layerUse{}, false
}

// mergeable lists the layers that no snapshot names and on which just one file
// lies, into which each can be merged. None can while the disk of another machine,
// which may run, lies on any of them: the file that takes a layer in is changed.
func mergeable(all []layerUse) []layerUse {
	if slices.ContainsFunc(all, func(u layerUse) bool { return u.foreign }) {
		return nil
	}
	var list []layerUse
	for _, u := range all {
		if !u.named && len(u.on) == 1 {
			list = append(list, u)
		}
	}
	return list
}

// collect removes the layers that nothing needs any more. Those that are in use
// have something that lies on them, so the machine may run.
func (p *Provider) collect(id types.UID) error {
	for {
		all, err := p.uses(id)
		if err != nil {
			return p.fileError(machineObject(id), err)
		}
		u, ok := spare(all)
		if !ok {
			_ = os.Remove(p.data.layers(id)) // when it is empty
			_ = os.Remove(p.data.snapshots(id))
			return nil
		}
		p.steps.next()
		if err := os.Remove(p.data.layer(u.place)); err != nil {
			return p.fileError(machineObject(id), err)
		}
	}
}

// tidy removes and merges the layers that no snapshot needs any more. Nobody may
// have the machine's disk open, nor read its layers.
func (p *Provider) tidy(ctx context.Context, id types.UID) error {
	for {
		if err := p.collect(id); err != nil {
			return err
		}
		all, err := p.uses(id)
		if err != nil {
			return p.fileError(machineObject(id), err)
		}
		list := mergeable(all)
		if len(list) == 0 {
			return nil
		}
		if err := p.merge(ctx, list[0]); err != nil {
			return p.fileError(machineObject(id), err)
		}
	}
}

// merge copies what a layer holds into the only file that lies on it, and lays
// that on what the layer lies on. The content is the same all the while.
func (p *Provider) merge(ctx context.Context, u layerUse) error {
	into := u.on[0]
	c, err := p.layerChain(u.place)
	if err != nil {
		return err
	}
	if filepath.Ext(into) != ".qcow2" { // a disk that was never finished
		return os.Remove(into)
	}
	p.steps.next()
	if err := p.img.Rebase(ctx, into, c.files[1], c.files); err != nil {
		return err
	}
	return files.Sync(into)
}
