package source

import (
	"context"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// Job is the import of one image's disk.
type Job struct {
	// Object is what messages call the image.
	Object string
	Ref    providers.ImageRef
	Disk   *v1.DiskSource
	Tool   qemuimg.Tool
	// MaxBytes bounds the disk's virtual size.
	MaxBytes int64
	// Progress is told how far it got.
	Progress func(providers.Progress)
}

// Convert stages the source as one new file, and makes another one of it, in a
// format of the hypervisor's. ready is called in between, when nothing can be
// wrong with the source any more but what qemu-img finds in it.
func (j Job) Convert(ctx context.Context, staged, to string, format v1.DiskFormat, ready func() error) (providers.Image, error) {
	f, digest, err := Stage(ctx, j.Object, j.Disk.Path, staged, j.Progress)
	if err != nil {
		return providers.Image{}, err
	}
	defer func() { _ = f.Close() }()
	if err := CheckDigest(j.Object, j.Disk, digest); err != nil {
		return providers.Image{}, err
	}
	from, size, err := Examine(ctx, j.Tool, j.Object, f, j.Disk, j.MaxBytes)
	if err != nil {
		return providers.Image{}, err
	}
	if err := ready(); err != nil {
		return providers.Image{}, err
	}
	j.Progress(providers.Progress{Stage: "converting", Total: size})
	err = j.Tool.Convert(ctx, staged, from, to, format, func(part float64) {
		j.Progress(providers.Progress{Stage: "converting", Done: int64(part * float64(size)), Total: size})
	})
	if err != nil {
		return providers.Image{}, Error(j.Object, j.Disk.Path, err)
	}
	return providers.Image{
		ImageRef: j.Ref, Digest: "sha256:" + digest, Format: from, VirtualSize: size, SealedAt: time.Now().UTC().Truncate(time.Second),
	}, nil
}
