package bolt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/store"
)

// backupOf makes a backup of a store with one entry.
func backupOf(t *testing.T, name, value string) string {
	t.Helper()
	s := mustOpen(t, filepath.Join(t.TempDir(), "store.db"), Options{})
	if _, err := s.Put(t.Context(), testKey(name), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Backup(t.Context(), f), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// valueIn opens a store and reads one entry of it.
func valueIn(t *testing.T, path, name string) string {
	t.Helper()
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	e, err := s.Get(t.Context(), testKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(e.Value)
}

// TestRestore: a backup takes the place of a store that is missing, damaged or
// sound, and what was there is kept aside.
func TestRestore(t *testing.T) {
	backup := backupOf(t, "a", "from the backup")
	if err := Check(backup); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"missing": nil, "damaged": []byte("not a store"), "empty": {}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data", "store.db")
			if content != nil {
				if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			aside, err := Restore(backup, path)
			if err != nil {
				t.Fatal(err)
			}
			if got := valueIn(t, path, "a"); got != "from the backup" {
				t.Errorf("the restored store has %q", got)
			}
			if content == nil {
				if aside != "" {
					t.Errorf("something was kept aside as %s", aside)
				}
				return
			}
			if kept, err := os.ReadFile(aside); err != nil || string(kept) != string(content) {
				t.Errorf("%q was kept aside, %v", kept, err)
			}
		})
	}
	t.Run("sound", func(t *testing.T) {
		path := backupOf(t, "a", "newer")
		for range 2 { // within one second
			if _, err := Restore(backup, path); err != nil {
				t.Fatal(err)
			}
		}
		asides, err := filepath.Glob(path + ".before-*")
		if err != nil || len(asides) != 2 || valueIn(t, asides[0], "a") != "newer" {
			t.Errorf("%v is kept aside, %v", asides, err)
		}
	})
}

// TestRestoreRefused: what cannot be restored leaves the store as it was.
func TestRestoreRefused(t *testing.T) {
	backup := backupOf(t, "a", "from the backup")
	whole, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	truncated := filepath.Join(t.TempDir(), "truncated")
	if err := os.WriteFile(truncated, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	path := backupOf(t, "a", "in use")
	if _, err := Restore(truncated, path); !errors.Is(err, ErrDamaged) {
		t.Errorf("a truncated backup: %v", err)
	}
	if err := Check(truncated); !errors.Is(err, ErrDamaged) {
		t.Errorf("a truncated backup is checked: %v", err)
	}
	if _, err := Restore(filepath.Join(t.TempDir(), "none"), path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no backup: %v", err)
	}
	folder := filepath.Join(t.TempDir(), "data")
	for _, wrong := range []string{truncated, filepath.Join(t.TempDir(), "none")} {
		_, err := Restore(wrong, filepath.Join(folder, "store.db"))
		if err == nil || !strings.HasPrefix(err.Error(), "backup "+wrong+": ") {
			t.Errorf("a wrong backup: %v", err)
		}
		if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a wrong backup left a data folder: %v", err)
		}
	}
	s := mustOpen(t, path, Options{})
	if _, err := Restore(backup, path); !errors.Is(err, ErrInUse) {
		t.Errorf("a store in use: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := valueIn(t, path, "a"); got != "in use" {
		t.Errorf("the store has %q", got)
	}
	left, err := filepath.Glob(path + ".*")
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
