package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// verifyDB runs verify on an open database, as look does.
func verifyDB(db *bbolt.DB) error {
	file, err := os.Open(db.Path())
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return db.View(func(tx *bbolt.Tx) error {
		return verify(file, info.Size(), db.Info().PageSize, tx.ID()%2)
	})
}

// TestVerifyAcceptsWhatBboltWrites, after each of many random transactions on
// deep trees, buckets in buckets and long values.
func TestVerifyAcceptsWhatBboltWrites(t *testing.T) {
	for _, noFreelistSync := range []bool{false, true} {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, &bbolt.Options{
			PageSize: 1024, NoSync: true, NoFreelistSync: noFreelistSync, FreelistType: bbolt.FreelistMapType,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		random := rand.New(rand.NewPCG(3, 4))
		for n := range 120 {
			err := db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists([]byte{byte(random.IntN(4))})
				if err == nil && random.IntN(2) == 0 {
					b, err = b.CreateBucketIfNotExists([]byte{'b', byte(random.IntN(20))})
				}
				for range random.IntN(60) {
					key := fmt.Appendf(nil, "k%d", random.IntN(2000))
					if random.IntN(3) == 0 {
						err = errors.Join(err, b.Delete(key))
					} else {
						err = errors.Join(err, b.Put(key, make([]byte, random.IntN(1+random.IntN(5000)))))
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := verifyDB(db); err != nil {
				t.Fatalf("after transaction %d: %v", n, err)
			}
		}
	}
}

// TestVerifyLongFreelist: from 65535 pages on the list has another form.
func TestVerifyLongFreelist(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, &bbolt.Options{
		PageSize: 1024, NoSync: true, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, change := range []func(tx *bbolt.Tx) error{
		func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte("b"))
			for i := range 70 {
				err = errors.Join(err, b.Put([]byte{byte(i)}, make([]byte, 1<<20)))
			}
			return err
		},
		func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("b")) },
		func(tx *bbolt.Tx) error { return nil },
	} {
		if err := db.Update(change); err != nil {
			t.Fatal(err)
		}
		if err := verifyDB(db); err != nil {
			t.Fatal(err)
		}
	}
	if free := db.Stats().FreePageN + db.Stats().PendingPageN; free < 0xffff {
		t.Fatalf("only %d pages are free", free)
	}
}

// image is a database of a few pages, for a test to spoil.
type image struct {
	db   *bbolt.DB
	data []byte
	// What the test needs to know of it.
	root, leaf, branch, free int
}

const imagePage = 1024

func (m image) page(number int) []byte { return m.data[number*imagePage:] }

// number writes numbers of 8 bytes and others as they are.
func number(b []byte, n uint64) { binary.NativeEndian.PutUint64(b, n) }

func newImage(t *testing.T) image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: imagePage, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("large"))
		for i := range 100 {
			err = errors.Join(err, b.Put(fmt.Appendf(nil, "key-%03d", i), make([]byte, 50)))
		}
		small, err2 := tx.CreateBucket([]byte("small"))
		return errors.Join(err, err2, small.Put([]byte("k"), []byte("v")))
	})
	if err != nil {
		t.Fatal(err)
	}
	m := image{db: db}
	if m.data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		m.root = int(tx.Cursor().Bucket().Root())
		m.branch = int(tx.Bucket([]byte("large")).Root())
		m.leaf = int(host.Uint64(m.page(m.branch)[pageHeader+8:]))
		m.free = int(host.Uint64(m.data[tx.ID()%2*imagePage+pageHeader+metaFreelist:]))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestVerifyRefuses spoils one thing at a time.
