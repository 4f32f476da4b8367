package source

import (
	"path/filepath"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
)

// Origin is where an image's disk comes from: a disk file or an artifact.
type Origin struct {
	Disk *v1.DiskSource
	OCI  *v1.OCISource
	// Digest that was recorded at an earlier import, as sha256:HEX; empty when
	// there was none.
	Digest string
	// MaxBytes of the source and its disk; 0 means the provider's limit.
	MaxBytes int64
}

// Of returns where an image is imported from, if it is of a kind that this
// package reads. The provider is named in messages.
func Of(object string, provider v1.ProviderName, spec providers.ImageSpec) (Origin, error) {
	d, artifact := spec.Source.Disk, spec.Source.OCI
	o := Origin{Disk: d, OCI: artifact, Digest: spec.Digest, MaxBytes: spec.MaxBytes}
	switch {
	case spec.From != nil:
		return o, providers.Errorf(providers.ErrUnsupported, object, "the %s provider cannot make an image of a machine's disk", provider)
	case len(spec.Provision) > 0:
		return o, providers.Errorf(providers.ErrUnsupported, object, "the %s provider does not run provision steps: prepare the image beforehand", provider)
	case d == nil && artifact == nil:
		return o, providers.Errorf(providers.ErrUnsupported, object, "the %s provider cannot make an image of this kind of source: set spec.source.disk or spec.source.oci", provider)
	case d != nil && d.URL == "" && !filepath.IsAbs(d.Path):
		return o, providers.Errorf(providers.ErrInvalid, object, "the source %q is not an absolute path", d.Path)
	case artifact != nil && artifact.Reference == "" && !filepath.IsAbs(artifact.Layout):
		return o, providers.Errorf(providers.ErrInvalid, object, "the source %q is not an absolute path", artifact.Layout)
	}
	return o, nil
}

// String is the origin as messages name it.
func (o Origin) String() string {
	switch {
	case o.OCI != nil && o.OCI.Reference != "":
		return "the artifact " + o.OCI.Reference
	case o.OCI != nil:
		return "the artifact in " + o.OCI.Layout
	case o.Disk.URL != "":
		return fetch.Shown(o.Disk.URL)
	}
	return o.Disk.Path
}

// format that the manifest says the disk has, if it says so.
func (o Origin) format() v1.DiskFormat {
	if o.Disk != nil {
		return o.Disk.Format
	}
	return ""
}

// limit of the size of a disk, in bytes.
func (o Origin) limit(ofProvider int64) int64 {
	if o.MaxBytes > 0 {
		return min(o.MaxBytes, ofProvider)
	}
	return ofProvider
}

// fileLimit is that of the size of the file, in bytes.
func (o Origin) fileLimit(ofProvider int64) int64 {
	limit := o.limit(ofProvider)
	if o.Disk != nil && o.Disk.MaxSize != nil {
		return min(limit, o.Disk.MaxSize.Value())
	}
	return limit
}
