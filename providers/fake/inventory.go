package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// ListResources implements providers.Inventory.
func (p *Provider) ListResources(ctx context.Context) (all []providers.Resource, err error) {
	err = p.look(ctx, func() error {
		all = slices.Concat(p.listMachines(), p.listImages(), p.listNetworks(), p.listParts())
		return nil
	})
	slices.SortFunc(all, func(a, b providers.Resource) int {
		return strings.Compare(string(a.Kind)+a.ID, string(b.Kind)+b.ID)
	})
	return all, err
}

func (p *Provider) listMachines() (all []providers.Resource) {
	for id, m := range p.w.machines {
		r := providers.Resource{
			Kind: providers.ResourceMachine, ID: string(id), Owners: []types.UID{id},
			Ownership: providers.Ours, Description: m.spec.Namespace + "/" + m.spec.Name,
		}
		switch m.tag {
		case string(p.instance):
		case p.instance.Short():
			r.Ownership, r.Description = providers.Ambiguous, "tagged with a part of our ID only"
		default:
			continue
		}
		all = append(all, r)
	}
	return all
}

func (p *Provider) listImages() (all []providers.Resource) {
	for r := range p.folder().images {
		all = append(all, providers.Resource{
			Kind: providers.ResourceImage, ID: r.String(), Owners: []types.UID{r.UID},
			Ownership: providers.Ours, Description: "image " + r.String(),
		})
	}
	for r := range p.folder().staged {
		all = append(all, providers.Resource{
			Kind: providers.ResourceFile, ID: r.String(), Owners: []types.UID{r.UID},
			Ownership: providers.Ours, Description: "unfinished import of image " + r.String(),
		})
	}
	return all
}

func (p *Provider) listNetworks() (all []providers.Resource) {
	for name, n := range p.w.networks {
		if n.instance != p.instance {
			continue
		}
		r := providers.Resource{
			Kind: providers.ResourceNetwork, ID: name, Ownership: providers.Ours, Description: "network " + name,
		}
		for id := range n.leases {
			r.Owners = append(r.Owners, id)
		}
		slices.Sort(r.Owners)
		all = append(all, r)
	}
	return all
}

func (p *Provider) listParts() (all []providers.Resource) {
	for id, pt := range p.folder().parts {
		for _, kind := range pt.kinds() {
			all = append(all, providers.Resource{
				Kind: kind, ID: string(id), Owners: []types.UID{id},
				Ownership: providers.Ours, Description: string(kind) + " of machine " + string(id),
			})
		}
		for _, snap := range slices.Concat(slices.Collect(maps.Keys(pt.snapshots)), slices.Collect(maps.Keys(pt.staged))) {
			ref := providers.SnapshotRef{Machine: id, ID: snap}
			all = append(all, providers.Resource{
				Kind: providers.ResourceSnapshot, ID: ref.String(), Owners: []types.UID{id, snap},
				Ownership: providers.Ours, Description: snapshotObject(ref),
			})
		}
	}
	return all
}

// RemoveResource implements providers.Inventory.
func (p *Provider) RemoveResource(ctx context.Context, r providers.Resource) error {
	if r.Ownership != providers.Ours {
		return providers.Errorf(providers.ErrInvalid, resourceObject(r), "it is not ours: it is not touched")
	}
	switch r.Kind {
	case providers.ResourceMachine:
		return p.removeMachine(ctx, r)
	case providers.ResourceImage, providers.ResourceFile:
		return p.removeImageResource(ctx, r)
	}
	if r.Kind == providers.ResourceSnapshot {
		return p.removeSnapshotResource(ctx, r)
	}
	id := types.UID(r.ID)
	return p.do(ctx, "RemoveResource", r.ID, id, func(v *verb) error {
		return v.step("remove", func() error {
			if r.Kind == providers.ResourceNetwork {
				return p.removeNetwork(r)
			}
			return p.removePart(r)
		})
	})
}

func resourceObject(r providers.Resource) string { return fmt.Sprintf("%s %q", r.Kind, r.ID) }

func errNoResource(r providers.Resource) error {
	return providers.Errorf(providers.ErrNotFound, resourceObject(r), "it is gone")
}

func (p *Provider) removeMachine(ctx context.Context, r providers.Resource) error {
	id := types.UID(r.ID)
	return p.do(ctx, "RemoveResource", r.ID, id, func(v *verb) error {
		err := p.look(ctx, func() error {
			switch m := p.w.machines[id]; {
			case m == nil:
				return errNoResource(r)
			case m.tag != string(p.instance):
				return providers.Errorf(providers.ErrInvalid, resourceObject(r),
					"it is not ours any more: it is not touched")
			}
			return nil
		})
		if err != nil {
			return err
		}
		return p.deleteMachine(v, id)
	})
}

func (p *Provider) removeImageResource(ctx context.Context, r providers.Resource) error {
	uid, revision, _ := strings.Cut(r.ID, "@")
	image := ref{UID: types.UID(uid), Revision: revision}
	if err := p.look(ctx, func() error { return nil }); err != nil {
		return err
	}
	unlock, ok := p.w.locks.tryLock(imageKey(p.instance, image))
	if !ok {
		return providers.Errorf(providers.ErrBusy, resourceObject(r), "it is being imported")
	}
	defer unlock()
	return (&verb{ctx, p, "RemoveResource", image.UID}).step("remove", func() error {
		return p.removeImage(image)
	})
}

// removeNetwork needs the lock.
func (p *Provider) removeNetwork(r providers.Resource) error {
	n := p.w.networks[r.ID]
	if n == nil {
		return errNoResource(r)
	}
	if n.instance != p.instance {
		return providers.Errorf(providers.ErrInvalid, resourceObject(r), "it is not ours any more: it is not touched")
	}
	for id := range n.leases {
		if p.own(id) != nil {
			return providers.Errorf(providers.ErrBusy, resourceObject(r), "machine %s is connected to it", id)
		}
	}
	delete(p.w.networks, r.ID)
	return nil
}

// removeSnapshotResource removes a snapshot that its machine has left behind.
func (p *Provider) removeSnapshotResource(ctx context.Context, r providers.Resource) error {
	machine, snap, _ := strings.Cut(r.ID, "/")
	ref := providers.SnapshotRef{Machine: types.UID(machine), ID: types.UID(snap)}
	return p.do(ctx, "RemoveResource", machine, ref.Machine, func(v *verb) error {
		return v.step("remove", func() error {
			if p.own(ref.Machine) != nil && p.folder().snapshot(ref) != nil {
				return providers.Errorf(providers.ErrBusy, resourceObject(r), "its machine still exists")
			}
			return p.removeSnapshot(ref)
		})
	})
}

// removePart needs the lock.
func (p *Provider) removePart(r providers.Resource) error {
	id := types.UID(r.ID)
	pt := p.folder().parts[id]
	if pt == nil || !slices.Contains(pt.kinds(), r.Kind) {
		return errNoResource(r)
	}
	if p.own(id) != nil {
		return providers.Errorf(providers.ErrBusy, resourceObject(r), "its machine still exists")
	}
	p.folder().dropPart(id, r.Kind)
	return nil
}
