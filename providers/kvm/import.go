//go:build linux

package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/source"
)

// ImportImage implements providers.Images.
//
//	source ──copy or download, hash──▶ REVISION.import/ ──unpack, inspect, convert──▶ …/image ──seal──▶ REVISION.qcow2
func (p *Provider) ImportImage(ctx context.Context, spec providers.ImageSpec, progress func(providers.Progress)) (providers.Image, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Image{}, err
	}
	if err := datafolder.CheckRef(spec.ImageRef); err != nil {
		return providers.Image{}, err
	}
	object := fmt.Sprintf("image %q", spec.Name)
	if progress == nil {
		progress = func(providers.Progress) {}
	}
	unlock, err := p.locks.Lock(ctx, imageObject(spec.ImageRef))
	if err != nil {
		return providers.Image{}, err
	}
	defer unlock()
	if img, err := p.readImage(spec.ImageRef); err == nil || !errors.Is(err, providers.ErrNotFound) {
		return img, err
	}
	var img providers.Image
	if spec.From != nil {
		img, err = p.promote(ctx, object, spec, progress)
	} else {
		var origin source.Origin
		if origin, err = source.Of(object, p.Name(), spec); err != nil {
			return providers.Image{}, err
		}
		img, err = p.importDisk(ctx, object, spec, origin, progress)
	}
	p.steps.next()
	// Half an import is worth nothing but for what was downloaded; what cannot
	// be removed now is wiped by the next one.
	source.End(p.data.Staging(spec.ImageRef), p.fileError(object, err))
	if err != nil {
		_ = os.Remove(p.data.ImageDir(spec.UID))
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return providers.Image{}, p.fileError(object, err)
	}
	return img, nil
}

func (p *Provider) importDisk(ctx context.Context, object string, spec providers.ImageSpec, origin source.Origin, progress func(providers.Progress)) (providers.Image, error) {
	dir := p.data.Staging(spec.ImageRef)
	p.sweepDownloads(spec.ImageRef)
	p.steps.next()
	if err := files.Mkdir(filepath.Dir(dir), dirMode); err != nil {
		return providers.Image{}, err
	}
	if err := source.Begin(dir, 0o700); err != nil {
		return providers.Image{}, err
	}
	p.steps.next()
	job := source.Job{
		Object: object, Ref: spec.ImageRef, Origin: origin, Tool: p.img, MaxBytes: p.opts.MaxImageBytes, Progress: progress, Step: p.steps.next, Stall: p.opts.DownloadStall,
	}
	image := filepath.Join(dir, "image")
	img, err := job.Convert(ctx, filepath.Join(dir, "source"), image, v1.DiskFormatQCOW2, func() error {
		p.steps.next()
		return nil
	})
	if err != nil {
		return providers.Image{}, err
	}
	return p.seal(spec, image, img)
}

// sweepDownloads removes what downloads of an image's other revisions left.
func (p *Provider) sweepDownloads(ref providers.ImageRef) {
	source.Sweep(p.data.ImageDir(ref.UID), ref.Revision, func(revision string) (func(), bool) {
		return p.locks.TryLock(imageObject(providers.ImageRef{UID: ref.UID, Revision: revision}))
	})
}

// stage makes the empty folder that an image is imported in.
func (p *Provider) stage(ref providers.ImageRef) (string, error) {
	dir := p.data.Staging(ref)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	p.steps.next()
	if err := files.Mkdir(filepath.Dir(dir), dirMode); err != nil {
		return "", err
	}
	if err := files.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	p.steps.next()
	return dir, nil
}

// fileError gives an error of the data folder a kind.
func (p *Provider) fileError(object string, err error) error {
	return p.data.Error(object, err)
}
