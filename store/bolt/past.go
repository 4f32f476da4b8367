package bolt

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sandboxd.dev/sandboxd/store"
)

// ListAt implements store.Store. Nothing is kept for it: the log of watches has the
// values before each write, and with them the writes since then are undone.
func (s *Store) ListAt(ctx context.Context, resource, namespace string, revision int64) (store.Snapshot, error) {
	if err := store.ValidateScope(resource, namespace); err != nil {
		return store.Snapshot{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Snapshot{}, err
	}
	records, since, err := s.recordsSince(resource, namespace, revision)
	if err != nil {
		return store.Snapshot{}, err
	}
	entries := make([]store.Entry, len(records))
	for i, r := range records {
		entries[i] = r.entry()
	}
	return store.Snapshot{Entries: undo(entries, since, namespace), Revision: revision}, nil
}

// recordsSince returns the records there are and a resource's events after a revision.
func (s *Store) recordsSince(resource, namespace string, revision int64) ([]*record, []store.Event, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, nil, s.errClosed()
	}
	if revision > s.revision {
		return nil, nil, fmt.Errorf("list %s at revision %d: %w: the store is at %d",
			resource, revision, store.ErrFutureRevision, s.revision)
	}
	floor, since := s.opened, []store.Event(nil)
	if log := s.logs[resource]; log != nil { // else nobody wrote or watched any since
		floor, since = log.floor, slices.Clone(log.since(revision))
	}
	if revision < floor {
		return nil, nil, fmt.Errorf("list %s at revision %d: %w: the log begins after %d",
			resource, revision, store.ErrCompacted, floor)
	}
	return slices.Clone(s.index.list(resource, namespace)), since, nil
}

// undo makes the entries of a scope what they were before some events, which are in
// order. The first event of a key has the value before all of them.
func undo(entries []store.Entry, events []store.Event, namespace string) []store.Entry {
	first := map[store.Key]store.Event{}
	for _, e := range events {
		if _, known := first[e.Key]; !known && (namespace == "" || e.Key.Namespace == namespace) {
			first[e.Key] = e
		}
	}
	if len(first) == 0 {
		return entries
	}
	entries = slices.DeleteFunc(entries, func(e store.Entry) bool {
		_, written := first[e.Key]
		return written
	})
	for key, e := range first {
		if e.Previous != nil {
			entries = append(entries, store.Entry{Key: key, Value: slices.Clip(e.Previous), Revision: e.PreviousRevision})
		}
	}
	slices.SortFunc(entries, func(a, b store.Entry) int {
		if c := strings.Compare(a.Key.Namespace, b.Key.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Key.Name, b.Key.Name)
	})
	return entries
}
