package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"

	"go.etcd.io/bbolt"

	"sandboxd.dev/sandboxd/store"
)

// Bounds of a group: so large that sixteen or a hundred writers never meet
// them, so small that a transaction stays below a second on a slow disk.
const (
	maxGroupWrites = 1024
	maxGroupBytes  = 8 << 20
)

// submit hands a write to the committer and waits for its outcome.
func (s *Store) submit(ctx context.Context, w *write) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	w.done = make(chan outcome, 1)
	select {
	case s.writes <- w:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.closing:
		return 0, s.errClosed()
	}
	select {
	case o := <-w.done:
		return o.revision, o.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// commitAll is the committer: it commits group after group until the store is
// closed. Every write that it takes is answered.
func (s *Store) commitAll() {
	var failed error // why no more writes are taken
	var writes []*write
	for {
		select {
		case first := <-s.writes:
			writes = s.gather(append(writes[:0], first))
			outcomes := make([]outcome, len(writes))
			if failed == nil {
				failed = s.commit(writes, outcomes)
			} else {
				fail(outcomes, failed)
			}
			for i, w := range writes {
				w.done <- outcomes[i]
			}
			clear(writes)
		case <-s.closing:
			return
		}
	}
}

// gather adds the writes that wait. A writer that was just answered and has
// more to write is often about to send it: giving up the processor once lets
// it, and lets sixteen busy writers share one group instead of two.
func (s *Store) gather(writes []*write) []*write {
	size, yielded := len(writes[0].value), false
	for len(writes) < maxGroupWrites && size < maxGroupBytes {
		select {
		case w := <-s.writes:
			writes = append(writes, w)
			size += len(w.value)
			yielded = false
		default:
			if yielded {
				return writes
			}
			runtime.Gosched()
			yielded = true
		}
	}
	return writes
}

// commit decides a group, writes it to disk and publishes it. It returns an
// error when the store must not take another write.
func (s *Store) commit(writes []*write, outcomes []outcome) (fatal error) {
	g := newGroup(s.index, s.revision)
	for i, w := range writes {
		outcomes[i].revision, outcomes[i].err = g.decide(w)
	}
	if len(g.events) == 0 {
		return nil
	}
	cause := s.persist(g)
	if cause == nil {
		s.publish(g)
		return nil
	}
	err, fatal := s.afterFailure(cause)
	// Those that were refused fail with the others: their refusal may rest on
	// a write of this group.
	fail(outcomes, err)
	return fatal
}

func fail(outcomes []outcome, err error) {
	for i := range outcomes {
		outcomes[i] = outcome{err: err}
	}
}

// persist writes what a group leaves, in one transaction.
func (s *Store) persist(g *group) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	type change struct {
		key    []byte
		record *record
	}
	changes := make([]change, 0, len(g.staged))
	for key, r := range g.staged {
		changes = append(changes, change{encodeKey(key), r})
	}
	// In the order of the keys neighbours share the pages they touch.
	slices.SortFunc(changes, func(a, b change) int { return bytes.Compare(a.key, b.key) })
	objects := tx.Bucket(bucketObjects)
	for _, c := range changes {
		if c.record == nil {
			err = objects.Delete(c.key)
		} else {
			err = objects.Put(c.key, encodeValue(c.key, c.record.revision, c.record.value))
		}
		if err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketMeta).Put(keyRevision, encodeNumber(uint64(g.revision))); err != nil {
		return err
	}
	return s.commitTx(tx)
}

// publish moves the index, the revision and the watch logs on to what is now
// on disk, all at once.
func (s *Store) publish(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, r := range g.staged {
		if r == nil {
			s.index.remove(key)
		} else {
			s.index.set(r)
		}
	}
	s.revision = g.revision
	grown := make(map[*watchLog]struct{})
	for _, event := range g.events {
		log := s.log(event.Key.Resource)
		log.add(event)
		grown[log] = struct{}{}
	}
	for log := range grown {
		log.announce()
	}
}

// afterFailure makes the error of a failed transaction for its writers. If the
// file holds the transaction all the same, or cannot tell, it returns the error
// as fatal too: to go on would build on pages that may not be on disk.
func (s *Store) afterFailure(cause error) (err, fatal error) {
	var onDisk int64
	look := s.db.View(func(tx *bbolt.Tx) (err error) {
		onDisk, err = readRevision(tx)
		return err
	})
	switch {
	case look != nil || onDisk != s.revision:
		fatal = fmt.Errorf("store %s: a write failed half-way and may or may not be on disk, so no more are taken: "+
			"check the disk, then restart the daemon: %w", s.path, cause)
		return fatal, fatal
	case isFull(cause):
		return fmt.Errorf("store %s: %w: nothing was written: make room and try again: %w",
			s.path, store.ErrNoSpace, cause), nil
	default:
		return fmt.Errorf("store %s: could not be written, nothing was changed: %w", s.path, cause), nil
	}
}

// isFull tells whether something failed because the disk is full.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// noSpace says so, and what to do.
func noSpace(cause error) error {
	return fmt.Errorf("%w: make room and try again: %w", store.ErrNoSpace, cause)
}