func TestVerifyRefuses(t *testing.T) {
	element := func(p []byte, i int) []byte { return p[pageHeader+i*leafElement:] }
	tests := []struct {
		name  string
		spoil func(m image)
		want  string
	}{
		{"nothing", func(image) {}, ""},
		{"page number", func(m image) { number(m.page(m.leaf), 3) }, "is not a page"},
		{"long overflow", func(m image) { host.PutUint32(m.page(m.leaf)[12:], 1<<31) }, "is not a page"},
		{"overflow into another", func(m image) { host.PutUint32(m.page(m.leaf)[12:], 1) }, "is used twice"},
		{"leaf as freelist", func(m image) { m.page(m.leaf)[8] = kindFreelist }, "of kind 0x10 is in a tree"},
		{"empty branch", func(m image) { host.PutUint16(m.page(m.branch)[10:], 0) }, "leads nowhere"},
		{"too many in a branch", func(m image) { host.PutUint16(m.page(m.branch)[10:], 60000) }, "beyond its end"},
		{"too many in a leaf", func(m image) { host.PutUint16(m.page(m.leaf)[10:], 60000) }, "beyond its end"},
		{"branch to itself", func(m image) { number(element(m.page(m.branch), 0)[8:], uint64(m.branch)) }, "is used twice"},
		{"branch to its parent", func(m image) { number(element(m.page(m.branch), 1)[8:], uint64(m.root)) }, "is used twice"},
		{"branch to a header", func(m image) { number(element(m.page(m.branch), 1)[8:], 1) }, "refers to page 1, which"},
		{"branch to nowhere", func(m image) { number(element(m.page(m.branch), 1)[8:], 1<<40) }, "which it does not have"},
		{"branch key far away", func(m image) { host.PutUint32(element(m.page(m.branch), 1), 1<<31) }, "beyond its end"},
		{"long branch key", func(m image) { host.PutUint32(element(m.page(m.branch), 1)[4:], 1<<31) }, "beyond its end"},
		{"leaf key far away", func(m image) { host.PutUint32(element(m.page(m.leaf), 1)[4:], 1<<31) }, "beyond its end"},
		{"long leaf key", func(m image) { host.PutUint32(element(m.page(m.leaf), 1)[8:], 1<<31) }, "beyond its end"},
		{"long value", func(m image) { host.PutUint32(element(m.page(m.leaf), 1)[12:], 1<<31) }, "beyond its end"},
		{"no key", func(m image) { host.PutUint32(element(m.page(m.leaf), 1)[8:], 0) }, "out of order"},
		{"key that is too great", func(m image) { // for its leaf, in the tree
			p := m.page(m.leaf)
			last := int(host.Uint16(p[10:])) - 1
			p[pageHeader+last*leafElement+int(host.Uint32(element(p, last)[4:]))] = 'z'
		}, "out of order"},
		{"key that is too small", func(m image) {
			p := m.page(m.leaf)
			p[pageHeader+int(host.Uint32(element(p, 0)[4:]))] = 'a'
		}, "out of order"},
		{"value as bucket", func(m image) { m.page(m.leaf)[pageHeader] = flagBucket }, "has a bucket of kind"},
		{"half a bucket", func(m image) {
			m.page(m.leaf)[pageHeader] = flagBucket
			host.PutUint32(element(m.page(m.leaf), 0)[12:], 15)
		}, "has half a bucket"},
		{"bucket without a page", func(m image) {
			m.page(m.leaf)[pageHeader] = flagBucket
			host.PutUint32(element(m.page(m.leaf), 0)[12:], 20)
		}, "beyond its end"},
		{"bucket in a small bucket", func(m image) {
			p := m.page(m.root)
			small := element(p, 1)
			value := pageHeader + leafElement + int(host.Uint32(small[4:])) + len("small")
			element(p[value+bucketHeader:], 0)[0] = flagBucket
		}, "has a bucket in a bucket without pages"},
		{"freelist of another kind", func(m image) { m.page(m.free)[8] = kindLeaf }, "should be the list of free pages"},
		{"long freelist", func(m image) {
			host.PutUint16(m.page(m.free)[10:], 500)
			for i := range 500 { // so that it is in order as far as it goes
				if at := pageHeader + 8*i; at < imagePage {
					number(m.page(m.free)[at:], 1<<40+uint64(i))
				}
			}
		}, "which it does not have"},
		{"very long freelist", func(m image) {
			host.PutUint16(m.page(m.free)[10:], 0xffff)
			number(m.page(m.free)[pageHeader:], 1<<60)
			clear(m.page(m.free)[pageHeader+8 : imagePage])
		}, "the list of free pages is out of order"},
		{"free page that is in use", func(m image) {
			host.PutUint16(m.page(m.free)[10:], 1)
			number(m.page(m.free)[pageHeader:], uint64(m.leaf))
		}, "is used twice"},
		{"free header", func(m image) {
			host.PutUint16(m.page(m.free)[10:], 1)
			number(m.page(m.free)[pageHeader:], 1)
		}, "refers to page 1, which"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newImage(t)
			tt.spoil(m)
			err := m.db.View(func(tx *bbolt.Tx) error {
				return verify(strings.NewReader(string(m.data)), int64(len(m.data)), imagePage, tx.ID()%2)
			})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
