//go:build linux

package kvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

// TestFolderSwapped: a folder that was allowed, and in whose place or above which
// somebody has put a symbolic link since, is not shared.
func TestFolderSwapped(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(base, "allowed", "work")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(base, "secret", "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		if err := checkFolders("machine x", []string{folder}); want == "" && err != nil ||
			want != "" && (providers.KindOf(err) != providers.ErrInvalid || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	swap := func(path, to string) {
		t.Helper()
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	refused("")
	swap(folder, filepath.Join(base, "secret", "work"))
	refused("symbolic link")
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	refused("not a directory")
	if err := os.Rename(folder+".away", folder); err != nil {
		t.Fatal(err)
	}
	refused("")
	swap(filepath.Dir(folder), filepath.Join(base, "secret"))
	refused("symbolic link")
}

// TestFolderOutOfReach: a folder that cannot be looked at just now is not said to be
// none; a file is.
func TestFolderOutOfReach(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]error{
		file: providers.ErrInvalid, filepath.Join(file, "below"): providers.ErrInvalid, filepath.Join(base, "none"): providers.ErrInvalid,
		filepath.Join(base, strings.Repeat("x", 300)): providers.ErrUnavailable, // any other error
	} {
		if err := checkFolders("machine x", []string{path}); providers.KindOf(err) != kind {
			t.Errorf("%s: %v", path, err)
		}
	}
}
