package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// shelf is a server of images on this host's loopback, and a registry.
type shelf struct {
	*httptest.Server
	mu    sync.Mutex
	pages map[string]http.HandlerFunc
}

func newShelf(t testing.TB) *shelf {
	s := &shelf{pages: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		page := s.pages[r.URL.Path]
		s.mu.Unlock()
		if page == nil {
			http.NotFound(w, r)
			return
		}
		page(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// serve answers a path; it may be changed at any time.
func (s *shelf) serve(path string, page http.HandlerFunc) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = page
	return s.URL + path
}

// put serves content as a good server does, of which a part can be asked for.
func (s *shelf) put(path string, content []byte) string {
	return s.serve(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+sum(content)[:16]+`"`)
		http.ServeContent(w, r, path, time.Time{}, bytes.NewReader(content))
	})
}

// cut serves the first half of content and breaks off; with a validator when the
// rest may be asked for later.
func cut(content []byte, validator string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if validator != "" {
			w.Header().Set("ETag", validator)
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:len(content)/2])
		panic(http.ErrAbortHandler)
	}
}

// stall serves a little of content and then nothing, until the client is gone.
func stall(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func sum(b []byte) string {
	digest := sha256.Sum256(b)
	return hex.EncodeToString(digest[:])
}

func descriptor(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digestOf(b), Size: int64(len(b))}
}

// manifest is one of an artifact of these layers.
func manifest(t testing.TB, layers ...ocispec.Descriptor) []byte {
	t.Helper()
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: providers.ArtifactType,
		Config: ocispec.DescriptorEmptyJSON, Layers: layers,
	}
	m.SchemaVersion = 2
	b, err := json.Marshal(m)
	must(t, "manifest", err)
	return b
}

// push puts an artifact on the shelf's registry and returns its reference.
func (s *shelf) push(name string, manifest []byte, blobs ...[]byte) string {
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digestOf(manifest).String())
		_, _ = w.Write(manifest)
	}
	s.serve("/v2/"+name+"/manifests/latest", page)
	s.serve("/v2/"+name+"/manifests/"+digestOf(manifest).String(), page)
	for _, b := range blobs {
		s.put("/v2/"+name+"/blobs/"+digestOf(b).String(), b)
	}
	return strings.TrimPrefix(s.URL, "http://") + "/" + name + ":latest"
}

// layout writes an OCI layout with one artifact.
func layout(t testing.TB, manifest []byte, blobs ...[]byte) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, "folder", err)
	write := func(name string, b []byte) {
		must(t, "folder", os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, "write", os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageManifest, manifest)}}
	index.SchemaVersion = 2
	index.Manifests[0].Annotations = map[string]string{ocispec.AnnotationRefName: "v1"}
	b, err := json.Marshal(index)
	must(t, "index", err)
	write(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write(ocispec.ImageIndexFile, b)
	for _, b := range append(blobs, manifest) {
		write("blobs/sha256/"+digestOf(b).Encoded(), b)
	}
	return dir
}

// member of a tar archive.
type member struct {
	name    string
	content []byte
	kind    byte
}

// description is an OVF of disks in files.
func description(files ...string) member {
	var refs, disks strings.Builder
	for i, f := range files {
		fmt.Fprintf(&refs, `<File ovf:id="f%d" ovf:href="%s"/>`, i, f)
		fmt.Fprintf(&disks, `<Disk ovf:diskId="d%d" ovf:fileRef="f%d" ovf:capacity="1"/>`, i, i)
	}
	return member{name: "machine.ovf", content: fmt.Appendf(nil, `<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References>%s</References><DiskSection><Info>disks</Info>%s</DiskSection></Envelope>`, refs.String(), disks.String())}
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Mode: 0o644, Size: int64(len(m.content))}
		if m.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if m.kind == tar.TypeSymlink {
			h.Linkname = "/etc/passwd"
		}
		must(t, "archive", w.WriteHeader(h))
		_, err := w.Write(m.content)
		must(t, "archive", err)
	}
	must(t, "archive", w.Close())
	return b.Bytes()
}

func gzipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(content)
	must(t, "gzip", err)
	must(t, "gzip", w.Close())
	return b.Bytes()
}

func diskAt(url string) *v1.DiskSource { return &v1.DiskSource{URL: url} }
