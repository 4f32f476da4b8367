//go:build linux

package kvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/domain"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// firewallID names the firewall's tables in the inventory: they are listed when
// no machine needs them any more.
const firewallID = "firewall"

// ListResources implements providers.Inventory.
func (p *Provider) ListResources(ctx context.Context) ([]providers.Resource, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	var all []providers.Resource
	for _, list := range []func(context.Context) ([]providers.Resource, error){p.listMachines, p.listNetworks, p.listMachineFiles, p.listImages} {
		some, err := list(ctx)
		if err != nil {
			return nil, p.fileError("inventory", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// listMachines lists the domains that bear our record.
func (p *Provider) listMachines(ctx context.Context) ([]providers.Resource, error) {
	domains, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), "inventory", libvirtconn.Quick, func(l *libvirt.Libvirt) ([]libvirt.Domain, error) {
		list, _, err := l.ConnectListAllDomains(1, 0)
		return list, err
	})
	if err != nil {
		return nil, err
	}
	var out []providers.Resource
	for _, d := range domains {
		text, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), d.Name, libvirtconn.Quick, func(l *libvirt.Libvirt) (string, error) {
			return l.DomainGetMetadata(d, int32(libvirt.DomainMetadataElement), libvirt.OptString{domain.Namespace}, 0)
		})
		if errors.Is(err, providers.ErrNotFound) { // no record, or gone by now
			continue
		}
		if err != nil {
			return nil, err
		}
		id := types.UID(uuid.UUID(d.UUID).String())
		r := providers.Resource{Kind: providers.ResourceMachine, ID: string(id), Owners: []types.UID{id}, Ownership: providers.Ours, Description: "libvirt domain " + d.Name}
		switch record, err := domain.ReadBare(text); {
		case err == nil && record.Instance != p.opts.Instance:
			continue
		case err != nil || record.Owner != id:
			r.Ownership = providers.Ambiguous
		}
		out = append(out, r)
	}
	return out, nil
}

// listNetworks lists the networks whose name says that they are ours; whether
// they are, their UUID says.
func (p *Provider) listNetworks(ctx context.Context) ([]providers.Resource, error) {
	networks, err := p.libvirtNetworks(ctx)
	if err != nil {
		return nil, err
	}
	owners, err := p.networkOwners()
	if err != nil {
		return nil, err
	}
	var out []providers.Resource
	for _, l := range networks {
		if !strings.HasPrefix(l.Name, identity.NetworkPrefix(p.opts.Instance)) {
			continue
		}
		id := uuid.UUID(l.UUID).String()
		r := providers.Resource{Kind: providers.ResourceNetwork, ID: id, Owners: owners[id], Ownership: providers.Ours, Description: "libvirt network " + l.Name}
		if n, ok := identity.ParseNetwork(p.opts.Instance, l.Name); !ok || n.UUID() != id {
			r.Ownership = providers.Ambiguous
		}
		out = append(out, r)
	}
	bridges, err := p.listBridges(networks, owners)
	if err != nil {
		return nil, err
	}
	out = append(out, bridges...)
	if len(owners) == 0 && p.fw.Exists() {
		out = append(out, providers.Resource{
			Kind: providers.ResourceNetwork, ID: firewallID, Ownership: providers.Ours,
			Description: "nftables tables " + identity.Table(p.opts.Instance),
		})
	}
	return out, nil
}

func (p *Provider) libvirtNetworks(ctx context.Context) ([]libvirt.Network, error) {
	return libvirtconn.Get(ctx, p.conn.Lifecycle(), "libvirt networks", libvirtconn.Quick, func(l *libvirt.Libvirt) ([]libvirt.Network, error) {
		list, _, err := l.ConnectListAllNetworks(1, 0)
		return list, err
	})
}

// networkByUUID finds one of our networks.
func (p *Provider) networkByUUID(ctx context.Context, id string) (identity.Network, bool, error) {
	networks, err := p.libvirtNetworks(ctx)
	if err != nil {
		return identity.Network{}, false, err
	}
	for _, l := range networks {
		if n, ok := identity.ParseNetwork(p.opts.Instance, l.Name); ok && n.UUID() == id && uuid.UUID(l.UUID).String() == id {
			return n, true, nil
		}
	}
	return identity.Network{}, false, nil
}

