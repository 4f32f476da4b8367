package virtualbox

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

// controller is the storage controller of the machines that we make, and
// sealSnapshot the snapshot that their clones are made of.
const (
	controller   = "SATA"
	sealSnapshot = "sealed"
)

// minDisk is the size of one block of a VDI file, in bytes: VirtualBox clones no
// smaller disk.
const minDisk = 1 << 20

// defaultOSType is used for images that name none.
const defaultOSType = "Linux_64"

// ImportImage implements providers.Images.
//
//	source ──copy or download, hash, unpack, inspect──▶ REVISION.import/ ──qemu-img──▶ REVISION/disk.vdi
//	  ──▶ createvm, modifyvm, storagectl, storageattach, snapshot ──▶ REVISION.json
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
	if s, err := p.readSealed(spec.ImageRef); err == nil || !errors.Is(err, providers.ErrNotFound) {
		return s.Image, err
	}
	if spec.From == nil && spec.Source.Machine != nil {
		return p.adopt(ctx, object, spec, progress)
	}
	img, err := p.importContent(ctx, object, spec, progress)
	p.steps.next()
	source.End(p.data.Staging(spec.ImageRef), p.fileError(object, err))
	if err != nil {
		// Half an import is worth nothing; what cannot be removed now is wiped
		// by the next one.
		if left := p.discardGolden(context.WithoutCancel(ctx), spec.ImageRef); left != nil {
			providers.Logger(ctx, p.log).Info("a golden machine is left of an import", "image", spec.String(), "error", left.Error())
		}
		_ = os.Remove(p.data.ImageDir(spec.UID))
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return providers.Image{}, p.fileError(object, err)
	}
	return img, nil
}

// importContent makes an image of a disk of ours, or of a source.
func (p *Provider) importContent(ctx context.Context, object string, spec providers.ImageSpec, progress func(providers.Progress)) (providers.Image, error) {
	if spec.From != nil {
		return p.importFrom(ctx, object, spec, progress)
	}
	origin, err := source.Of(object, p.Name(), spec)
	if err != nil {
		return providers.Image{}, err
	}
	return p.importDisk(ctx, object, spec, origin, progress)
}

// sweepDownloads removes what downloads of an image's other revisions left.
func (p *Provider) sweepDownloads(ref providers.ImageRef) {
	source.Sweep(p.data.ImageDir(ref.UID), ref.Revision, func(revision string) (func(), bool) {
		return p.locks.TryLock(imageObject(providers.ImageRef{UID: ref.UID, Revision: revision}))
	})
}

// discardGolden removes what an import that did not come to its end has made.
func (p *Provider) discardGolden(ctx context.Context, ref providers.ImageRef) error {
	if !files.Exists(p.data.golden(ref)) {
		return nil
	}
	if err := p.removeGolden(ctx, ref); err != nil {
		return err
	}
	return p.fileError(imageObject(ref), os.RemoveAll(p.data.golden(ref)))
}

// beginImport clears away what an import has left, and makes the folders for one.
func (p *Provider) beginImport(ctx context.Context, ref providers.ImageRef) error {
	// VirtualBox must not have the disk that is written.
	if err := p.discardGolden(ctx, ref); err != nil {
		return err
	}
	p.steps.next()
	p.sweepDownloads(ref)
	if err := files.Mkdir(p.data.ImageDir(ref.UID), dirMode); err != nil {
		return err
	}
	return source.Begin(p.data.Staging(ref), dirMode)
}

