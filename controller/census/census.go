// Package census looks at every object of a kind, as the API server has them at one
// revision. Objects come one by one and none is kept:
//
//	GET …/sandboxes ──▶ {"metadata":{"resourceVersion":"7"},"items":[{…},{…},{…}]}
//	                                                                  │
//	                                                       see(object) for each
//
// A client's List needs room for the whole answer, and for all of its objects at once:
// several times what ten thousand objects take where they are kept.
package census

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	kjson "sigs.k8s.io/json"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Reader reads from an API server itself, not from a cache. It is safe for
// concurrent use.
type Reader struct{ api rest.Interface }

// New makes a Reader that reaches the API as a manager's clients do.
func New(config *rest.Config, client *http.Client) (*Reader, error) {
	config = rest.CopyConfig(config)
	version := v1.GroupVersion
	config.GroupVersion, config.APIPath = &version, "/apis"
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion() // of errors only
	api, err := rest.RESTClientForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("make a client for whole kinds: %w", err)
	}
	return &Reader{api}, nil
}

const asMetadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

// Each calls see with each object of a resource, such as "sandboxes", in all
// namespaces, and returns the revision that they are of. T is their type, or one that
// has only what is read of them. The object is the caller's.
// After an error, which includes that the list ended too soon, see was called with
// some of them. It is not tried again.
func Each[T any](ctx context.Context, r *Reader, resource string, see func(*T)) (revision string, err error) {
	return each(ctx, r, resource, "application/json", see)
}

// EachMetadata is Each that asks for what all objects have, and for nothing else.
func EachMetadata[T any](ctx context.Context, r *Reader, resource string, see func(*T)) (revision string, err error) {
	return each(ctx, r, resource, asMetadata, see)
}

func each[T any](ctx context.Context, r *Reader, resource, media string, see func(*T)) (string, error) {
	body, err := r.api.Get().Resource(resource).SetHeader("Accept", media).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	revision, err := read(body, see)
	if err != nil {
		return "", fmt.Errorf("list %s: %w", resource, err)
	}
	return revision, nil
}

// errMalformed is what a list is that is none.
var errMalformed = errors.New("the answer is not a list of objects")

// read reads a list, whose fields come in any order.
func read[T any](from io.Reader, see func(*T)) (revision string, err error) {
	d := kjson.NewDecoderCaseSensitivePreserveInts(from)
	if err := expect(d, json.Delim('{')); err != nil {
		return "", err
	}
	listed := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return "", err
		}
		switch key {
		case "metadata":
			var of metav1.ListMeta
			if err := d.Decode(&of); err != nil {
				return "", err
			}
			if of.Continue != "" { // no limit was asked for
				return "", fmt.Errorf("%w: it is a part of one", errMalformed)
			}
			revision = of.ResourceVersion
		case "items":
			if err := items(d, see); err != nil {
				return "", err
			}
			listed = true
		default:
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return "", err
			}
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return "", err
	}
	if revision == "" {
		return "", fmt.Errorf("%w: it has no resource version", errMalformed)
	}
	if !listed { // who takes it for an empty list removes what everything is of
		return "", fmt.Errorf("%w: it has no items", errMalformed)
	}
	return revision, nil
}

func items[T any](d kjson.Decoder, see func(*T)) error {
	switch got, err := d.Token(); {
	case err != nil:
		return err
	case got == nil: // null, as some write that there is none
		return nil
	case got != json.Delim('['):
		return fmt.Errorf("%w: its items begin with %v", errMalformed, got)
	}
	for d.More() {
		object := new(T)
		if err := d.Decode(object); err != nil {
			return err
		}
		see(object)
	}
	return expect(d, json.Delim(']'))
}

func expect(d kjson.Decoder, want json.Delim) error {
	switch got, err := d.Token(); {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case got != want:
		return fmt.Errorf("%w: %v stands where %v is expected", errMalformed, got, want)
	}
	return nil
}
