// Package artifact writes disk images as OCI artifacts, as package providers
// describes them and images import them:
//
//	file ──▶ one layer ──▶ manifest, by its digest ──▶ tag
//
// into a registry or a folder in the OCI image layout. The same disk, written with
// the same time, has the same manifest digest wherever it is written to, and
// writing it again changes nothing.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Disk is a disk image file.
type Disk struct {
	// Path of the file.
	Path string
	// Title is its name in the artifact.
	Title string
	// Format of the file.
	Format v1.DiskFormat
	// Digest of the file, as sha256:HEX, and Size in bytes.
	Digest string
	Size   int64
	// SealedAt is when the image was made: the artifact's time.
	SealedAt time.Time
}

// Target is where an artifact is written to: Reference or Layout.
type Target struct {
	// Reference in a registry, as HOST[:PORT]/NAME:TAG.
	Reference string
	// PlainHTTP speaks http to the registry.
	PlainHTTP bool
	// Layout is a folder, made if needed, and Tag the artifact's name in it.
	Layout, Tag string
}

// String names the target in messages.
func (t Target) String() string {
	if t.Layout != "" {
		return t.Layout
	}
	return t.Reference
}

// Check says what is wrong with the way in which a target is named.
func (t Target) Check() error {
	if t.Layout != "" {
		return nil
	}
	reference, err := registry.ParseReference(t.Reference)
	if err != nil {
		return fmt.Errorf("%q is no reference of the form HOST/NAME:TAG: %w", t.Reference, err)
	}
	if _, err := reference.Digest(); err == nil {
		return fmt.Errorf("%q names a digest: give the tag under which the artifact is written", t.Reference)
	}
	return nil
}

// Push writes a disk and returns the digest of its manifest, as sha256:HEX. Who may
// write to a registry is known from the configuration that `docker login` and
// `oras login` keep.
func Push(ctx context.Context, d Disk, to Target) (string, error) {
	target, tag, err := open(ctx, to)
	if err != nil {
		return "", err
	}
	sum := digest.Digest(d.Digest)
	if err := sum.Validate(); err != nil {
		return "", fmt.Errorf("%s has no digest: %w", d.Path, err)
	}
	layer := ocispec.Descriptor{
		MediaType: providers.ArtifactMediaType(d.Format), Digest: sum, Size: d.Size,
		Annotations: map[string]string{ocispec.AnnotationTitle: d.Title},
	}
	if err := pushFile(ctx, target, layer, d.Path); err != nil {
		return "", fmt.Errorf("%s cannot be written to: %w", to, err)
	}
	manifest, err := oras.PackManifest(ctx, target, oras.PackManifestVersion1_1, providers.ArtifactType, oras.PackManifestOptions{
		Layers:              []ocispec.Descriptor{layer},
		ManifestAnnotations: map[string]string{ocispec.AnnotationCreated: d.SealedAt.UTC().Format(time.RFC3339)},
	})
	if err == nil {
		err = target.Tag(ctx, manifest, tag)
	}
	if err != nil {
		return "", fmt.Errorf("%s cannot be written to: %w", to, err)
	}
	return manifest.Digest.String(), nil
}

// open opens a target for writing and tells under which tag.
func open(ctx context.Context, to Target) (oras.Target, string, error) {
	if to.Layout != "" {
		layout, err := oci.NewWithContext(ctx, to.Layout)
		if err != nil {
			return nil, "", fmt.Errorf("%s cannot be used as an OCI layout: %w", to.Layout, err)
		}
		tag := to.Tag
		if tag == "" {
			tag = DefaultTag
		}
		return layout, tag, nil
	}
	if err := to.Check(); err != nil {
		return nil, "", err
	}
	repository, err := remote.NewRepository(to.Reference)
	if err != nil {
		return nil, "", err
	}
	tag := repository.Reference.Reference
	if tag == "" {
		tag = DefaultTag
	}
	logins, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("the configuration of registry logins cannot be read: %w", err)
	}
	repository.PlainHTTP = to.PlainHTTP
	repository.Client = &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache(), Credential: credentials.Credential(logins)}
	return repository, tag, nil
}

// DefaultTag of artifacts for which none is given.
const DefaultTag = "latest"

// pushFile writes a layer unless it is there.
func pushFile(ctx context.Context, to oras.Target, layer ocispec.Descriptor, path string) error {
	there, err := to.Exists(ctx, layer)
	if err != nil || there {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = to.Push(ctx, layer, reader{ctx, f})
	if errors.Is(err, errdef.ErrAlreadyExists) { // somebody else was faster
		return nil
	}
	return err
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
