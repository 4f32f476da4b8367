package virtualbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// ListResources implements providers.Inventory. What VirtualBox has, one listing
// says; the rest is in the data folder. A machine without a folder of ours is not
// ours.
func (p *Provider) ListResources(ctx context.Context) ([]providers.Resource, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	now, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	var all []providers.Resource
	for _, list := range []func(registered map[string]bool) ([]providers.Resource, error){p.listMachines, p.listImages, p.listNetworks} {
		some, err := list(now.Registered)
		if err != nil {
			return nil, p.fileError("inventory", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// listMachines lists the machines that are ours, and of each folder its disk with
// everything else in it.
func (p *Provider) listMachines(registered map[string]bool) ([]providers.Resource, error) {
	dirs, err := os.ReadDir(p.data.Machines())
	if err != nil {
		return nil, err
	}
	var out []providers.Resource
	for _, d := range dirs {
		id := types.UID(d.Name())
		dir := filepath.Join(p.data.Machines(), d.Name())
		r := providers.Resource{ID: "machines/" + d.Name(), Owners: []types.UID{id}, Ownership: providers.Ours, Description: dir}
		rec, err := p.readRecord(id)
		switch {
		case !datafolder.IsUUID(id) || !d.IsDir():
			r.Kind, r.Owners, r.Ownership = providers.ResourceFile, nil, providers.Ambiguous
		case err != nil:
			r.Kind = providers.ResourceFile // made and not yet described, or half removed
		default:
			r.Kind, r.Description = providers.ResourceDisk, filepath.Join(dir, rec.VM)
		}
		out = append(out, r)
		if registered[d.Name()] && r.Kind == providers.ResourceDisk && files.Exists(p.definition(rec)) {
			out = append(out, providers.Resource{
				Kind: providers.ResourceMachine, ID: d.Name(), Owners: r.Owners, Ownership: providers.Ours,
				Description: "VirtualBox machine " + rec.VM,
			})
			out = append(out, p.listSnapshots(rec)...)
		}
	}
	return out, nil
}

// listImages lists the sealed images and, as files, what imports left.
func (p *Provider) listImages(map[string]bool) ([]providers.Resource, error) {
	dirs, err := os.ReadDir(p.data.Images())
	if err != nil {
		return nil, err
	}
	var out []providers.Resource
	for _, d := range dirs {
		owner := []types.UID{types.UID(d.Name())}
		var entries []os.DirEntry
		if d.IsDir() {
			entries, err = os.ReadDir(filepath.Join(p.data.Images(), d.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		add := func(kind providers.ResourceKind, id string, whose providers.Ownership) {
			out = append(out, providers.Resource{Kind: kind, ID: id, Owners: owner, Ownership: whose, Description: filepath.Join(p.data.Root, id)})
		}
		if !datafolder.IsName(d.Name()) || !d.IsDir() {
			add(providers.ResourceFile, "images/"+d.Name(), providers.Ambiguous)
			continue
		}
		if len(entries) == 0 {
			add(providers.ResourceFile, "images/"+d.Name(), providers.Ours)
		}
		seen := map[string]bool{}
		for _, e := range entries {
			ref := providers.ImageRef{UID: owner[0], Revision: strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".json"), ".import")}
			if seen[ref.Revision] {
				continue
			}
			seen[ref.Revision] = true
			kind := providers.ResourceFile
			if _, err := p.readSealed(ref); err == nil {
				kind = providers.ResourceImage
			}
			add(kind, path.Join("images", d.Name(), ref.Revision), providers.Ours)
		}
	}
	return out, nil
}

// listNetworks lists the networks that machines use, and adapters that none does.
func (p *Provider) listNetworks(map[string]bool) ([]providers.Resource, error) {
	owners, err := p.networkOwners()
	if err != nil {
		return nil, err
	}
	adapters, err := p.adapters()
	if err != nil {
		return nil, err
	}
	for _, a := range adapters {
		if _, used := owners[a.network]; !used {
			owners[a.network] = nil
		}
	}
	out, err := p.doubts(adapters)
	if err != nil {
		return nil, err
	}
	for n, ids := range owners {
		r := providers.Resource{Kind: providers.ResourceNetwork, ID: n.id(), Owners: ids, Ownership: providers.Ours, Description: "VirtualBox " + n.String()}
		out = append(out, r)
	}
	return out, nil
}

// RemoveResource implements providers.Inventory.
func (p *Provider) RemoveResource(ctx context.Context, r providers.Resource) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	object := string(r.Kind) + " " + r.ID
	if r.Ownership != providers.Ours {
		return providers.Errorf(providers.ErrInvalid, object, "it is not known to be ours: it is left alone")
	}
	parts := strings.Split(r.ID, "/")
	switch {
	case r.Kind == providers.ResourceSnapshot:
		return p.removeSnapshot(ctx, object, r.ID)
	case r.Kind == providers.ResourceMachine:
		return p.removeMachine(ctx, types.UID(r.ID))
	case r.Kind == providers.ResourceNetwork:
		return p.removeNetwork(ctx, object, r.ID)
	case len(parts) == 3 && parts[0] == "images" && (r.Kind == providers.ResourceImage || r.Kind == providers.ResourceFile):
		return p.DeleteImage(ctx, providers.ImageRef{UID: types.UID(parts[1]), Revision: parts[2]})
	case len(parts) == 2 && parts[0] == "images" && r.Kind == providers.ResourceFile && datafolder.IsName(parts[1]):
		return p.removeEmpty(object, p.data.ImageDir(types.UID(parts[1])))
	case len(parts) == 2 && parts[0] == "machines" && datafolder.IsUUID(types.UID(parts[1])) && (r.Kind == providers.ResourceDisk || r.Kind == providers.ResourceFile):
		return p.removeFiles(ctx, object, types.UID(parts[1]))
	}
	return providers.Errorf(providers.ErrInvalid, object, "it is not of a kind that is made here")
}

// removeMachine removes a machine that is ours, with its files.
func (p *Provider) removeMachine(ctx context.Context, id types.UID) error {
	_, err := p.look(ctx, id)
	if errors.Is(err, errForeign) {
		return providers.Errorf(providers.ErrInvalid, machineObject(id), "it is not ours: it is left alone")
	}
	if err != nil {
		return err
	}
	return p.DeleteMachine(ctx, id)
}

// removeFiles removes the folder of a machine that VirtualBox does not have.
func (p *Provider) removeFiles(ctx context.Context, object string, id types.UID) error {
	unlock, err := p.locks.Lock(ctx, machineObject(id))
	if err != nil {
		return err
	}
	defer unlock()
	if !files.Exists(p.data.MachineDir(id)) {
		return providers.Errorf(providers.ErrNotFound, object, "it does not exist")
	}
	switch _, err := p.look(ctx, id); {
	case err == nil:
		return providers.Errorf(providers.ErrBusy, object, "machine %s exists and needs it: remove the machine", id)
	case !errors.Is(err, providers.ErrNotFound):
		return err
	}
	if forks, err := p.forksOf(id, ""); err != nil || len(forks) > 0 {
		return forked(object, forks, err)
	}
	return p.removeFolder(ctx, id)
}

func (p *Provider) removeEmpty(object, dir string) error {
	err := os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return providers.Errorf(providers.ErrNotFound, object, "it does not exist")
	}
	return p.fileError(object, err)
}

// removeNetwork removes a network that no machine needs.
func (p *Provider) removeNetwork(ctx context.Context, object, id string) error {
	n, ok := parseNetwork(id)
	if !ok {
		return providers.Errorf(providers.ErrInvalid, object, "it is not ours: it is left alone")
	}
	owners, err := p.networkOwners()
	if err != nil {
		return p.fileError(object, err)
	}
	if users := owners[n]; len(users) > 0 {
		return providers.Errorf(providers.ErrBusy, object, "%d machines need it, such as %s", len(users), users[0])
	}
	if n.Mode != v1.NetworkHostOnly || !files.Exists(p.adapterFile(n)) {
		return providers.Errorf(providers.ErrNotFound, object, "it does not exist")
	}
	return p.leaveNetwork(ctx, n)
}
