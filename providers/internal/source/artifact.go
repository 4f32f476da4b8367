package source

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
)

// artifact is a disk in a registry or a layout, by the manifest that was read.
type artifact struct {
	layer ocispec.Descriptor
	// blob is the layer's file in a layout.
	blob *os.File
	// request downloads the layer from a registry.
	request fetch.Request
}

// bringArtifact copies or downloads the one layer of an artifact.
func (j Job) bringArtifact(ctx context.Context, staged string) (Obtained, error) {
	a, err := j.artifact(ctx)
	if err != nil {
		return Obtained{}, err
	}
	got := Obtained{Want: providers.ArtifactFormat(a.layer.MediaType)}
	var f *os.File
	var sum string
	if a.blob != nil {
		name := a.blob.Name()
		_ = a.blob.Close()
		f, sum, err = j.stage(ctx, name, staged)
	} else {
		a.request.MaxBytes = a.layer.Size
		f, sum, err = j.download(ctx, a.request, staged, a.layer.Digest.Encoded())
	}
	if err != nil {
		return got, err
	}
	got.File, got.Digest = f, "sha256:"+sum
	named := wanted{a.layer.Digest.Encoded(), "its manifest says", "it was changed or damaged: push or export it again"}
	return got, j.closeUnless(f, named.check(j.Object, j.Origin.String(), sum))
}

// artifact reads the manifest and judges by it, before anything is downloaded.
func (j Job) artifact(ctx context.Context) (artifact, error) {
	read := j.fromRegistry
	if j.Origin.OCI.Reference == "" {
		read = j.fromLayout
	}
	a, manifest, err := read(ctx)
	if err != nil {
		return artifact{}, err
	}
	if want := j.Origin.OCI.Digest; want != "" && digest.FromBytes(manifest).String() != want {
		return artifact{}, providers.Errorf(providers.ErrInvalid, j.Object, "%s has a manifest of the digest %s, but spec.source.oci.digest is %s: correct one of them",
			j.Origin, digest.FromBytes(manifest), want).WithReason(providers.ReasonDigestMismatch)
	}
	if a.layer, err = j.layerOf(manifest); err != nil {
		return artifact{}, err
	}
	if !j.pinned() {
		recorded := j.recorded("set spec.source.oci.digest to the digest of the new manifest if it is the one you want, or put the old one back")
		if err := recorded.check(j.Object, j.Origin.String(), a.layer.Digest.Encoded()); err != nil {
			return artifact{}, err
		}
	}
	return j.locate(a)
}

// pinned tells whether the manifest says by digest which artifact it means.
func (j Job) pinned() bool {
	return j.Origin.OCI.Digest != "" || strings.Contains(j.Origin.OCI.Reference, "@")
}

// layerOf returns the layer of a manifest that is the disk.
func (j Job) layerOf(manifest []byte) (ocispec.Descriptor, error) {
	refuse := func(format string, args ...any) (ocispec.Descriptor, error) {
		args = append([]any{j.Origin.String()}, args...)
		return ocispec.Descriptor{}, providers.Errorf(providers.ErrInvalid, j.Object, "%s "+format, args...).WithReason(providers.ReasonFormatMismatch)
	}
	var m struct {
		ocispec.Manifest
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return refuse("has a manifest that is no proper JSON")
	}
	switch {
	case len(m.Manifests) > 0 || m.MediaType == ocispec.MediaTypeImageIndex:
		return refuse("is an index of several artifacts: name one of them by its digest")
	case len(m.Layers) != 1:
		return refuse("has %d layers, and an image is an artifact of one, which is the disk", len(m.Layers))
	}
	layer := m.Layers[0]
	limit := j.Origin.limit(j.MaxBytes)
	switch {
	case strings.Contains(layer.MediaType, ".tar"):
		return refuse("is a container image (its layer is of type %q), and not a disk", layer.MediaType)
	case layer.Digest.Validate() != nil || layer.Digest.Algorithm() != digest.SHA256:
		return refuse("has a layer without a sha256 digest")
	case layer.Size <= 0 || layer.Size > limit:
		return refuse("has a disk of %d bytes, and the limit is %d", layer.Size, limit)
	}
	return layer, nil
}

// readBounded reads a small file of a layout.
func readBounded(f *os.File, limit int64) ([]byte, bool) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	return b, err == nil && int64(len(b)) <= limit
}
