package fake

import (
	"cmp"
	"os"
	"path/filepath"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/source"
)

// maxImageBytes is the limit of the disk of an image.
const maxImageBytes = 2 << 40

// brought tells whether a source is read as the real hypervisors' providers read
// it: what is behind an address, an artifact, or an archive. Plain files are
// looked at here, since some exist in the simulation only.
func brought(s v1.ImageSource) bool {
	return s.OCI != nil || s.Disk != nil && (s.Disk.URL != "" || s.Disk.Format == v1.DiskFormatOVA)
}

// bring reads such a source into a folder that is gone afterwards, and looks at
// the header of the disk.
func (p *Provider) bring(v *verb, s providers.ImageSpec, progress func(providers.Progress)) (info providers.Image, err error) {
	object := imageObject(s.Name)
	origin, err := source.Of(object, p.name, s)
	if err != nil {
		return info, err
	}
	dir, err := os.MkdirTemp("", "sandboxd-source-")
	if err != nil {
		return info, providers.Errorf(providers.ErrUnavailable, object, "%w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return info, providers.Errorf(providers.ErrUnavailable, object, "%w", err)
	}
	job := source.Job{
		Object: object, Ref: s.ImageRef, Origin: origin, MaxBytes: maxImageBytes, Progress: progress, Step: func() {}, Stall: p.w.stall,
	}
	got, err := job.Obtain(v.ctx, filepath.Join(dir, "source"))
	if err != nil {
		return info, err
	}
	defer func() { _ = got.Close() }()
	header, err := job.Header(got)
	if err != nil {
		return info, err
	}
	stat, err := got.Stat()
	if err != nil {
		return info, providers.Errorf(providers.ErrUnavailable, object, "%w", err)
	}
	return providers.Image{
		ImageRef: s.ImageRef, Digest: got.Digest, Format: cmp.Or(got.Packed, header.Format),
		VirtualSize: cmp.Or(header.VirtualSize, stat.Size()), ActualSize: stat.Size(),
	}, nil
}

// compareRecorded refuses a source that is not the one of the first import, when
// nothing else says which one it must be.
func compareRecorded(s providers.ImageSpec, info providers.Image) error {
	if s.Digest == "" || info.Digest == "" || s.Source.Disk.SHA256 != "" || s.Digest == info.Digest {
		return nil
	}
	return providers.Errorf(providers.ErrInvalid, imageObject(s.Name),
		"%q has the digest %s, but at its first import it had %s: set spec.source.disk.sha256 to the new digest if the new file is the one you want, or put the old one back",
		s.Source.Disk.Path, info.Digest, s.Digest).WithReason(providers.ReasonDigestMismatch)
}
