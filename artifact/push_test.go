package artifact_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"sandboxd.dev/sandboxd/artifact"
	"sandboxd.dev/sandboxd/providers"
)

func diskFile(t *testing.T) artifact.Disk {
	t.Helper()
	content := []byte(strings.Repeat("a disk", 1000))
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return artifact.Disk{
		Path: path, Title: "debian.qcow2", Format: "qcow2", Digest: digestOf(content), Size: int64(len(content)),
		SealedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// TestPush writes a disk to a folder, twice, and to a registry: the manifest is the
// same each time.
func TestPush(t *testing.T) {
	disk, layout := diskFile(t), filepath.Join(t.TempDir(), "layout")
	first, err := artifact.Push(t.Context(), disk, artifact.Target{Layout: layout, Tag: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := artifact.Push(t.Context(), disk, artifact.Target{Layout: layout, Tag: "v1"})
	if err != nil || again != first {
		t.Errorf("written twice it is %s and %s, %v", first, again, err)
	}
	raw, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", strings.TrimPrefix(first, "sha256:")))
	if err != nil || digestOf(raw) != first {
		t.Fatalf("the manifest is %q, %v", raw, err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || m.ArtifactType != providers.ArtifactType || len(m.Layers) != 1 ||
		m.Layers[0].Digest.String() != disk.Digest || providers.ArtifactFormat(m.Layers[0].MediaType) != disk.Format ||
		m.Layers[0].Annotations[ocispec.AnnotationTitle] != disk.Title {
		t.Errorf("the manifest is %s, %v", raw, err)
	}

	registry := &registry{blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	server := httptest.NewServer(registry)
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/images/debian:v1"
	pushed, err := artifact.Push(t.Context(), disk, artifact.Target{Reference: reference, PlainHTTP: true})
	if err != nil || pushed != first {
		t.Errorf("in a registry it is %s, not %s, %v", pushed, first, err)
	}
	if got := registry.manifests["v1"]; digestOf(got) != first {
		t.Errorf("the registry has the manifest %s", got)
	}
	if got := registry.blobs[disk.Digest]; int64(len(got)) != disk.Size {
		t.Errorf("the registry has a layer of %d bytes", len(got))
	}
}

func TestPushRefused(t *testing.T) {
	disk := diskFile(t)
	wrong := disk
	wrong.Digest = "sha256:" + strings.Repeat("0", 64)
	layout := t.TempDir()
	for name, tc := range map[string]struct {
		disk artifact.Disk
		to   artifact.Target
	}{
		"a file with another digest": {wrong, artifact.Target{Layout: layout}},
		"no reference":               {disk, artifact.Target{Reference: "not a reference"}},
		"a digest for a tag":         {disk, artifact.Target{Reference: "host.invalid/a@sha256:" + strings.Repeat("0", 64)}},
		"a file for a folder":        {disk, artifact.Target{Layout: disk.Path}},
	} {
		if got, err := artifact.Push(t.Context(), tc.disk, tc.to); err == nil {
			t.Errorf("%s became %s", name, got)
		}
	}
}

// registry is as much of one as a push needs.
type registry struct {
	mu               sync.Mutex
	blobs, manifests map[string][]byte
}

func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.Method == http.MethodPost:
		w.Header().Set("Location", "/v2/images/debian/blobs/uploads/1")
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/uploads/"):
		if digestOf(body) != r.URL.Query().Get("digest") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		g.blobs[digestOf(body)] = body
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut:
		g.manifests[name], g.manifests[digestOf(body)] = body, body
		w.Header().Set("Docker-Content-Digest", digestOf(body))
		w.WriteHeader(http.StatusCreated)
	default:
		from, media := g.blobs, "application/octet-stream"
		if strings.Contains(r.URL.Path, "/manifests/") {
			from, media = g.manifests, ocispec.MediaTypeImageManifest
		}
		got, ok := from[name]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", media)
		w.Header().Set("Content-Length", fmt.Sprint(len(got)))
		w.Header().Set("Docker-Content-Digest", digestOf(got))
		if r.Method == http.MethodGet {
			_, _ = w.Write(got)
		}
	}
}
