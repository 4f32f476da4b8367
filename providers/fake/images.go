package fake

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
	"sandboxd.dev/sandboxd/providers/internal/source"
)

// image is a sealed image. Of one that was imported from a file only what is
// known of it is kept, not its content.
type image struct {
	info      providers.Image
	agentless bool
	// content of an image that was copied from a machine's disk; nil stands for
	// a freshly installed one.
	content *guest.Disk
}

func refObject(r ref) string { return fmt.Sprintf("image %q", r.String()) }

func imageObject(name string) string { return fmt.Sprintf("image %q", name) }

func imageKey(i providers.Instance, r ref) string { return "image/" + string(i) + "/" + r.String() }

// ImportImage implements providers.Images.
func (p *Provider) ImportImage(ctx context.Context, s providers.ImageSpec,
	progress func(providers.Progress),
) (got providers.Image, err error) {
	if progress == nil {
		progress = func(providers.Progress) {}
	}
	err = p.do(ctx, "ImportImage", imageKey(p.instance, s.ImageRef), s.UID, func(v *verb) error {
		sealed := false
		err := p.look(ctx, func() error {
			var img *image
			if img, sealed = p.folder().images[s.ImageRef]; sealed {
				got = img.info
			}
			return nil
		})
		if err != nil || sealed {
			return err
		}
		got, err = p.importImage(v, s, progress)
		return err
	})
	return got, err
}

func (p *Provider) importImage(v *verb, s providers.ImageSpec, progress func(providers.Progress),
) (providers.Image, error) {
	if err := p.validateImage(s); err != nil {
		return providers.Image{}, err
	}
	err := v.step("stage", func() error { p.folder().staged[s.ImageRef] = true; return nil })
	if err != nil {
		return providers.Image{}, err
	}
	img, err := p.read(v, s, progress)
	if err == nil {
		err = v.step("seal", func() error {
			img.info.SealedAt = p.w.clock.Now()
			p.folder().images[s.ImageRef] = img
			return nil
		})
	}
	// Whatever happened, also to the context, the staged copy is of no use now.
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	delete(p.folder().staged, s.ImageRef)
	if err != nil {
		return providers.Image{}, err
	}
	return img.info, nil
}

// validateImage refuses what cannot be imported. The simulated VirtualBox has
// every machine that is named, for adoption.
func (p *Provider) validateImage(s providers.ImageSpec) error {
	object := imageObject(s.Name)
	switch {
	case !isUUID(s.UID) || !isWord(s.Revision):
		return providers.Errorf(providers.ErrInvalid, object,
			"%q is not a UUID with a revision of letters and digits", s.ImageRef)
	case s.From != nil:
		return nil
	case s.Source.Machine != nil && p.name == v1.ProviderVirtualBox:
		return nil
	case brought(s.Source):
		return nil
	case s.Source.Disk == nil:
		return providers.Errorf(providers.ErrUnsupported, object,
			"the simulated hypervisor imports disks and artifacts only: give it a source.disk or a source.oci")
	case !filepath.IsAbs(s.Source.Disk.Path):
		return providers.Errorf(providers.ErrInvalid, object,
			"the path %q of its source is not absolute", s.Source.Disk.Path)
	}
	return nil
}