// listMachineFiles lists what is in the machines' folders, and folders that are
// empty.
func (p *Provider) listMachineFiles(context.Context) ([]providers.Resource, error) {
	return p.listTree(p.data.Machines(), func(dir string, files []fs.DirEntry) []providers.Resource {
		id := types.UID(dir)
		if !datafolder.IsUUID(id) {
			return []providers.Resource{p.fileResource(providers.ResourceFile, "machines/"+dir, nil, providers.Ambiguous)}
		}
		var out []providers.Resource
		for _, f := range files {
			if sub := path.Join("machines", dir, f.Name()); f.IsDir() && (f.Name() == "layers" || f.Name() == "snapshots") {
				out = append(out, p.listSnapshotFiles(id, sub)...)
				continue
			}
			out = append(out, p.fileResource(kindOfFile(f.Name()), path.Join("machines", dir, f.Name()), []types.UID{id}, providers.Ours))
		}
		if len(files) == 0 {
			out = append(out, p.fileResource(providers.ResourceFile, "machines/"+dir, []types.UID{id}, providers.Ours))
		}
		return out
	})
}

func kindOfFile(name string) providers.ResourceKind {
	switch {
	case strings.HasPrefix(name, "disk.qcow2"):
		return providers.ResourceDisk
	case name == "seed.iso":
		return providers.ResourceSeed
	case strings.HasPrefix(name, "console.log"):
		return providers.ResourceLog
	case name == "memory":
		return providers.ResourceState
	default:
		return providers.ResourceFile
	}
}

// listImages lists the sealed images and, as files, what imports left.
func (p *Provider) listImages(context.Context) ([]providers.Resource, error) {
	return p.listTree(p.data.Images(), func(dir string, files []fs.DirEntry) []providers.Resource {
		owner := []types.UID{types.UID(dir)}
		if !datafolder.IsName(dir) {
			return []providers.Resource{p.fileResource(providers.ResourceFile, "images/"+dir, nil, providers.Ambiguous)}
		}
		var out []providers.Resource
		for _, f := range files {
			name := path.Join("images", dir, f.Name())
			ref := providers.ImageRef{UID: owner[0], Revision: strings.TrimSuffix(strings.TrimSuffix(f.Name(), ".json"), ".qcow2")}
			_, err := p.readImage(ref)
			switch sealed := err == nil; {
			case sealed && strings.HasSuffix(f.Name(), ".json"):
				out = append(out, p.fileResource(providers.ResourceImage, path.Join("images", dir, ref.Revision), owner, providers.Ours))
			case sealed && strings.HasSuffix(f.Name(), ".qcow2"): // listed with its sidecar
			default:
				out = append(out, p.fileResource(providers.ResourceFile, name, owner, providers.Ours))
			}
		}
		if len(files) == 0 {
			out = append(out, p.fileResource(providers.ResourceFile, "images/"+dir, owner, providers.Ours))
		}
		return out
	})
}

// listTree visits the folders of a folder. What is none was not made here.
func (p *Provider) listTree(root string, visit func(dir string, files []fs.DirEntry) []providers.Resource) ([]providers.Resource, error) {
	dirs, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var out []providers.Resource
	for _, d := range dirs {
		if !d.IsDir() {
			out = append(out, p.fileResource(providers.ResourceFile, filepath.Base(root)+"/"+d.Name(), nil, providers.Ambiguous))
			continue
		}
		files, err := os.ReadDir(filepath.Join(root, d.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, visit(d.Name(), files)...)
	}
	return out, nil
}

// fileResource describes a file or image by its place in the data folder.
func (p *Provider) fileResource(kind providers.ResourceKind, id string, owners []types.UID, whose providers.Ownership) providers.Resource {
	return providers.Resource{Kind: kind, ID: id, Owners: owners, Ownership: whose, Description: filepath.Join(p.data.Root, id)}
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
	case r.Kind == providers.ResourceSnapshot && len(parts) == 2:
		return p.removeSnapshot(ctx, object, providers.SnapshotRef{Machine: types.UID(parts[0]), ID: types.UID(parts[1])})
	case r.Kind == providers.ResourceMachine:
		return p.removeMachine(ctx, types.UID(r.ID))
	case r.Kind == providers.ResourceNetwork:
		return p.removeNetwork(ctx, object, r.ID)
	case r.Kind == providers.ResourceImage && len(parts) == 3 && parts[0] == "images":
		return p.DeleteImage(ctx, providers.ImageRef{UID: types.UID(parts[1]), Revision: parts[2]})
	case !filepath.IsLocal(r.ID) || path.Clean(r.ID) != r.ID || len(parts) < 2 || len(parts) > 4:
		return providers.Errorf(providers.ErrInvalid, object, "it is not in the data folder")
	case parts[0] == "machines" && datafolder.IsUUID(types.UID(parts[1])):
		return p.removeMachineFile(ctx, object, types.UID(parts[1]), parts[2:])
	case parts[0] == "images" && datafolder.IsName(parts[1]) && len(parts) < 4:
		return p.removeImageFile(ctx, object, types.UID(parts[1]), parts[2:])
	}
	return providers.Errorf(providers.ErrInvalid, object, "it is not of a kind that is made here")
}

