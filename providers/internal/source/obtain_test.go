package source

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/fetch"
)

func disk() []byte {
	b := bytes.Repeat([]byte("sandboxd"), 1<<14)
	b[510], b[511] = 0x55, 0xaa
	return b
}

func hexOf(b []byte) string { return digest.FromBytes(b).Encoded() }

func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

func jobOf(o Origin) Job {
	return Job{
		Object: "image", Origin: o, MaxBytes: 1 << 20, Stall: 5 * time.Second,
		Progress: func(providers.Progress) {}, Step: func() {},
	}
}

// obtain runs a job as a provider does, and reads what came.
func obtain(t *testing.T, j Job) ([]byte, error) {
	t.Helper()
	staging := filepath.Join(realDir(t), "r.import")
	if err := Begin(staging, 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := j.Obtain(t.Context(), filepath.Join(staging, "source"))
	defer End(staging, err)
	if err != nil {
		return nil, err
	}
	defer func() { _ = got.Close() }()
	return os.ReadFile(got.Name())
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestUnpack(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zst := func(b []byte) []byte { return encoder.EncodeAll(b, nil) }
	for name, tc := range map[string]struct {
		file   []byte
		format v1.DiskFormat
		kind   error
	}{
		"gzip":              {file: zipped(t, disk())},
		"zstd":              {file: zst(disk())},
		"a bomb of gzip":    {file: zipped(t, make([]byte, 64<<20)), kind: providers.ErrInvalid},
		"a bomb of zstd":    {file: zst(make([]byte, 64<<20)), kind: providers.ErrInvalid},
		"gzip, cut off":     {file: zipped(t, disk())[:100], kind: providers.ErrInvalid},
		"zstd, cut off":     {file: zst(disk())[:50], kind: providers.ErrInvalid},
		"gzip, damaged":     {file: append([]byte("\x1f\x8b\x08"), make([]byte, 100)...), kind: providers.ErrInvalid},
		"twice":             {file: zst(zipped(t, disk())), kind: providers.ErrInvalid},
		"bzip2":             {file: []byte("BZh91AY"), kind: providers.ErrInvalid},
		"raw as it is said": {file: append([]byte{}, disk()...), format: v1.DiskFormatRaw},
		"no OVA":            {file: disk(), format: v1.DiskFormatOVA, kind: providers.ErrInvalid},
	} {
		path := write(t, filepath.Join(realDir(t), "disk"), tc.file)
		got, err := obtain(t, jobOf(Origin{Disk: &v1.DiskSource{Path: path, Format: tc.format}}))
		if !errors.Is(err, tc.kind) || err == nil && !bytes.Equal(got, disk()) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestLimits(t *testing.T) {
	path := write(t, filepath.Join(realDir(t), "disk"), disk())
	small := resource.MustParse("1Ki")
	for name, o := range map[string]Origin{
		"maxSize":  {Disk: &v1.DiskSource{Path: path, MaxSize: &small}},
		"MaxBytes": {Disk: &v1.DiskSource{Path: path}, MaxBytes: 1 << 10},
	} {
		if _, err := obtain(t, jobOf(o)); !errors.Is(err, providers.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamagedPart: a download that was damaged between two processes is not
// taken for a source that was changed.
func TestDamagedPart(t *testing.T) {
	content := disk()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"a"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(server.Close)
	for what, tc := range map[string]struct {
		sum  string
		kind error
	}{"a part": {hexOf(content), nil}, "the source": {strings.Repeat("0", 64), providers.ErrInvalid}} {
		staging := filepath.Join(realDir(t), "r.import")
		write(t, filepath.Join(staging, downloads, "file"), make([]byte, 1000))
		write(t, filepath.Join(staging, downloads, "state"), fmt.Appendf(nil, `{"url":%q,"etag":"\"a\"","size":%d}`, server.URL, len(content)))
		if err := Begin(staging, 0o700); err != nil || !fetch.Resumable(filepath.Join(staging, downloads)) {
			t.Fatalf("the download is gone: %v", err)
		}
		got, err := jobOf(Origin{Disk: &v1.DiskSource{URL: server.URL, SHA256: tc.sum}}).Obtain(t.Context(), filepath.Join(staging, "source"))
		if !errors.Is(err, tc.kind) {
			t.Errorf("%s was damaged: %v", what, err)
		}
		if err == nil {
			_ = got.Close()
		}
		End(staging, err)
		if _, err := os.Stat(staging); !os.IsNotExist(err) {
			t.Errorf("%s was damaged: the folder is left: %v", what, err)
		}
	}
}

// layoutOf writes a layout with one artifact of one disk.
func layoutOf(t *testing.T, disk []byte) (dir string, manifest []byte) {
	t.Helper()
	dir = realDir(t)
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{{MediaType: "application/octet-stream", Digest: digest.FromBytes(disk), Size: int64(len(disk))}},
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{%q:"v1"}}]}`,
		ocispec.MediaTypeImageManifest, digest.FromBytes(manifest), len(manifest), ocispec.AnnotationRefName)
	write(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write(t, filepath.Join(dir, "index.json"), []byte(index))
	for _, b := range [][]byte{manifest, disk} {
		write(t, filepath.Join(dir, "blobs/sha256", hexOf(b)), b)
	}
	return dir, manifest
}

func TestLayout(t *testing.T) {
	blob := func(dir string, b []byte) string { return filepath.Join(dir, "blobs/sha256", hexOf(b)) }
	secret := write(t, filepath.Join(realDir(t), "secret"), disk())
	for name, tc := range map[string]struct {
		change func(t *testing.T, dir string, manifest []byte) error
		oci    v1.OCISource
		kind   error
	}{
		"plain":          {},
		"by tag":         {oci: v1.OCISource{Tag: "v1"}},
		"another tag":    {oci: v1.OCISource{Tag: "v2"}, kind: providers.ErrNotFound},
		"another digest": {oci: v1.OCISource{Digest: "sha256:" + strings.Repeat("0", 64)}, kind: providers.ErrInvalid},
		"no version":     {change: func(_ *testing.T, dir string, _ []byte) error { return os.Remove(filepath.Join(dir, "oci-layout")) }, kind: providers.ErrNotFound},
		"another version": {change: func(_ *testing.T, dir string, _ []byte) error {
			return os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"9"}`), 0o600)
		}, kind: providers.ErrInvalid},
		"a damaged index": {change: func(_ *testing.T, dir string, _ []byte) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{`), 0o600)
		}, kind: providers.ErrInvalid},
		"a large index": {change: func(_ *testing.T, dir string, _ []byte) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), bytes.Repeat([]byte(" "), 5<<20), 0o600)
		}, kind: providers.ErrInvalid},
		"an empty index": {change: func(_ *testing.T, dir string, _ []byte) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{}`), 0o600)
		}, kind: providers.ErrNotFound},
		"a digest with a path": {change: func(_ *testing.T, dir string, _ []byte) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"manifests":[{"digest":"sha256:../../../secret"}]}`), 0o600)
		}, kind: providers.ErrInvalid},
		"another algorithm": {change: func(_ *testing.T, dir string, _ []byte) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"manifests":[{"digest":"sha512:`+strings.Repeat("0", 128)+`"}]}`), 0o600)
		}, kind: providers.ErrInvalid},
		"a changed manifest": {change: func(_ *testing.T, dir string, m []byte) error {
			return os.WriteFile(blob(dir, m), append(m, ' '), 0o600)
		}, kind: providers.ErrInvalid},
		"no disk": {change: func(_ *testing.T, dir string, _ []byte) error { return os.Remove(blob(dir, disk())) }, kind: providers.ErrNotFound},
		"a disk behind a link": {change: func(_ *testing.T, dir string, _ []byte) error {
			return errors.Join(os.Remove(blob(dir, disk())), os.Symlink(secret, blob(dir, disk())))
		}, kind: providers.ErrInvalid},
		"blobs behind a link": {change: func(t *testing.T, dir string, _ []byte) error {
			away := filepath.Join(realDir(t), "away")
			return errors.Join(os.Rename(filepath.Join(dir, "blobs"), away), os.Symlink(away, filepath.Join(dir, "blobs")))
		}, kind: providers.ErrInvalid},
	} {
		dir, manifest := layoutOf(t, disk())
		if tc.change != nil {
			if err := tc.change(t, dir, manifest); err != nil {
				t.Fatal(err)
			}
		}
		tc.oci.Layout = dir
		got, err := obtain(t, jobOf(Origin{OCI: &tc.oci}))
		if !errors.Is(err, tc.kind) || tc.kind != nil && providers.KindOf(err) != tc.kind || err == nil && !bytes.Equal(got, disk()) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestRegistryWithTokens: a registry that asks for a token and gives one to
// everybody is read, and one that gives none is not asked for ever.
func TestRegistryWithTokens(t *testing.T) {
	_, manifest := layoutOf(t, disk())
	open := true
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token" && open:
			_, _ = w.Write([]byte(`{"token":"everybody"}`))
		case r.URL.Path == "/token":
			w.WriteHeader(http.StatusForbidden)
		case r.Header.Get("Authorization") != "Bearer everybody":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="r",scope="repository:a/b:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/v2/a/b/manifests/"):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			_, _ = w.Write(manifest)
		default:
			_, _ = w.Write(disk())
		}
	}))
	t.Cleanup(server.Close)
	o := Origin{OCI: &v1.OCISource{Reference: strings.TrimPrefix(server.URL, "http://") + "/a/b:v1", PlainHTTP: true}}
	got, err := obtain(t, jobOf(o))
	if err != nil || !bytes.Equal(got, disk()) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	open = false
	if _, err := obtain(t, jobOf(o)); providers.KindOf(err) != providers.ErrInvalid {
		t.Errorf("without a token: %v", err)
	}
}

// FuzzManifest: what is taken for a disk has a digest and a size within the limit.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"layers":[{"mediaType":"application/octet-stream","digest":"sha256:` + strings.Repeat("0", 64) + `","size":5}]}`))
	f.Add([]byte(`{"manifests":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j := jobOf(Origin{OCI: &v1.OCISource{Layout: "/nowhere"}})
		d, err := j.layerOf(b)
		if err == nil && (d.Size <= 0 || d.Size > j.MaxBytes || d.Digest.Validate() != nil) || err != nil && providers.KindOf(err) != providers.ErrInvalid {
			t.Fatalf("%+v, %v", d, err)
		}
	})
}