// read finds out what the source is and takes the time that an import takes.
func (p *Provider) read(v *verb, s providers.ImageSpec, progress func(providers.Progress)) (*image, error) {
	if s.From != nil {
		return p.copyDisk(v, s, progress)
	}
	d := s.Source.Disk
	object := imageObject(s.Name)
	img := &image{info: providers.Image{ImageRef: s.ImageRef}}
	if s.Source.Machine != nil {
		img.info.Format, img.info.VirtualSize = v1.DiskFormatVDI, 1<<30
		progress(providers.Progress{Stage: "adopting"})
		return img, v.ctx.Err()
	}
	if brought(s.Source) {
		var err error
		if img.info, err = p.bring(v, s, progress); err != nil {
			return nil, err
		}
		return img, p.convert(v, img.info.ActualSize, progress)
	}
	if src, ok := p.w.source(d.Path); ok {
		img.agentless = src.Agentless
		img.info.Digest = "sha256:" + src.SHA256
		img.info.Format = cmp.Or(src.Format, v1.DiskFormatQCOW2)
		img.info.VirtualSize = cmp.Or(src.VirtualSize, 1<<30)
		img.info.ActualSize = img.info.VirtualSize / 16
		progress(providers.Progress{Stage: "reading", Total: img.info.ActualSize})
	} else if err := readFile(v.ctx, object, d.Path, true, &img.info, progress); err != nil {
		return nil, err
	}
	if err := cmp.Or(compare(object, d, img.info), compareRecorded(s, img.info)); err != nil {
		return nil, err
	}
	return img, p.convert(v, img.info.ActualSize, progress)
}

// origin finds the disk that an image is to be a copy of; it needs the lock.
func (p *Provider) origin(s providers.ImageSpec) (*disk, error) {
	if m := p.own(s.From.Machine); s.From.Snapshot == "" && m != nil && m.power == providers.PowerSaved {
		return nil, providers.Errorf(providers.ErrBusy, machineObject(m.id),
			"it is suspended: stop it, or name a snapshot, to make an image of its disk")
	}
	d, err := p.content(*s.From)
	if err != nil {
		return nil, err
	}
	if s.MaxBytes > 0 && d.Size() > s.MaxBytes {
		return nil, providers.Errorf(providers.ErrInvalid, imageObject(s.Name),
			"the disk of %s has %d bytes, more than the %d that it may have", s.From, d.Size(), s.MaxBytes)
	}
	return d, nil
}

