package kvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
)

// CheckSource implements providers.Images. It reads the header itself and, of a
// file that is small enough, the digest; qemu-img has its say at the import.
func (p *Provider) CheckSource(ctx context.Context, spec providers.ImageSpec) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	object := fmt.Sprintf("image %q", spec.Name)
	disk, err := diskSource(object, spec)
	if err != nil {
		return err
	}
	src, err := openSource(object, disk.Path)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	info, err := src.Stat()
	if err != nil {
		return p.fileError(object, err)
	}
	if _, err := qemuimg.Inspect(src, info.Size(), disk.Format); err != nil {
		return p.fileError(object, sourceError(object, disk.Path, err))
	}
	if disk.SHA256 == "" || info.Size() > providers.MaxCheckedDigest {
		return nil
	}
	sum := sha256.New()
	if err := copySparse(ctx, src, nil, false, sum, func(int64) {}); err != nil {
		return p.fileError(object, err)
	}
	if digest := hex.EncodeToString(sum.Sum(nil)); digest != disk.SHA256 {
		return providers.Errorf(providers.ErrInvalid, object, "%s has sha256 %s, but spec.source.disk.sha256 is %s",
			disk.Path, digest, disk.SHA256).WithReason(providers.ReasonDigestMismatch)
	}
	return nil
}
