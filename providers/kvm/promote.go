//go:build linux

package kvm

import (
	"context"
	"os"
	"path/filepath"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/source"
)

// promoteMargin is the space left free besides what a copy is known to need, in
// bytes.
const promoteMargin = 64 << 20

// holdOrigin finds and holds the disk that an image is to be a copy of.
func (p *Provider) holdOrigin(ctx context.Context, object string, spec providers.ImageSpec) (chain, func(), error) {
	c, release, err := p.holdDisk(ctx, *spec.From)
	if err != nil {
		return c, nil, err
	}
	if err := p.mayPromote(ctx, object, spec, c); err != nil {
		release()
		return c, nil, err
	}
	return c, release, nil
}

func (p *Provider) mayPromote(ctx context.Context, object string, spec providers.ImageSpec, c chain) error {
	limit := p.opts.MaxImageBytes
	if spec.MaxBytes > 0 {
		limit = min(limit, spec.MaxBytes)
	}
	if c.size > limit {
		return providers.Errorf(providers.ErrInvalid, object, "the disk of %s has %d bytes, more than the %d that an image may have", spec.From, c.size, limit)
	}
	if spec.From.Machine == "" || spec.From.Snapshot != "" {
		return nil
	}
	m, err := p.look(ctx, spec.From.Machine)
	if err == nil && m.power == providers.PowerSaved {
		return providers.Errorf(providers.ErrBusy, machineObject(m.id), "it is suspended: stop it, or name a snapshot, to make an image of its disk")
	}
	return err
}

// promote makes an image of a disk of ours: all of its layers become one file.
// What QEMU knows of the layers is theirs since before a guest wrote to them, and
// was checked; qemu-img may open them and nothing else.
func (p *Provider) promote(ctx context.Context, object string, spec providers.ImageSpec, progress func(providers.Progress)) (providers.Image, error) {
	var none providers.Image
	c, release, err := p.holdOrigin(ctx, object, spec)
	if err != nil {
		return none, err
	}
	defer func() { release() }()
	dir, err := p.stage(spec.ImageRef)
	if err != nil {
		return none, err
	}
	var need int64
	for _, path := range c.files {
		info, err := os.Stat(path)
		if err != nil {
			return none, err
		}
		need += files.Allocated(info)
	}
	if free := files.Free(dir); free < min(need, c.size)+promoteMargin {
		return none, providers.Errorf(providers.ErrCapacity, object,
			"copying %s needs up to %d MiB in %s, where %d MiB are free", spec.From, need>>20, dir, free>>20)
	}
	image := filepath.Join(dir, "image")
	progress(providers.Progress{Stage: "copying", Total: c.size})
	err = p.img.Flatten(ctx, c.files[0], c.files[1:], image, func(part float64) {
		progress(providers.Progress{Stage: "copying", Done: int64(part * float64(c.size)), Total: c.size})
	})
	if err != nil {
		return none, err
	}
	release()
	release = func() {}
	p.steps.next()
	digest, err := source.DigestOf(ctx, image, progress)
	if err != nil {
		return none, err
	}
	return p.seal(spec, image, providers.Image{
		ImageRef: spec.ImageRef, Digest: digest, Format: v1.DiskFormatQCOW2, VirtualSize: c.size, SealedAt: time.Now().UTC().Truncate(time.Second),
	})
}
