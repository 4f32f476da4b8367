package virtualbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/source"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// sealed is the sidecar of a sealed image.
type sealed struct {
	datafolder.Seal
	// Machine and Snapshot that sandboxes are cloned from, by UUID.
	Machine  types.UID `json:"machine"`
	Snapshot string    `json:"snapshot"`
	// Adopted: the machine is somebody else's, and stays when the image goes.
	Adopted bool `json:"adopted,omitempty"`
}

// CheckSource implements providers.Images.
func (p *Provider) CheckSource(ctx context.Context, spec providers.ImageSpec) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	object := fmt.Sprintf("image %q", spec.Name)
	if spec.From != nil {
		return p.checkFrom(ctx, *spec.From)
	}
	if spec.Source.Machine != nil {
		_, err := p.examineMachine(ctx, object, spec)
		return err
	}
	origin, err := source.Of(object, p.Name(), spec)
	if err != nil {
		return err
	}
	return p.fileError(object, source.Check(ctx, object, origin, p.opts.MaxImageBytes))
}

// GetImage implements providers.Images.
func (p *Provider) GetImage(ctx context.Context, ref providers.ImageRef) (providers.Image, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Image{}, err
	}
	if err := datafolder.CheckRef(ref); err != nil {
		return providers.Image{}, err
	}
	s, err := p.readSealed(ref)
	return s.Image, err
}

// readSealed returns a sealed image. A sidecar without its disk, or one that is
// damaged, seals nothing.
func (p *Provider) readSealed(ref providers.ImageRef) (sealed, error) {
	var s sealed
	if err := p.data.ReadSeal(p.opts.Instance, ref, &s); err != nil {
		return sealed{}, err
	}
	if !datafolder.IsUUID(s.Machine) {
		return sealed{}, p.data.Damaged(ref)
	}
	if !s.Adopted && !files.Exists(p.data.goldenDisk(ref)) {
		return sealed{}, providers.Errorf(providers.ErrNotFound, imageObject(ref), "its file %s is gone", p.data.goldenDisk(ref))
	}
	return s, nil
}

func (p *Provider) sealOf(spec providers.ImageSpec, img providers.Image) datafolder.Seal {
	return datafolder.Seal{Instance: p.opts.Instance, Name: spec.Name, Image: img}
}

// seal writes the sidecar.
func (p *Provider) seal(s sealed) error {
	p.steps.next()
	return p.data.WriteSeal(s.Image.ImageRef, s, 0o400)
}

// DeleteImage implements providers.Images. VirtualBox, asked to delete a machine
// whose disks others lie on, refuses the disks and forgets the machine; so it is
// asked only once nothing lies on them.
func (p *Provider) DeleteImage(ctx context.Context, ref providers.ImageRef) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	if err := datafolder.CheckRef(ref); err != nil {
		return err
	}
	unlock, err := p.locks.Lock(ctx, imageObject(ref))
	if err != nil {
		return err
	}
	defer unlock()
	object := imageObject(ref)
	users, err := p.usersOf(ref)
	if err != nil {
		return p.fileError(object, err)
	}
	if len(users) > 0 {
		return providers.Errorf(providers.ErrBusy, object, "the disks of %d machines depend on it: %s", len(users), strings.Join(users[:min(len(users), 5)], ", "))
	}
	paths := []string{p.data.Sidecar(ref), p.data.golden(ref), p.data.Staging(ref)}
	found := false
	for _, path := range paths {
		found = found || files.Exists(path)
	}
	p.sweepDownloads(ref)
	if !found {
		_ = os.Remove(p.data.ImageDir(ref.UID))
		return providers.Errorf(providers.ErrNotFound, object, "it does not exist")
	}
	s, err := p.readSealed(ref)
	if err != nil && !errors.Is(err, providers.ErrNotFound) {
		return err
	}
	if !s.Adopted {
		if err := p.removeGolden(ctx, ref); err != nil {
			return err
		}
	}
	for _, path := range paths {
		p.steps.next()
		if err := os.RemoveAll(path); err != nil {
			return p.fileError(object, err)
		}
	}
	p.steps.next()
	_ = os.Remove(p.data.ImageDir(ref.UID)) // the last revision takes the folder along
	return nil
}

// usersOf names the machines whose disks lie on an image. Their records are
// asked: they exist before a machine does and may outlive it.
func (p *Provider) usersOf(ref providers.ImageRef) ([]string, error) {
	ids, err := p.data.machineIDs()
	if err != nil {
		return nil, err
	}
	var users []string
	for _, id := range ids {
		if r, err := p.readRecord(id); err == nil && r.Image == ref {
			users = append(users, fmt.Sprintf("%s/%s (%s)", r.Namespace, r.Name, id))
		}
	}
	return users, nil
}

// removeGolden removes the golden machine of an image on which no machine of
// ours lies, with what broken clones have left on its disk.
func (p *Provider) removeGolden(ctx context.Context, ref providers.ImageRef) error {
	object, id := imageObject(ref), goldenID(p.opts.Instance, ref)
	out, err := p.vbox.ListLong(ctx, object, "hdds")
	if err != nil {
		return err
	}
	strays, foreign := childrenOf(vboxmanage.Blocks(out), p.data.golden(ref), p.data.Machines())
	if foreign != "" {
		return providers.Errorf(providers.ErrBusy, object, "the disk %s depends on it, which is not sandboxd's: remove what uses it first", foreign)
	}
	for _, medium := range strays {
		if err := p.ignoreMissing(p.manageImage(ctx, object, "closemedium", "disk", medium)); err != nil {
			return err
		}
	}
	if err := p.ignoreMissing(p.manageImage(ctx, object, "unregistervm", string(id), "--delete")); err != nil {
		return err
	}
	// A VBoxSVC that was killed may have come back with what it knew before.
	now, err := p.list(ctx)
	if err != nil || !now.Registered[string(id)] {
		return err
	}
	_ = p.manageImage(ctx, object, "unregistervm", string(id)) // fails, and does it
	if now, err = p.list(ctx); err == nil && now.Registered[string(id)] {
		err = providers.Errorf(providers.ErrBusy, object, "VirtualBox removed its golden machine and has it still: delete it again")
	}
	return err
}

// childrenOf finds, among all disks, those that lie on one in the folder golden:
// strays in the folder machines, whose machine is gone, by UUID, and any other by
// its path.
func childrenOf(disks []map[string]string, golden, machines string) (strays []string, foreign string) {
	inside := map[string]bool{}
	for _, d := range disks {
		inside[d["UUID"]] = within(golden, d["Location"])
	}
	for _, d := range disks {
		switch {
		case inside[d["UUID"]] || !inside[d["Parent UUID"]]:
		case within(machines, d["Location"]):
			strays = append(strays, d["UUID"])
		default:
			foreign = d["Location"]
		}
	}
	return strays, foreign
}

// within tells whether a path lies in a folder.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// manageImage makes a call that changes an image's machine.
func (p *Provider) manageImage(ctx context.Context, object string, args ...string) error {
	_, err := p.vbox.Run(ctx, vboxmanage.Call{Object: object, Args: args, Limit: vboxmanage.Slow})
	return err
}

func (p *Provider) ignoreMissing(err error) error {
	if errors.Is(err, providers.ErrNotFound) {
		return nil
	}
	return err
}
