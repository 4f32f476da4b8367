package source

import (
	"context"
	"encoding/json"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"sandboxd.dev/sandboxd/providers"
)

// fromLayout reads the manifest of an artifact in a folder. Every file is opened
// by a path of digests, on which no part is a symbolic link.
func (j Job) fromLayout(context.Context) (artifact, []byte, error) {
	dir := j.Origin.OCI.Layout
	var version ocispec.ImageLayout
	if err := j.readJSON(filepath.Join(dir, ocispec.ImageLayoutFile), &version); err != nil {
		return artifact{}, nil, err
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return artifact{}, nil, j.noLayout("it is of version %q, and %s is known", version.Version, ocispec.ImageLayoutVersion)
	}
	var index ocispec.Index
	if err := j.readJSON(filepath.Join(dir, ocispec.ImageIndexFile), &index); err != nil {
		return artifact{}, nil, err
	}
	chosen, err := j.choose(index)
	if err != nil {
		return artifact{}, nil, err
	}
	manifest, err := j.readBlob(chosen)
	return artifact{}, manifest, err
}

// choose finds the artifact in an index by its tag, or the only one.
func (j Job) choose(index ocispec.Index) (ocispec.Descriptor, error) {
	tag := j.Origin.OCI.Tag
	var found []ocispec.Descriptor
	for _, m := range index.Manifests {
		if tag == "" || m.Annotations[ocispec.AnnotationRefName] == tag {
			found = append(found, m)
		}
	}
	switch {
	case len(found) == 0 && tag != "":
		return ocispec.Descriptor{}, providers.Errorf(providers.ErrNotFound, j.Object, "%s has nothing with the tag %q: correct spec.source.oci.tag, or export the artifact there", j.Origin, tag).
			WithReason(providers.ReasonSourceNotFound)
	case len(found) == 0:
		return ocispec.Descriptor{}, providers.Errorf(providers.ErrNotFound, j.Object, "%s is an empty layout: export an artifact there", j.Origin).
			WithReason(providers.ReasonSourceNotFound)
	case len(found) > 1:
		return ocispec.Descriptor{}, providers.Errorf(providers.ErrInvalid, j.Object, "%s has %d artifacts that can be meant: say which by spec.source.oci.tag", j.Origin, len(found))
	}
	return found[0], nil
}

// blobPath is where a layout keeps what has a digest.
func (j Job) blobPath(d ocispec.Descriptor) (string, error) {
	if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
		return "", j.noLayout("it names something without a sha256 digest")
	}
	return filepath.Join(j.Origin.OCI.Layout, ocispec.ImageBlobsDir, "sha256", d.Digest.Encoded()), nil
}

func (j Job) readBlob(d ocispec.Descriptor) ([]byte, error) {
	path, err := j.blobPath(d)
	if err != nil {
		return nil, err
	}
	f, err := Open(j.Object, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, ok := readBounded(f, providers.ArtifactMaxManifest)
	if !ok {
		return nil, j.noLayout("its manifest cannot be read or has more than %d bytes", providers.ArtifactMaxManifest)
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, providers.Errorf(providers.ErrInvalid, j.Object, "%s is damaged: its manifest has the digest %s, and not %s: export it again", j.Origin, got, d.Digest).
			WithReason(providers.ReasonDigestMismatch)
	}
	return b, nil
}

func (j Job) readJSON(path string, into any) error {
	f, err := Open(j.Object, path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	b, ok := readBounded(f, providers.ArtifactMaxManifest)
	if !ok || json.Unmarshal(b, into) != nil {
		return j.noLayout("%s cannot be read", filepath.Base(path))
	}
	return nil
}

func (j Job) noLayout(format string, args ...any) error {
	args = append([]any{j.Origin.OCI.Layout}, args...)
	return providers.Errorf(providers.ErrInvalid, j.Object, "%s is no OCI layout that can be read: "+format, args...).WithReason(providers.ReasonFormatMismatch)
}
