package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"sandboxd.dev/sandboxd/store"
)

// mustOpen opens a store that is closed when the test ends, if not before.
func mustOpen(t testing.TB, path string, opts Options) *Store {
	t.Helper()
	s, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustPut(t testing.TB, s *Store, name, value string, ifRevision int64) int64 {
	t.Helper()
	revision, err := s.Put(t.Context(), testKey(name), []byte(value), ifRevision)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func testKey(name string) store.Key {
	return store.Key{Resource: "sandboxes.sandboxd.dev", Namespace: "default", Name: name}
}

// filled makes a store of a few hundred kilobytes, some of it free, and returns
// its path.
func filled(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path, Options{})
	for i := range 100 {
		name := fmt.Sprint(i)
		revision := mustPut(t, s, name, strings.Repeat(name, 1+i*i%1000), 0)
		if i%3 == 0 {
			if _, err := s.Delete(t.Context(), testKey(name), revision); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustClose(t, s)
	return path
}

func TestOpenCreatesPrivately(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "store.db")
	s := mustOpen(t, path, Options{})
	for name, want := range map[string]fs.FileMode{
		path:                             0o600,
		filepath.Dir(path):               0o700 | fs.ModeDir,
		filepath.Dir(filepath.Dir(path)): 0o700 | fs.ModeDir,
	} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	mustClose(t, s)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the store there is %v, %v", entries, err)
	}
}

func TestOpenLeavesADirectoryAsItIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil { // whatever the umask
		t.Fatal(err)
	}
	mustOpen(t, filepath.Join(dir, "store.db"), Options{})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory has now mode %v, %v", info.Mode(), err)
	}
}

func TestOpenRemovesUnfinished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	other := filepath.Join(filepath.Dir(path), "store.db.bak")
	for _, name := range []string{path + ".new-1", path + ".new-2", other} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, path, Options{})
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 || entries[1].Name() != "store.db.bak" {
		t.Errorf("left are %v, %v, want the store and store.db.bak", entries, err)
	}
}

func TestOpenInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	first := mustOpen(t, path, Options{})
	_, err := Open(path, Options{LockTimeout: time.Millisecond})
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("second open: %v, want ErrInUse", err)
	}
	want := "store " + path + ": is in use by another process (is a sandboxd daemon running?)"
	if err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	// The first was not disturbed, and the second gets it when it is free.
	mustPut(t, first, "a", "x", 0)
	opened := make(chan error, 1)
	go func() {
		second, err := Open(path, Options{LockTimeout: time.Minute})
		if err == nil {
			_, err = second.Get(t.Context(), testKey("a"))
			err = errors.Join(err, second.Close())
		}
		opened <- err
	}()
	mustClose(t, first)
	if err := <-opened; err != nil {
		t.Errorf("open after close: %v", err)
	}
}

