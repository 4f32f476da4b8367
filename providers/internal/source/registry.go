package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
)

// fromRegistry reads the manifest of an artifact in a registry, anonymously: with
// the token that a registry gives to everybody, if it asks for one.
func (j Job) fromRegistry(ctx context.Context) (artifact, []byte, error) {
	repository, ref, err := j.repository()
	if err != nil {
		return artifact{}, nil, err
	}
	stall := j.Stall
	if stall == 0 {
		stall = fetch.DefaultStall
	}
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	found, body, err := repository.FetchReference(ctx, ref.Reference)
	if err != nil {
		return artifact{}, nil, j.registryError(ctx, err)
	}
	defer func() { _ = body.Close() }()
	if found.Size < 0 || found.Size > providers.ArtifactMaxManifest {
		return artifact{}, nil, providers.Errorf(providers.ErrInvalid, j.Object, "%s has a manifest of %d bytes, and the limit is %d", j.Origin, found.Size, providers.ArtifactMaxManifest)
	}
	manifest, err := content.ReadAll(body, found)
	if err != nil {
		return artifact{}, nil, j.registryError(ctx, err)
	}
	return artifact{}, manifest, nil
}

// repository is where the artifact is, and its reference there.
func (j Job) repository() (*remote.Repository, registry.Reference, error) {
	ref, err := registry.ParseReference(j.Origin.OCI.Reference)
	if err == nil && ref.Reference == "" {
		err = errors.New("it has neither tag nor digest")
	}
	if err != nil {
		return nil, ref, providers.Errorf(providers.ErrInvalid, j.Object, "spec.source.oci.reference %q is not of the form HOST/NAME:TAG or HOST/NAME@sha256:HEX: %w", j.Origin.OCI.Reference, err)
	}
	repository := &remote.Repository{
		Reference: ref, PlainHTTP: j.Origin.OCI.PlainHTTP, MaxMetadataBytes: providers.ArtifactMaxManifest,
		Client: &auth.Client{Client: fetch.NewClient(), Cache: auth.NewCache()},
	}
	return repository, ref, nil
}

// locate says where the layer is to be had.
func (j Job) locate(a artifact) (artifact, error) {
	if j.Origin.OCI.Reference == "" {
		path, err := j.blobPath(a.layer)
		if err != nil {
			return artifact{}, err
		}
		a.blob, err = Open(j.Object, path)
		return a, err
	}
	repository, ref, err := j.repository()
	if err != nil {
		return artifact{}, err
	}
	scheme := "https"
	if j.Origin.OCI.PlainHTTP {
		scheme = "http"
	}
	a.request = fetch.Request{
		URL:       (&url.URL{Scheme: scheme, Host: ref.Host(), Path: fmt.Sprintf("/v2/%s/blobs/%s", ref.Repository, a.layer.Digest)}).String(),
		Immutable: true, Client: repository.Client,
	}
	return a, nil
}

// registryError gives what a registry answers a kind. Its own words are left out:
// they are anybody's.
func (j Job) registryError(ctx context.Context, err error) error {
	var answer *errcode.ErrorResponse
	switch {
	case errors.As(err, &answer):
		return fetch.StatusError(j.Object, j.Origin.String(), answer.StatusCode)
	case errors.Is(err, errdef.ErrNotFound):
		return fetch.StatusError(j.Object, j.Origin.String(), 404)
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData), errors.Is(err, content.ErrInvalidDescriptorSize),
		errors.Is(err, errdef.ErrSizeExceedsLimit):
		return providers.Errorf(providers.ErrInvalid, j.Object, "%s has a manifest that is not what the registry says it is", j.Origin).WithReason(providers.ReasonDigestMismatch)
	}
	return fetch.TransportError(j.Object, j.Origin.String(), err)
}
