package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"sandboxd.dev/sandboxd/store"
)

// errDead is what callers get of a store whose control plane has died, once they
// have ended.
var errDead = errors.New("the control plane is dead")

// mortal is a store whose writes are points of a death, and in a journal.
type mortal struct {
	store.Store
	death   *death
	journal *journal
}

// Put implements store.Store.
func (m *mortal) Put(ctx context.Context, key store.Key, value []byte, ifRevision int64) (int64, error) {
	return m.write(key, "Put", value, func() (int64, error) { return m.Store.Put(ctx, key, value, ifRevision) })
}

// Delete implements store.Store.
func (m *mortal) Delete(ctx context.Context, key store.Key, ifRevision int64) (int64, error) {
	return m.write(key, "Delete", nil, func() (int64, error) { return m.Store.Delete(ctx, key, ifRevision) })
}

func (m *mortal) write(key store.Key, verb string, value []byte, do func() (int64, error)) (int64, error) {
	what := func() string { return verb + " " + key.String() }
	if !m.death.pass(storeBefore, what) {
		<-m.death.buried
		return 0, errDead
	}
	value = bytes.Clone(value)
	revision, err := do()
	m.journal.note(key, value, revision, err)
	if !m.death.pass(storeAfter, what) {
		<-m.death.buried
		return 0, errDead
	}
	return revision, err
}

// journal knows what must be in a store: everything that was written, all of what
// was acknowledged being a part of that.
type journal struct {
	mu   sync.Mutex
	last map[store.Key]written
	// unknown are the keys of writes that were given up while they were made: they
	// may have been made.
	unknown map[store.Key]bool
}

// written is the last write to a key; value is nil for a deletion.
type written struct {
	value    []byte
	revision int64
}

func newJournal() *journal {
	return &journal{last: make(map[store.Key]written), unknown: make(map[store.Key]bool)}
}

func (j *journal) note(key store.Key, value []byte, revision int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		j.unknown[key] = true
	case err == nil && j.last[key].revision < revision:
		j.last[key] = written{value, revision}
	}
}

// lost lists the writes that a store does not have.
func (j *journal) lost(ctx context.Context, s store.Store) (lost []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for key, want := range j.last {
		got, err := s.Get(ctx, key)
		switch {
		case want.value == nil && errors.Is(err, store.ErrNotFound):
		case j.unknown[key] && (errors.Is(err, store.ErrNotFound) || err == nil && got.Revision > want.revision):
		case err != nil:
			lost = append(lost, fmt.Sprintf("%s at revision %d: %v", key, want.revision, err))
		case got.Revision != want.revision || !bytes.Equal(got.Value, want.value):
			lost = append(lost, fmt.Sprintf("%s at revision %d: it is at %d", key, want.revision, got.Revision))
		}
	}
	return lost
}
