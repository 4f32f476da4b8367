package bolt

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"sandboxd.dev/sandboxd/store"
)

// Options of a Store; the zero value is a good choice.
type Options struct {
	// LockTimeout is how long Open waits for another process to let go of the
	// file, such as a daemon that is about to end. 0 means 2 s.
	LockTimeout time.Duration
	// WatchEvents and WatchBytes bound the watch log of each resource; the
	// newest event is kept whatever its size. 0 means 8192 events and 16 MiB:
	// eight changes of each of a thousand objects of 1 KiB, counted with the
	// values before them.
	WatchEvents int
	WatchBytes  int
}

func (o Options) withDefaults() Options {
	if o.LockTimeout == 0 {
		o.LockTimeout = 2 * time.Second
	}
	if o.WatchEvents == 0 {
		o.WatchEvents = 8192
	}
	if o.WatchBytes == 0 {
		o.WatchBytes = 16 << 20
	}
	return o
}

// Store is a store.Store on a bbolt file. Open makes one.
type Store struct {
	path     string
	instance string
	opts     Options
	db       *bbolt.DB
	// commitTx is (*bbolt.Tx).Commit, but where a test lets the disk fail.
	commitTx func(*bbolt.Tx) error

	writes  chan *write    // to the committer
	closing chan struct{}  // closed when Close begins
	running sync.WaitGroup // committer, watchers and backups
	opened  int64          // the revision at Open, where watch logs begin

	// mu guards what follows. Only the committer changes index and revision,
	// so it alone may read them without mu.
	mu       sync.RWMutex
	closed   bool
	index    index
	revision int64
	logs     map[string]*watchLog // by resource
}

var _ store.Store = (*Store)(nil)

// InstanceID implements store.Store.
func (s *Store) InstanceID() string { return s.instance }

// Revision implements store.Store.
func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := key.Validate(); err != nil {
		return store.Entry{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Entry{}, err
	}
	s.mu.RLock()
	closed, r := s.closed, s.index.get(key)
	s.mu.RUnlock()
	if closed {
		return store.Entry{}, s.errClosed()
	}
	if r == nil {
		return store.Entry{}, fmt.Errorf("%s: %w", key, store.ErrNotFound)
	}
	return r.entry(), nil
}

// List implements store.Store. It makes the entries after it let go of the lock:
// a long list does not hold up a write.
func (s *Store) List(ctx context.Context, resource, namespace string) (store.Snapshot, error) {
	if err := store.ValidateScope(resource, namespace); err != nil {
		return store.Snapshot{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Snapshot{}, err
	}
	s.mu.RLock()
	closed, revision := s.closed, s.revision
	records := slices.Clone(s.index.list(resource, namespace))
	s.mu.RUnlock()
	if closed {
		return store.Snapshot{}, s.errClosed()
	}
	snapshot := store.Snapshot{Entries: make([]store.Entry, len(records)), Revision: revision}
	for i, r := range records {
		snapshot.Entries[i] = r.entry()
	}
	return snapshot, nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key store.Key, value []byte, ifRevision int64) (int64, error) {
	if err := key.Validate(); err != nil {
		return 0, err
	}
	if len(value) > store.MaxValueSize {
		return 0, fmt.Errorf("%s: %w: it has %d bytes, at most %d are allowed",
			key, store.ErrTooLarge, len(value), store.MaxValueSize)
	}
	return s.submit(ctx, &write{op: store.Put, key: key, value: clone(value), ifRevision: ifRevision})
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key store.Key, ifRevision int64) (int64, error) {
	if err := key.Validate(); err != nil {
		return 0, err
	}
	return s.submit(ctx, &write{op: store.Delete, key: key, ifRevision: ifRevision})
}

// Close implements store.Store. A backup under way is broken off.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.errClosed()
	}
	s.closed = true
	s.mu.Unlock()

	close(s.closing)
	s.running.Wait()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("store %s: could not be closed cleanly: %w", s.path, err)
	}
	return nil
}

// enter counts a caller into running, unless the store is closed. The caller
// ends with running.Done.
func (s *Store) enter() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return s.errClosed()
	}
	s.running.Add(1)
	return nil
}

func (s *Store) errClosed() error { return fmt.Errorf("store %s: %w", s.path, store.ErrClosed) }

// clone copies a value and never returns nil, which means "no value".
func clone(value []byte) []byte { return append([]byte{}, value...) }
