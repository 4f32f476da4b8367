package access_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/access"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// exported is an Exporter of one file.
type exported struct{ file *os.File }

func (e exported) Export(context.Context, providers.Provider, string, providers.ImageRef, v1.DiskFormat) (*os.File, error) {
	return e.file, nil
}

// TestExportStalls: a client that takes nothing any more is given up, and with it
// the file that was written for it.
func TestExportStalls(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(256 << 20); err != nil { // more than connections hold
		t.Fatal(err)
	}
	images := &access.Images{
		Providers: providers.NewSet(v1.ProviderKVM, fake.New(fake.NewWorld(fake.Options{}), v1.ProviderKVM, "instance")),
		Exporter:  exported{f},
		Native:    func(v1.ProviderName) v1.DiskFormat { return v1.DiskFormatRaw },
		Stall:     2 * time.Second, // a busy host may take a while to send the beginning
	}
	image := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "golden", "uid": "u"},
		"status":   map[string]any{"provider": "kvm", "revision": "r1", "revisions": []any{map[string]any{"revision": "r1"}}},
	}}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		images.Disk(w, r, image)
	}))
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	select { // nothing more is read
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("a client that takes nothing is waited for")
	}
	if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
}