// TestOpenRefuses: each kind of wrong file gives one sentence that names it and
// says what to do, and stays as it is.
func TestOpenRefuses(t *testing.T) {
	good, err := os.ReadFile(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	headers := bytes.Clone(good)
	clear(headers[:2*os.Getpagesize()])
	tests := []struct {
		name string
		make func(path string) error
		kind error
		want string // follows "store PATH: "
	}{
		{
			"empty", holding(nil), ErrDamaged,
			"is damaged (it is empty): restore a backup, or move the file away to begin with an empty store",
		},
		{
			"text", holding([]byte(strings.Repeat("hello ", 5000))), ErrDamaged,
			"is damaged, if it ever was a store (invalid database): restore a backup, " +
				"or move the file away to begin with an empty store",
		},
		{
			"a few bytes", holding(good[:100]), ErrDamaged,
			"is damaged, if it ever was a store (invalid database): restore a backup, " +
				"or move the file away to begin with an empty store",
		},
		{
			"without headers", holding(headers), ErrDamaged,
			"is damaged, if it ever was a store (invalid database): restore a backup, " +
				"or move the file away to begin with an empty store",
		},
		{
			"truncated", holding(good[:5*os.Getpagesize()]), ErrDamaged,
			"is damaged (it has 5 pages of ",
		},
		{
			"directory", func(path string) error { return os.Mkdir(path, 0o700) }, ErrForeign,
			"is not a sandboxd store (it is not a regular file): choose another path for the store",
		},
		{
			"bbolt file without buckets", edit(func(*bbolt.Tx) error { return nil }), ErrForeign,
			"is not a sandboxd store (it is a bbolt database of another program): choose another path for the store",
		},
		{
			"bbolt file of another program", edit(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucket(bucketMeta)
				if err != nil {
					return err
				}
				return b.Put(keySchema, encodeNumber(1))
			}), ErrForeign,
			"is not a sandboxd store (it is a bbolt database of another program): choose another path for the store",
		},
		{
			"newer schema", edit(func(tx *bbolt.Tx) error { return initialize(tx, 7) }), ErrNewer,
			"was written by a newer sandboxd (its schema has version 7, this one knows up to 1): " +
				"run that version, or restore a backup from before the upgrade",
		},
		{
			"no schema", edit(func(tx *bbolt.Tx) error {
				return errors.Join(initialize(tx, 1), tx.Bucket(bucketMeta).Delete(keySchema))
			}), ErrDamaged,
			"is damaged (it has no schema version): ",
		},
		{
			"no revision", edit(func(tx *bbolt.Tx) error {
				return errors.Join(initialize(tx, 1), tx.Bucket(bucketMeta).Delete(keyRevision))
			}), ErrDamaged,
			"is damaged (it has no revision): ",
		},
		{
			"no instance", edit(func(tx *bbolt.Tx) error {
				return errors.Join(initialize(tx, 1), tx.Bucket(bucketMeta).Delete(keyInstance))
			}), ErrDamaged,
			"is damaged (its instance ID: invalid UUID length: 0): ",
		},
		{
			"no objects", edit(func(tx *bbolt.Tx) error {
				return errors.Join(initialize(tx, 1), tx.DeleteBucket(bucketObjects))
			}), ErrDamaged,
			"is damaged (a bucket is missing): ",
		},
		{
			"entry from the future", edit(func(tx *bbolt.Tx) error {
				key := encodeKey(testKey("a"))
				return errors.Join(initialize(tx, 1), tx.Bucket(bucketObjects).Put(key, encodeValue(key, 5, nil)))
			}), ErrDamaged,
			`is damaged (entry "sandboxes.sandboxd.dev\x00default\x00a" has revision 5, the store 0): `,
		},
		{
			"entry of another key", edit(func(tx *bbolt.Tx) error {
				key := encodeKey(testKey("a"))
				return errors.Join(initialize(tx, 1), tx.Bucket(bucketObjects).Put(key, encodeValue(nil, 5, nil)))
			}), ErrDamaged,
			`is damaged (entry "sandboxes.sandboxd.dev\x00default\x00a": its checksum is wrong): `,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			s, err := Open(path, Options{})
			if err == nil {
				mustClose(t, s)
				t.Fatal("it was opened")
			}
			if !errors.Is(err, tt.kind) {
				t.Errorf("%v, want %v", err, tt.kind)
			}
			if got, found := strings.CutPrefix(err.Error(), "store "+path+": "); !found || !strings.HasPrefix(got, tt.want) {
				t.Errorf("got  %s\nwant store %s: %s", err, path, tt.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
			// Nor is it held: the operator's next try may succeed.
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			mustOpen(t, path, Options{LockTimeout: time.Millisecond})
		})
	}
}

// holding makes a file of these bytes.
func holding(content []byte) func(path string) error {
	return func(path string) error { return os.WriteFile(path, content, 0o600) }
}

// edit makes a bbolt file by a transaction.
func edit(change func(tx *bbolt.Tx) error) func(path string) error {
	return func(path string) error {
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			return err
		}
		return errors.Join(db.Update(change), db.Close())
	}
}

func TestOpenWhereNoFileCanBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(file, "store.db")
	_, err := Open(path, Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "store "+path+": cannot be ") {
		t.Errorf("got %v", err)
	}
}

func TestExplainPermission(t *testing.T) {
	cause := &fs.PathError{Op: "open", Path: "/s", Err: fs.ErrPermission}
	err := explain("/s", cause)
	want := "store /s: cannot be opened: permission denied: run the daemon as the user that owns it"
	if err.Error() != want || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %q, want %q", err, want)
	}
}
