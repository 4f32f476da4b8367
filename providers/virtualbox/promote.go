package virtualbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/disk/block"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/source"
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

// importFrom makes an image of a disk of ours.
//
//	layers ──read through──▶ REVISION.import/source, raw ──qemu-img──▶ REVISION/disk.vdi
//	  ──▶ as of a disk file
//
// VirtualBox itself copies no disk that has grown since its parent was made.
func (p *Provider) importFrom(ctx context.Context, object string, spec providers.ImageSpec, progress func(providers.Progress)) (providers.Image, error) {
	if err := p.checkFrom(ctx, *spec.From); err != nil {
		return providers.Image{}, err
	}
	if err := p.beginImport(ctx, spec.ImageRef); err != nil {
		return providers.Image{}, err
	}
	staged, path := filepath.Join(p.data.Staging(spec.ImageRef), "source"), p.data.goldenDisk(spec.ImageRef)
	size, err := p.copyDisk(ctx, object, spec, staged, progress)
	if err != nil {
		return providers.Image{}, err
	}
	p.steps.next()
	if err := files.Mkdir(p.data.golden(spec.ImageRef), dirMode); err != nil {
		return providers.Image{}, err
	}
	err = p.img.Convert(ctx, staged, v1.DiskFormatRaw, path, v1.DiskFormatVDI, func(part float64) {
		progress(providers.Progress{Stage: "converting", Done: int64(part * float64(size)), Total: size})
	})
	if err != nil {
		return providers.Image{}, err
	}
	p.steps.next()
	if err := files.Sync(path); err != nil {
		return providers.Image{}, err
	}
	progress(providers.Progress{Stage: "sealing", Total: size})
	if err := p.makeGolden(ctx, object, spec); err != nil {
		return providers.Image{}, err
	}
	digest, err := source.DigestOf(ctx, path, func(providers.Progress) {})
	if err != nil {
		return providers.Image{}, err
	}
	return p.sealDisk(spec, providers.Image{
		ImageRef: spec.ImageRef, Digest: digest, Format: v1.DiskFormatVDI, VirtualSize: size,
		SealedAt: time.Now().UTC().Truncate(time.Second),
	})
}

// copyDisk copies the content of a disk into a new file, and returns its size. It
// does not change meanwhile.
func (p *Provider) copyDisk(ctx context.Context, object string, spec providers.ImageSpec, to string, progress func(providers.Progress)) (int64, error) {
	from, err := p.OpenDisk(ctx, *spec.From)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	if err := p.checkFrom(ctx, *spec.From); err != nil { // now that it stays so
		return 0, err
	}
	limit := p.opts.MaxImageBytes
	if spec.MaxBytes != 0 {
		limit = min(limit, spec.MaxBytes)
	}
	if from.Size > limit {
		return 0, providers.Errorf(providers.ErrInvalid, object, "its disk of %d GiB is larger than the limit of %d GiB", from.Size>>30, limit>>30)
	}
	disk, err := composed(from)
	if err != nil {
		return 0, providers.Errorf(providers.ErrUnavailable, spec.From.String(), "its disk cannot be read: %w", err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, datafolder.FileMode)
	if err != nil {
		return 0, err
	}
	err = flatten(ctx, disk, out, func(done int64) {
		progress(providers.Progress{Stage: "copying", Done: done, Total: from.Size})
	})
	return from.Size, errors.Join(err, out.Close())
}

// composed is the content of an opened disk.
func composed(d providers.Disk) (*block.Disk, error) {
	layers, ids := make([]block.Layer, len(d.Layers)), make([]int, len(d.Layers))
	for i, l := range d.Layers {
		info, err := l.File.Stat()
		if err != nil {
			return nil, err
		}
		if layers[i], err = block.Open(l.File, info.Size(), string(l.Format)); err != nil {
			return nil, fmt.Errorf("%s: %w", l.File.Name(), err)
		}
		ids[i] = i + 1
	}
	return block.Compose(layers, ids, d.Size)
}

// flatten writes a disk's content into an empty file. What is zeros is left out.
func flatten(ctx context.Context, d *block.Disk, to *os.File, report func(done int64)) error {
	const piece = 1 << 20
	buf, zeros := make([]byte, piece), make([]byte, piece)
	for off := int64(0); off < d.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, n, err := d.Source(off, d.Size()-off)
		if err != nil {
			return err
		}
		if from.Layer != 0 {
			n = min(n, piece)
			if _, err := d.ReadAt(buf[:n], off); err != nil {
				return err
			}
			if !bytes.Equal(buf[:n], zeros[:n]) {
				if _, err := to.WriteAt(buf[:n], off); err != nil {
					return err
				}
			}
		}
		off += n
		report(off)
	}
	return to.Truncate(d.Size())
}