// copyDisk makes an image of a disk of ours.
func (p *Provider) copyDisk(v *verb, s providers.ImageSpec, progress func(providers.Progress)) (*image, error) {
	img := &image{info: providers.Image{ImageRef: s.ImageRef, Format: v1.DiskFormatQCOW2}}
	err := v.step("copy", func() error {
		d, err := p.origin(s)
		if err != nil {
			return err
		}
		img.content = d.Disk
		if below := p.folder().images[d.image]; below != nil {
			img.agentless = below.agentless
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	if err := img.content.Dump(h); err != nil {
		return nil, providers.Errorf(providers.ErrUnavailable, imageObject(s.Name), "its disk cannot be read: %w", err)
	}
	img.info.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	img.info.VirtualSize, img.info.ActualSize = img.content.Size(), max(img.content.Used(), 1)
	progress(providers.Progress{Stage: "copying", Total: img.info.ActualSize})
	return img, p.convert(v, img.info.ActualSize, progress)
}

// compare refuses a source that is not what the manifest says. A digest that is
// not known is not compared.
func compare(object string, d *v1.DiskSource, info providers.Image) error {
	if d.SHA256 != "" && info.Digest != "" && info.Digest != "sha256:"+d.SHA256 {
		return providers.Errorf(providers.ErrInvalid, object,
			"%q has the digest %s, not sha256:%s: correct the manifest or the file",
			d.Path, info.Digest, d.SHA256).WithReason(providers.ReasonDigestMismatch)
	}
	if d.Format != "" && info.Format != d.Format {
		return providers.Errorf(providers.ErrInvalid, object,
			"%q is a %s file, not %s: correct the manifest", d.Path, info.Format, d.Format).
			WithReason(providers.ReasonFormatMismatch)
	}
	return nil
}

// CheckSource implements providers.Images. It reads real files as ImportImage
// does; those that exist in the simulation only have nothing to look at.
func (p *Provider) CheckSource(ctx context.Context, s providers.ImageSpec) error {
	if err := p.look(ctx, func() error { return nil }); err != nil {
		return err
	}
	if err := p.validateImage(s); err != nil {
		return err
	}
	if s.From != nil {
		return p.look(ctx, func() error { _, err := p.origin(s); return err })
	}
	if s.Source.Machine != nil {
		return nil
	}
	d, object := s.Source.Disk, imageObject(s.Name)
	if brought(s.Source) {
		origin, err := source.Of(object, p.name, s)
		if err != nil {
			return err
		}
		return source.Check(ctx, object, origin, maxImageBytes)
	}
	if src, ok := p.w.source(d.Path); ok {
		return compare(object, d, providers.Image{
			Digest: "sha256:" + src.SHA256, Format: cmp.Or(src.Format, v1.DiskFormatQCOW2),
		})
	}
	var info providers.Image
	digest := d.SHA256 != ""
	if stat, err := os.Stat(d.Path); err == nil && stat.Size() > providers.MaxCheckedDigest {
		digest = false
	}
	if err := readFile(ctx, object, d.Path, digest, &info, func(providers.Progress) {}); err != nil {
		return err
	}
	return compare(object, d, info)
}

// importSlices is in how many parts an import reports its progress.
const importSlices = 10

func (p *Provider) convert(v *verb, total int64, progress func(providers.Progress)) error {
	if p.w.latency.Import <= 0 {
		return v.ctx.Err()
	}
	for i := range int64(importSlices) {
		t := p.w.clock.NewTimer(p.w.latency.Import / importSlices)
		select {
		case <-t.C():
		case <-v.ctx.Done():
			t.Stop()
			return v.ctx.Err()
		}
		progress(providers.Progress{Stage: "converting", Done: total * (i + 1) / importSlices, Total: total})
		if err := p.look(v.ctx, func() error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// readFile looks at a real file and fills in what it is, with its digest if
// that is wanted.
func readFile(ctx context.Context, object, path string, digest bool, info *providers.Image,
	progress func(providers.Progress),
) error {
	// Without blocking, because the path may name a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return providers.Errorf(providers.ErrNotFound, object, "%q does not exist on this host", path).
			WithReason(providers.ReasonSourceNotFound)
	}
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, object, "its source cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }()
	stat, err := f.Stat()
	if err != nil || !stat.Mode().IsRegular() {
		return providers.Errorf(providers.ErrInvalid, object, "%q is not a regular file", path)
	}
	info.ActualSize = stat.Size()
	if err := inspect(object, f, info); err != nil || !digest {
		return err
	}
	h := sha256.New()
	buf := make([]byte, 1<<20)
	var done int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		done += int64(n)
		progress(providers.Progress{Stage: "reading", Done: done, Total: info.ActualSize})
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return providers.Errorf(providers.ErrInvalid, object, "its source cannot be read: %w", err)
		}
	}
	info.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return nil
}

// GetImage implements providers.Images.
func (p *Provider) GetImage(ctx context.Context, r ref) (got providers.Image, err error) {
	err = p.look(ctx, func() error {
		img, ok := p.folder().images[r]
		if !ok {
			return providers.Errorf(providers.ErrNotFound, refObject(r), "no such image")
		}
		got = img.info
		return nil
	})
	return got, err
}

// DeleteImage implements providers.Images.
func (p *Provider) DeleteImage(ctx context.Context, r ref) error {
	return p.do(ctx, "DeleteImage", imageKey(p.instance, r), r.UID, func(v *verb) error {
		return v.step("remove", func() error { return p.removeImage(r) })
	})
}

// removeImage needs the lock.
func (p *Provider) removeImage(r ref) error {
	f := p.folder()
	if f.images[r] == nil && !f.staged[r] {
		return providers.Errorf(providers.ErrNotFound, refObject(r), "no such image")
	}
	clones := 0
	for _, pt := range f.parts {
		lies := pt.disk != nil && pt.disk.image == r
		for _, s := range pt.snapshots {
			lies = lies || s.disk.image == r
		}
		if lies {
			clones++
		}
	}
	if clones > 0 {
		return providers.Errorf(providers.ErrBusy, refObject(r),
			"%d machines are cloned from it: delete them first", clones)
	}
	delete(f.images, r)
	delete(f.staged, r)
	return nil
}
