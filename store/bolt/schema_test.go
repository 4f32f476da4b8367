package bolt

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"sandboxd.dev/sandboxd/store"
)

// openAt opens with a schema that these migrations lead to.
func openAt(t *testing.T, path string, migrations ...migration) (*Store, error) {
	t.Helper()
	s, err := open(path, Options{}.withDefaults(), migrations)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

// rename returns a migration that renames the entry of a name.
func rename(from, to string) migration {
	return func(tx *bbolt.Tx) error {
		objects := tx.Bucket(bucketObjects)
		r, err := decodeRecord(encodeKey(testKey(from)), objects.Get(encodeKey(testKey(from))))
		if err != nil {
			return err
		}
		key := encodeKey(testKey(to))
		return errors.Join(
			objects.Delete(encodeKey(testKey(from))),
			objects.Put(key, encodeValue(key, r.revision, append(r.value, '+'))))
	}
}

func schemaOf(t *testing.T, s *Store) (schema uint64) {
	t.Helper()
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		schema, err = decodeNumber(tx.Bucket(bucketMeta).Get(keySchema))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	first := mustOpen(t, path, Options{})
	if got := schemaOf(t, first); got != 1 {
		t.Errorf("a new file has schema %d, want 1", got)
	}
	mustPut(t, first, "a", "x", 0)
	mustClose(t, first)

	// Two at once, in order: the second needs what the first makes.
	s, err := openAt(t, path, rename("a", "b"), rename("b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	want := store.Entry{Key: testKey("c"), Value: []byte("x++"), Revision: 1}
	check := func(s *Store, schema uint64) {
		t.Helper()
		if got, err := s.Get(t.Context(), testKey("c")); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%v (-want +got):\n%s", err, cmp.Diff(want, got))
		}
		if got := schemaOf(t, s); got != schema {
			t.Errorf("the schema is %d, want %d", got, schema)
		}
		if s.InstanceID() != first.InstanceID() || s.Revision() != 1 {
			t.Errorf("instance %s at %d, want %s at 1", s.InstanceID(), s.Revision(), first.InstanceID())
		}
		mustClose(t, s)
	}
	check(s, 3)

	// Once is enough, also with another version later.
	s, err = openAt(t, path, rename("a", "b"), rename("b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	check(s, 3)
	s, err = openAt(t, path, rename("a", "b"), rename("b", "c"), func(*bbolt.Tx) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	check(s, 4)

	// The first version refuses it now.
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNewer) {
		t.Errorf("opened by the first version: %v, want ErrNewer", err)
	}
}

func TestMigrateNewFileIsNewest(t *testing.T) {
	fails := func(*bbolt.Tx) error { return errors.New("there is nothing to migrate") }
	s, err := openAt(t, filepath.Join(t.TempDir(), "store.db"), fails, fails)
	if err != nil {
		t.Fatal(err)
	}
	if got := schemaOf(t, s); got != 3 {
		t.Errorf("a new file has schema %d, want 3", got)
	}
}

// TestMigrateFails: all or nothing, and the old version still works.
func TestMigrateFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path, Options{})
	mustPut(t, s, "a", "x", 0)
	mustClose(t, s)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openAt(t, path, rename("a", "b"), func(*bbolt.Tx) error { return errors.New("no such luck") })
	want := "store " + path + ": cannot be opened: cannot be brought from schema version 2 to 3, nothing was changed: no such luck"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed (%v)", err)
	}
	s = mustOpen(t, path, Options{})
	if got, err := s.Get(t.Context(), testKey("a")); err != nil || string(got.Value) != "x" {
		t.Errorf("got %q, %v", got.Value, err)
	}
}

// TestRecordRoundTrip: what is written is read, and no other bytes are.
func TestRecordRoundTrip(t *testing.T) {
	part := rapid.StringMatching(`[^/\x00]{1,20}`)
	rapid.Check(t, func(t *rapid.T) {
		want := &record{
			key: store.Key{
				Resource:  part.Draw(t, "resource"),
				Namespace: rapid.OneOf(part, rapid.Just("")).Draw(t, "namespace"),
				Name:      part.Draw(t, "name"),
			},
			value:    rapid.SliceOf(rapid.Byte()).Draw(t, "value"),
			revision: rapid.Int64Min(1).Draw(t, "revision"),
		}
		key := encodeKey(want.key)
		value := encodeValue(key, want.revision, want.value)
		got, err := decodeRecord(key, value)
		if err != nil || cmp.Diff(want, got, cmp.AllowUnexported(record{})) != "" {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
		at := rapid.IntRange(0, len(value)-1).Draw(t, "at")
		value[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, err := decodeRecord(key, value); err == nil {
			t.Fatalf("with another bit at %d it reads as %+v", at, got)
		}
	})
}

// TestKeyOrder: the order of the file is the order of lists.
func TestKeyOrder(t *testing.T) {
	part := rapid.StringMatching(`[a\x01~. -]{0,3}`)
	key := rapid.Custom(func(t *rapid.T) store.Key {
		return store.Key{
			Resource: part.Draw(t, "resource"), Namespace: part.Draw(t, "namespace"), Name: part.Draw(t, "name"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		want := strings.Compare(a.Resource, b.Resource)
		if want == 0 {
			want = strings.Compare(a.Namespace, b.Namespace)
		}
		if want == 0 {
			want = strings.Compare(a.Name, b.Name)
		}
		if got := bytes.Compare(encodeKey(a), encodeKey(b)); got != want {
			t.Fatalf("%q and %q compare as %d in the file, want %d", a, b, got, want)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	good := encodeKey(testKey("a"))
	f.Add(good, encodeValue(good, 1, []byte("x")))
	f.Add([]byte("r\x00n\x00a\x00"), []byte{})
	f.Add([]byte("\x00\x00"), make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := decodeRecord(key, value)
		if err != nil {
			return
		}
		if err := r.key.Validate(); err != nil || r.revision <= 0 {
			t.Fatalf("accepted %+v: %v", r, err)
		}
		if !bytes.Equal(encodeKey(r.key), key) || !bytes.Equal(encodeValue(key, r.revision, r.value), value) {
			t.Fatalf("%+v is not what was read", r)
		}
	})
}