// removeMachine removes a domain that is ours, with its files.
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

// removeNetwork removes a network that no machine needs, or the firewall's
// tables.
func (p *Provider) removeNetwork(ctx context.Context, object, id string) error {
	busy := func(owners []types.UID) error {
		return providers.Errorf(providers.ErrBusy, object, "%d machines need it, such as %s", len(owners), owners[0])
	}
	if id == firewallID {
		owners, err := p.networkOwners()
		if err != nil {
			return p.fileError(object, err)
		}
		for _, o := range owners {
			return busy(o)
		}
		if !p.fw.Exists() {
			return providers.Errorf(providers.ErrNotFound, object, "it does not exist")
		}
		return p.dropFirewall(ctx)
	}
	if name, is := strings.CutPrefix(id, bridgeResource); is {
		return p.removeBridge(ctx, object, name)
	}
	n, ok, err := p.networkByUUID(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		return p.notOurNetwork(ctx, object, id)
	}
	unlock, err := p.locks.Lock(ctx, "network "+id)
	if err != nil {
		return err
	}
	defer unlock()
	owners, err := p.networkOwners()
	if err != nil {
		return p.fileError(object, err)
	}
	if o := owners[id]; len(o) > 0 {
		return busy(o)
	}
	if err := p.destroyNetwork(ctx, n); err != nil {
		return err
	}
	return p.dropFirewall(ctx)
}

// notOurNetwork tells a network that is gone from one that is another's.
func (p *Provider) notOurNetwork(ctx context.Context, object, id string) error {
	networks, err := p.libvirtNetworks(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(networks, func(l libvirt.Network) bool { return uuid.UUID(l.UUID).String() == id }) {
		return providers.Errorf(providers.ErrInvalid, object, "it is not ours: it is left alone")
	}
	return providers.Errorf(providers.ErrNotFound, object, "it does not exist")
}

// removeImageFile removes what an import left.
func (p *Provider) removeImageFile(ctx context.Context, object string, id types.UID, rest []string) error {
	revision := ""
	if len(rest) == 1 {
		revision = strings.TrimSuffix(rest[0], path.Ext(rest[0]))
	}
	ref := providers.ImageRef{UID: id, Revision: revision}
	unlock, err := p.locks.Lock(ctx, imageObject(ref))
	if err != nil {
		return err
	}
	defer unlock()
	if datafolder.CheckRef(ref) == nil && path.Ext(rest[0]) != ".import" {
		if _, err := p.readImage(ref); err == nil {
			return providers.Errorf(providers.ErrBusy, object, "it belongs to a sealed image: remove the image")
		}
		users, err := p.disksOn(p.data.image(ref))
		if err != nil {
			return p.fileError(object, err)
		}
		if len(users) > 0 {
			return providers.Errorf(providers.ErrBusy, object, "the disks of %d machines depend on it, such as %s", len(users), users[0])
		}
	}
	return p.removePath(object, p.data.ImageDir(id), rest)
}

// removePath removes a file of a folder, or the folder if it is empty; with the
// last file goes the folder.
func (p *Provider) removePath(object, dir string, rest []string) error {
	target := dir
	remove := os.Remove
	if len(rest) == 1 {
		target, remove = filepath.Join(dir, rest[0]), os.RemoveAll
	}
	if !files.Exists(target) {
		return providers.Errorf(providers.ErrNotFound, object, "it does not exist")
	}
	if err := remove(target); err != nil {
		return p.fileError(object, err)
	}
	if target != dir {
		_ = os.Remove(dir)
	}
	return nil
}
