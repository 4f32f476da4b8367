package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"sandboxd.dev/sandboxd/store"
)

// The buckets and the keys of meta, as drawn in the package comment.
var (
	bucketMeta    = []byte("meta")
	bucketObjects = []byte("objects")

	keyFormat   = []byte("format")
	keySchema   = []byte("schema")
	keyInstance = []byte("instance")
	keyRevision = []byte("revision")
)

// format marks a bbolt file as one of ours.
const format = "sandboxd.dev/store"

// migration changes a file from one schema version to the next. All that a
// file needs run in one transaction: it is as it was or all the way through.
type migration func(tx *bbolt.Tx) error

// migrations makes version n+2 from version n+1 with its element n. It only
// ever grows; create makes files of the newest version.
var migrations []migration

// newest is the schema version that a list of migrations leads to.
func newest(migrations []migration) uint64 { return uint64(len(migrations)) + 1 }

// initialize lays out an empty store.
func initialize(tx *bbolt.Tx, schema uint64) error {
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucket(bucketObjects); err != nil {
		return err
	}
	return errors.Join(
		meta.Put(keyFormat, []byte(format)),
		meta.Put(keySchema, encodeNumber(schema)),
		meta.Put(keyInstance, []byte(uuid.NewString())),
		meta.Put(keyRevision, encodeNumber(0)),
	)
}

// identify tells the schema version of a store of at most version newest, and
// refuses every other file.
func identify(tx *bbolt.Tx, newest uint64) (uint64, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil || string(meta.Get(keyFormat)) != format {
		return 0, fmt.Errorf("%w (it is a bbolt database of another program)", ErrForeign)
	}
	schema, err := decodeNumber(meta.Get(keySchema))
	if err != nil || schema == 0 {
		return 0, fmt.Errorf("%w (it has no schema version)", ErrDamaged)
	}
	if schema > newest {
		return 0, fmt.Errorf("%w (its schema has version %d, this one knows up to %d)", ErrNewer, schema, newest)
	}
	return schema, nil
}

// migrate brings an older store to the newest version. It writes nothing when
// there is nothing to do.
func migrate(db *bbolt.DB, migrations []migration) error {
	newest := newest(migrations)
	var schema uint64
	err := db.View(func(tx *bbolt.Tx) (err error) {
		schema, err = identify(tx, newest)
		return err
	})
	if err != nil || schema == newest {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for from := schema; from < newest; from++ {
			if err := migrations[from-1](tx); err != nil {
				return fmt.Errorf("cannot be brought from schema version %d to %d, nothing was changed: %w", from, from+1, err)
			}
		}
		return tx.Bucket(bucketMeta).Put(keySchema, encodeNumber(newest))
	})
}

// contents is a store as it was read from its file.
type contents struct {
	instance string
	revision int64
	index    index
}

// load reads a store of the newest version and checks every entry.
func load(tx *bbolt.Tx) (contents, error) {
	meta, objects := tx.Bucket(bucketMeta), tx.Bucket(bucketObjects)
	if meta == nil || objects == nil {
		return contents{}, fmt.Errorf("%w (a bucket is missing)", ErrDamaged)
	}
	id, err := uuid.ParseBytes(meta.Get(keyInstance))
	if err != nil {
		return contents{}, fmt.Errorf("%w (its instance ID: %w)", ErrDamaged, err)
	}
	c := contents{instance: id.String(), index: make(index)}
	if c.revision, err = readRevision(tx); err != nil {
		return contents{}, err
	}
	err = objects.ForEach(func(k, v []byte) error {
		r, err := decodeRecord(k, v)
		if err != nil {
			return fmt.Errorf("%w (entry %q: %w)", ErrDamaged, k, err)
		}
		if r.revision > c.revision {
			return fmt.Errorf("%w (entry %q has revision %d, the store %d)", ErrDamaged, k, r.revision, c.revision)
		}
		// They come in order: each belongs at the end of its table.
		c.index[r.key.Resource] = append(c.index[r.key.Resource], r)
		return nil
	})
	return c, err
}

func readRevision(tx *bbolt.Tx) (int64, error) {
	revision, err := decodeNumber(tx.Bucket(bucketMeta).Get(keyRevision))
	if err != nil || revision > math.MaxInt64 {
		return 0, fmt.Errorf("%w (it has no revision)", ErrDamaged)
	}
	return int64(revision), nil
}

func encodeNumber(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func decodeNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("a number of %d bytes", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func encodeKey(k store.Key) []byte {
	b := make([]byte, 0, len(k.Resource)+len(k.Namespace)+len(k.Name)+2)
	b = append(append(b, k.Resource...), 0)
	b = append(append(b, k.Namespace...), 0)
	return append(b, k.Name...)
}

// headerSize is what comes before the value: revision and checksum.
const headerSize = 8 + 4

func encodeValue(key []byte, revision int64, value []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(value))
	binary.BigEndian.PutUint64(b, uint64(revision))
	binary.BigEndian.PutUint32(b[8:], checksum(key, b[:8], value))
	return append(b, value...)
}

// decodeRecord is the inverse of encodeKey and encodeValue. The record has
// memory of its own.
func decodeRecord(key, b []byte) (*record, error) {
	parts := bytes.Split(key, []byte{0})
	if len(parts) != 3 {
		return nil, fmt.Errorf("its key has %d parts", len(parts))
	}
	if len(b) < headerSize {
		return nil, fmt.Errorf("it has %d bytes", len(b))
	}
	revision, sum, value := b[:8], binary.BigEndian.Uint32(b[8:]), b[headerSize:]
	if sum != checksum(key, revision, value) {
		return nil, errors.New("its checksum is wrong")
	}
	r := &record{
		key:      store.Key{Resource: string(parts[0]), Namespace: string(parts[1]), Name: string(parts[2])},
		value:    clone(value),
		revision: int64(binary.BigEndian.Uint64(revision)),
	}
	if r.revision <= 0 {
		return nil, fmt.Errorf("it has revision %d", r.revision)
	}
	return r, r.key.Validate()
}

func checksum(parts ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once, by the library
	var sum uint32
	for _, part := range parts {
		sum = crc32.Update(sum, table, part)
	}
	return sum
}