func (p *Provider) importDisk(ctx context.Context, object string, spec providers.ImageSpec, origin source.Origin, progress func(providers.Progress)) (providers.Image, error) {
	if err := p.beginImport(ctx, spec.ImageRef); err != nil {
		return providers.Image{}, err
	}
	staging := p.data.Staging(spec.ImageRef)
	job := source.Job{
		Object: object, Ref: spec.ImageRef, Origin: origin, Tool: p.img, MaxBytes: p.opts.MaxImageBytes, Progress: progress, Step: p.steps.next, Stall: p.opts.DownloadStall,
	}
	vdi := p.data.goldenDisk(spec.ImageRef)
	img, err := job.Convert(ctx, filepath.Join(staging, "source"), vdi, v1.DiskFormatVDI, func() error {
		p.steps.next()
		return files.Mkdir(p.data.golden(spec.ImageRef), dirMode)
	})
	if err != nil {
		return providers.Image{}, err
	}
	p.steps.next()
	if err := files.Sync(vdi); err != nil {
		return providers.Image{}, err
	}
	progress(providers.Progress{Stage: "sealing"})
	if img.VirtualSize < minDisk {
		if err := p.manageImage(ctx, object, "modifymedium", "disk", vdi, "--resizebyte", formatBytes(minDisk)); err != nil {
			return providers.Image{}, err
		}
	}
	if err := p.makeGolden(ctx, object, spec); err != nil {
		return providers.Image{}, err
	}
	return p.sealDisk(spec, img)
}

// makeGolden makes the golden machine around its disk, and its snapshot. It is
// never started.
func (p *Provider) makeGolden(ctx context.Context, object string, spec providers.ImageSpec) error {
	id := string(goldenID(p.opts.Instance, spec.ImageRef))
	for _, args := range [][]string{
		{
			"createvm", "--name", vmName("golden", spec.Name, string(spec.UID)[:min(8, len(spec.UID))], spec.Revision), "--uuid", id,
			"--ostype", osType(spec.Machine.OSType), "--basefolder", p.data.golden(spec.ImageRef), "--register",
		},
		append([]string{"modifyvm", id, "--description", fmt.Sprintf("golden image %s of sandboxd, instance %s", spec.Name, p.opts.Instance)},
			hardened(spec.Machine.Firmware, nil)...),
		{"storagectl", id, "--name", controller, "--add", "sata", "--controller", "IntelAhci", "--portcount", "2", "--bootable", "on"},
		{
			"storageattach", id, "--storagectl", controller, "--port", "0", "--device", "0",
			"--type", "hdd", "--medium", p.data.goldenDisk(spec.ImageRef),
		},
		{"snapshot", id, "take", sealSnapshot},
	} {
		if err := p.manageImage(ctx, object, args...); err != nil {
			if args[0] == "createvm" && errors.Is(err, providers.ErrInvalid) {
				return p.notCreated(ctx, object, spec, id, err)
			}
			return err
		}
	}
	return nil
}

// notCreated words why VirtualBox takes what a golden machine is made with for
// wrong: it says the same of a UUID that it has.
func (p *Provider) notCreated(ctx context.Context, object string, spec providers.ImageSpec, id string, err error) error {
	now, listErr := p.list(ctx)
	switch {
	case listErr != nil:
		return listErr
	case now.Registered[id]:
		return providers.Errorf(providers.ErrBusy, object, "VirtualBox has the golden machine %s of an earlier import still, which is removed now: tried again (%w)", id, said(err))
	}
	return providers.Errorf(providers.ErrInvalid, object, "its golden machine cannot be made; is spec.machine.osType %q one of `VBoxManage list ostypes`? %w", osType(spec.Machine.OSType), said(err))
}

func osType(name string) string {
	if name == "" {
		return defaultOSType
	}
	return name
}

// sealDisk writes the seal of an imported image.
func (p *Provider) sealDisk(spec providers.ImageSpec, img providers.Image) (providers.Image, error) {
	info, err := os.Stat(p.data.goldenDisk(spec.ImageRef))
	if err != nil {
		return providers.Image{}, err
	}
	img.ActualSize = files.Allocated(info)
	err = p.seal(sealed{
		Seal: p.sealOf(spec, img), Machine: goldenID(p.opts.Instance, spec.ImageRef), Snapshot: sealSnapshot,
	})
	return img, err
}
