//go:build linux

package kvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

func imageObject(ref providers.ImageRef) string { return "image " + ref.String() }

// GetImage implements providers.Images.
func (p *Provider) GetImage(ctx context.Context, ref providers.ImageRef) (providers.Image, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Image{}, err
	}
	if err := datafolder.CheckRef(ref); err != nil {
		return providers.Image{}, err
	}
	return p.readImage(ref)
}

// readImage returns a sealed image. A sidecar without its image, or one that
// is damaged, seals nothing.
func (p *Provider) readImage(ref providers.ImageRef) (providers.Image, error) {
	object := imageObject(ref)
	var s datafolder.Seal
	if err := p.data.ReadSeal(p.opts.Instance, ref, &s); err != nil {
		return providers.Image{}, err
	}
	info, err := os.Lstat(p.data.image(ref))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return providers.Image{}, providers.Errorf(providers.ErrNotFound, object, "its file %s is gone", p.data.image(ref))
	case err != nil:
		return providers.Image{}, p.fileError(object, err)
	case !info.Mode().IsRegular():
		return providers.Image{}, providers.Errorf(providers.ErrNotFound, object, "%s is not a file", p.data.image(ref))
	}
	return s.Image, nil
}

// DeleteImage implements providers.Images.
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
	users, err := p.disksOn(p.data.image(ref))
	if err != nil {
		return p.fileError(imageObject(ref), err)
	}
	if len(users) > 0 {
		return providers.Errorf(providers.ErrBusy, imageObject(ref), "the disks of %d machines depend on it, such as %s", len(users), users[0])
	}
	found := false
	for _, path := range []string{p.data.Sidecar(ref), p.data.image(ref), p.data.Staging(ref)} {
		if !files.Exists(path) {
			continue
		}
		found = true
		p.steps.next()
		if err := os.RemoveAll(path); err != nil {
			return p.fileError(imageObject(ref), err)
		}
	}
	p.sweepDownloads(ref)
	_ = os.Remove(p.data.ImageDir(ref.UID)) // the last revision takes the folder along
	if !found {
		return providers.Errorf(providers.ErrNotFound, imageObject(ref), "it does not exist")
	}
	return nil
}

// disksOn lists the machines whose disks or snapshots lie on an image file. The
// disks themselves are asked: they exist before a machine does and may outlive it.
func (p *Provider) disksOn(base string) ([]types.UID, error) {
	on, err := p.overlays()
	if err != nil {
		return nil, err
	}
	var users []types.UID
	for _, path := range on[base] {
		if id := p.ownerOf(path); !slices.Contains(users, id) {
			users = append(users, id)
		}
	}
	return users, nil
}

// readDisk reads the header of a machine's disk.
func readDisk(path string) (qemuimg.Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return qemuimg.Header{}, err
	}
	defer func() { _ = f.Close() }()
	return qemuimg.ReadOverlay(f)
}

// seal makes an image file final: nobody may write to it, its content is on
// disk, and the sidecar that says so comes last.
func (p *Provider) seal(spec providers.ImageSpec, from string, img providers.Image) (providers.Image, error) {
	to := p.data.image(spec.ImageRef)
	if err := files.Sync(from); err != nil {
		return providers.Image{}, err
	}
	if err := os.Chmod(from, 0o444); err != nil {
		return providers.Image{}, err
	}
	info, err := os.Stat(from)
	if err != nil {
		return providers.Image{}, err
	}
	img.ActualSize = files.Allocated(info)
	p.steps.next()
	if err := os.Rename(from, to); err != nil {
		return providers.Image{}, err
	}
	if err := files.SyncDir(filepath.Dir(to)); err != nil {
		return providers.Image{}, err
	}
	p.steps.next()
	return img, p.data.WriteSeal(spec.ImageRef, datafolder.Seal{Instance: p.opts.Instance, Name: spec.Name, Image: img}, 0o444)
}
