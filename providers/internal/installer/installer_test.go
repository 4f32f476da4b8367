package installer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

func media(t *testing.T) Media {
	t.Helper()
	return Media{Object: "machine x", Dir: t.TempDir(), Step: func() {}}
}

// left lists what is in the machine's folder.
func left(t *testing.T, m Media) string {
	t.Helper()
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestBring(t *testing.T) {
	const text = "an installer"
	sum := sha256.Sum256([]byte(text))
	digest := hex.EncodeToString(sum[:])
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/x.iso" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(server.Close)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	iso := filepath.Join(dir, "x.iso")
	if err := os.WriteFile(iso, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.iso")
	if err := os.Symlink(iso, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		in   providers.Install
		kind error
	}{
		{"a file", providers.Install{ISO: iso}, nil},
		{"a file of the digest", providers.Install{ISO: iso, SHA256: digest}, nil},
		{"a file of another digest", providers.Install{ISO: iso, SHA256: strings.Repeat("0", 64)}, providers.ErrInvalid},
		{"no file", providers.Install{ISO: iso + ".not"}, providers.ErrNotFound},
		{"a folder", providers.Install{ISO: dir}, providers.ErrInvalid},
		{"a symbolic link", providers.Install{ISO: link}, providers.ErrInvalid},
		{"an address", providers.Install{URL: server.URL + "/x.iso", SHA256: digest}, nil},
		{"an address of another digest", providers.Install{URL: server.URL + "/x.iso", SHA256: strings.Repeat("0", 64)}, providers.ErrInvalid},
		{"an address of nothing", providers.Install{URL: server.URL + "/y.iso"}, providers.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := media(t)
			err := m.Bring(t.Context(), tt.in)
			if tt.kind != nil {
				if !errors.Is(err, tt.kind) || left(t, m) != "" {
					t.Errorf("got %v, left %q", err, left(t, m))
				}
				return
			}
			got, readErr := os.ReadFile(m.ISO())
			if err != nil || readErr != nil || string(got) != text || left(t, m) != "install.iso" {
				t.Errorf("got %v, %q, left %q", err, got, left(t, m))
			}
			if err := m.Bring(t.Context(), providers.Install{ISO: "/nowhere"}); err != nil {
				t.Errorf("again: %v", err)
			}
			if err := m.Clear(); err != nil || left(t, m) != "" {
				t.Errorf("cleared: %v, left %q", err, left(t, m))
			}
		})
	}
}
