package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

// Exporter opens the disk of a sealed image as a file of a format.
type Exporter interface {
	Export(ctx context.Context, p providers.Provider, name string, ref providers.ImageRef, format v1.DiskFormat) (*os.File, error)
}

// Images serve the subresources of a GoldenImage. They may be used concurrently.
type Images struct {
	// Providers that hold the images.
	Providers *providers.Set
	Exporter  Exporter
	// Native is the format that a provider keeps its images in.
	Native func(v1.ProviderName) v1.DiskFormat
	// Stall is how long a client may take nothing of a disk, whose file stays until
	// it is read or given up; default 5 minutes.
	Stall time.Duration
}

// Endpoints lists the subresources to serve.
func (i *Images) Endpoints() []Endpoint {
	return []Endpoint{{wire.Disk, []string{http.MethodGet}, true, i.Disk}}
}

// Disk sends the disk of an image.
func (i *Images) Disk(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	object := fmt.Sprintf("image %q", parent.GetName())
	f, format, err := i.open(r, parent, object)
	if err != nil {
		writeStatus(w, statusOf(object, err))
		return
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		writeStatus(w, statusOf(object, err))
		return
	}
	w.Header().Set(wire.HeaderFormat, string(format))
	w.Header().Set(wire.HeaderSize, strconv.FormatInt(info.Size(), 10))
	out := newStream(w, r, "application/octet-stream", wire.TrailerDigest)
	out.stall = cmp.Or(i.Stall, diskStall)
	sum := sha256.New()
	out.begin()
	if _, err := io.Copy(io.MultiWriter(out, sum), until{r.Context(), f}); err != nil {
		panic(http.ErrAbortHandler) // a part is never taken for the whole
	}
	out.trailer(wire.TrailerDigest, "sha256:"+hex.EncodeToString(sum.Sum(nil)))
}

// open finds the revision that is asked for.
func (i *Images) open(r *http.Request, parent *unstructured.Unstructured, object string) (*os.File, v1.DiskFormat, error) {
	img := &v1.GoldenImage{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(parent.Object, img); err != nil {
		return nil, "", fmt.Errorf("%s cannot be read: %w", object, err)
	}
	revision := r.URL.Query().Get(wire.ParamRevision)
	if revision == "" {
		revision = img.Status.Revision
	}
	if revision == "" {
		return nil, "", providers.Errorf(providers.ErrBusy, object, "no revision of it is sealed yet: wait until it is ready")
	}
	held := false
	for _, h := range img.Status.Revisions {
		held = held || h.Revision == revision
	}
	if !held {
		return nil, "", providers.Errorf(providers.ErrNotFound, object, "it has no revision %q: see `sandboxd image history %s`", revision, img.Name)
	}
	p, err := i.Providers.Get(img.Status.Provider)
	if err != nil {
		return nil, "", err
	}
	format := v1.DiskFormat(r.URL.Query().Get(wire.ParamFormat))
	if format == "" {
		format = i.Native(p.Name())
	}
	f, err := i.Exporter.Export(r.Context(), p, img.Name, providers.ImageRef{UID: img.UID, Revision: revision}, format)
	return f, format, err
}

// until reads until a context ends.
type until struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
