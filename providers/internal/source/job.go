package source

import (
	"cmp"
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
	Origin Origin
	Tool   qemuimg.Tool
	// MaxBytes bounds the disk's virtual size.
	MaxBytes int64
	// Stall is how long a server may send nothing; 0 means the default.
	Stall time.Duration
	// Progress is told how far it got.
	Progress func(providers.Progress)
	// Step is called before each change of the data folder.
	Step func()
}

// Convert stages the source as one new file, and makes another one of it, in a
// format of the hypervisor's. ready is called in between, when nothing can be
// wrong with the source any more but what qemu-img finds in it.
func (j Job) Convert(ctx context.Context, staged, to string, format v1.DiskFormat, ready func() error) (providers.Image, error) {
	if j.Step == nil {
		j.Step = func() {}
	}
	got, err := j.Obtain(ctx, staged)
	if err != nil {
		return providers.Image{}, err
	}
	defer func() { _ = got.Close() }()
	from, size, err := j.Examine(ctx, got)
	if err != nil {
		return providers.Image{}, err
	}
	if err := ready(); err != nil {
		return providers.Image{}, err
	}
	j.Progress(providers.Progress{Stage: "converting", Total: size})
	err = j.Tool.Convert(ctx, got.Name(), from, to, format, func(part float64) {
		j.Progress(providers.Progress{Stage: "converting", Done: int64(part * float64(size)), Total: size})
	})
	if err != nil {
		return providers.Image{}, Error(j.Object, j.Origin.String(), err)
	}
	return providers.Image{
		ImageRef: j.Ref, Digest: got.Digest, Format: cmp.Or(got.Packed, from), VirtualSize: size, SealedAt: time.Now().UTC().Truncate(time.Second),
	}, nil
}
