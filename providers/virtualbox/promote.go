package virtualbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/source"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// checkFrom tells whether the disk that an image is to be made of can be read.
func (p *Provider) checkFrom(ctx context.Context, from providers.DiskRef) error {
	if err := p.checkDisk(ctx, from); err != nil || from.Machine == "" || from.Snapshot != "" {
		return err
	}
	m, err := p.look(ctx, from.Machine)
	if err == nil && m.power != providers.PowerOff {
		err = providers.Errorf(providers.ErrBusy, machineObject(m.id), "it is %s: an image can be made of a machine that is off, or of a snapshot", m.power)
	}
	return err
}

// importFrom makes an image of a disk of ours: VirtualBox copies the whole content
// into one file.
func (p *Provider) importFrom(ctx context.Context, object string, spec providers.ImageSpec, progress func(providers.Progress)) (providers.Image, error) {
	if err := p.checkFrom(ctx, *spec.From); err != nil {
		return providers.Image{}, err
	}
	if err := p.discardGolden(ctx, spec.ImageRef); err != nil {
		return providers.Image{}, err
	}
	for _, dir := range []string{p.data.ImageDir(spec.UID), p.data.golden(spec.ImageRef)} {
		p.steps.next()
		if err := files.Mkdir(dir, dirMode); err != nil {
			return providers.Image{}, err
		}
	}
	size, err := p.copyDisk(ctx, object, spec, progress)
	if err != nil {
		return providers.Image{}, err
	}
	path := p.data.goldenDisk(spec.ImageRef)
	p.steps.next()
	if err := files.Sync(path); err != nil {
		return providers.Image{}, err
	}
	progress(providers.Progress{Stage: "sealing", Total: size})
	if err := p.makeGolden(ctx, object, spec); err != nil {
		return providers.Image{}, err
	}
	digest, err := digestOf(ctx, path)
	if err != nil {
		return providers.Image{}, err
	}
	return p.sealDisk(spec, providers.Image{
		ImageRef: spec.ImageRef, Digest: "sha256:" + digest, Format: v1.DiskFormatVDI, VirtualSize: size,
		SealedAt: time.Now().UTC().Truncate(time.Second),
	})
}

// copyDisk copies a disk into the file of a golden machine, and returns its size.
// What it is made of does not change meanwhile.
func (p *Provider) copyDisk(ctx context.Context, object string, spec providers.ImageSpec, progress func(providers.Progress)) (int64, error) {
	layers, release, err := p.holdDisk(ctx, *spec.From)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := p.checkFrom(ctx, *spec.From); err != nil { // now that it stays so
		return 0, err
	}
	size, limit := layers[0].size, p.opts.MaxImageBytes
	if spec.MaxBytes != 0 {
		limit = min(limit, spec.MaxBytes)
	}
	if size > limit {
		return 0, providers.Errorf(providers.ErrInvalid, object, "its disk of %d GiB is larger than the limit of %d GiB", size>>30, limit>>30)
	}
	progress(providers.Progress{Stage: "copying", Total: size})
	_, err = p.vbox.Run(ctx, vboxmanage.Call{
		Object: object, Limit: longest,
		Args: []string{"clonemedium", "disk", layers[0].id, p.data.goldenDisk(spec.ImageRef), "--format", "VDI"},
	})
	return size, err
}

// digestOf reads a file.
func digestOf(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if err := source.Copy(ctx, f, nil, sum, func(int64) {}); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
