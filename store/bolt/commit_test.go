package bolt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"sandboxd.dev/sandboxd/store"
)

// slowDisk holds up each commit of a store until the test lets it go on, and
// lets it fail where the test says so.
type slowDisk struct {
	commits int
	release chan func(*bbolt.Tx) error
}

func onSlowDisk(s *Store) *slowDisk {
	d := &slowDisk{release: make(chan func(*bbolt.Tx) error)}
	s.commitTx = func(tx *bbolt.Tx) error {
		d.commits++
		return (<-d.release)(tx)
	}
	return d
}

func works(tx *bbolt.Tx) error { return tx.Commit() }

func fails(*bbolt.Tx) error { return syscall.EIO }

// failsLate is a disk that has the transaction and cannot say so.
func failsLate(tx *bbolt.Tx) error { return errors.Join(tx.Commit(), syscall.EIO) }

// answers collects what writes in goroutines return.
type answers struct {
	sync.WaitGroup
	mu   sync.Mutex
	errs map[string]error // by name of the entry
}

func (a *answers) put(ctx context.Context, s *Store, name string, ifRevision int64) {
	a.Go(func() {
		_, err := s.Put(ctx, testKey(name), []byte(name), ifRevision)
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.errs == nil {
			a.errs = make(map[string]error)
		}
		a.errs[name] = err
	})
}

// TestWritersShareACommit: those that come while a group is on its way to the
// disk are the next group, a conflict among them or not.
func TestWritersShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, filepath.Join(t.TempDir(), "store.db"), Options{})
		d := onSlowDisk(s)
		var a answers
		a.put(t.Context(), s, "first", 0)
		synctest.Wait() // it is being committed
		for i := range 16 {
			a.put(t.Context(), s, fmt.Sprint(i), 0)
		}
		a.put(t.Context(), s, "conflict", 99)
		synctest.Wait() // they wait
		d.release <- works
		d.release <- works
		a.Wait()
		if d.commits != 2 {
			t.Errorf("18 writes took %d commits, want 2", d.commits)
		}
		for name, err := range a.errs {
			if name == "conflict" && !errors.Is(err, store.ErrNotFound) || name != "conflict" && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if s.Revision() != 17 {
			t.Errorf("the store is at revision %d, want 17", s.Revision())
		}
		// A group in which nothing is to be written needs no commit.
		if _, err := s.Put(t.Context(), testKey("first"), nil, 0); !errors.Is(err, store.ErrExists) {
			t.Error(err)
		}
	})
}

// TestNothingWaitsForTheDiskButWrites: reads and watches go on, and see
// nothing of what is not on disk yet.
func TestNothingWaitsForTheDiskButWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, filepath.Join(t.TempDir(), "store.db"), Options{})
		mustPut(t, s, "a", "old", 0)
		d := onSlowDisk(s)
		var a answers
		early, err := s.Watch(t.Context(), testKey("").Resource, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer early.Stop()
		a.put(t.Context(), s, "a", 1)
		synctest.Wait()
		if got, err := s.Get(t.Context(), testKey("a")); err != nil || string(got.Value) != "old" {
			t.Errorf("get: %q, %v", got.Value, err)
		}
		if got, err := s.List(t.Context(), testKey("").Resource, ""); err != nil || got.Revision != 1 || len(got.Entries) != 1 {
			t.Errorf("list: %+v, %v", got, err)
		}
		if _, err := s.Watch(t.Context(), testKey("").Resource, 2); !errors.Is(err, store.ErrFutureRevision) {
			t.Errorf("watch after what is not written: %v", err)
		}
		select {
		case event := <-early.Events():
			t.Errorf("an event before the write is on disk: %+v", event)
		default:
		}
		d.release <- works
		a.Wait()
		if event := <-early.Events(); event.Revision != 2 {
			t.Errorf("got revision %d, want 2", event.Revision)
		}
	})
}

// TestContextsOfWrites: one that waits is withdrawn, one that is under way is
// abandoned but happens.
func TestContextsOfWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, filepath.Join(t.TempDir(), "store.db"), Options{})
		d := onSlowDisk(s)
		ctx, cancel := context.WithCancel(t.Context())
		var a answers
		a.put(ctx, s, "under way", 0)
		synctest.Wait()
		a.put(ctx, s, "waiting", 0)
		synctest.Wait()
		cancel()
		a.Wait()
		for name, err := range a.errs {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		}
		d.release <- works
		synctest.Wait()
		if _, err := s.Get(t.Context(), testKey("under way")); err != nil {
			t.Errorf("the write under way: %v", err)
		}
		if _, err := s.Get(t.Context(), testKey("waiting")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the write that was withdrawn: %v", err)
		}
	})
}

// TestCloseWaitsForWritesUnderWay and refuses those that wait.
func TestCloseWaitsForWritesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "store.db")
		s := mustOpen(t, path, Options{})
		d := onSlowDisk(s)
		var a answers
		a.put(t.Context(), s, "under way", 0)
		synctest.Wait()
		a.put(t.Context(), s, "waiting", 0)
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Errorf("Close did not wait (%v)", err)
		default:
		}
		d.release <- works
		if err := <-closed; err != nil {
			t.Error(err)
		}
		a.Wait()
		if err := a.errs["under way"]; err != nil {
			t.Errorf("the write under way: %v", err)
		}
		if err := a.errs["waiting"]; !errors.Is(err, store.ErrClosed) {
			t.Errorf("the write that waited: %v", err)
		}
		s = mustOpen(t, path, Options{})
		if _, err := s.Get(t.Context(), testKey("under way")); err != nil || s.Revision() != 1 {
			t.Errorf("after opening again, at %d: %v", s.Revision(), err)
		}
	})
}

// TestFailedCommit fails its group, whole, and changes nothing.
func TestFailedCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "store.db")
		s := mustOpen(t, path, Options{})
		mustPut(t, s, "old", "x", 0)
		w, err := s.Watch(t.Context(), testKey("").Resource, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		d := onSlowDisk(s)
		var a answers
		a.put(t.Context(), s, "first", 0)
		synctest.Wait()
		a.put(t.Context(), s, "a", 0)
		a.put(t.Context(), s, "b", 0)
		a.put(t.Context(), s, "old", 99) // would be a conflict
		synctest.Wait()
		d.release <- works
		d.release <- fails
		a.Wait()
		for name, err := range a.errs {
			if name == "first" {
				if err != nil {
					t.Error(err)
				}
				continue
			}
			want := "store " + path + ": could not be written, nothing was changed: input/output error"
			if err == nil || err.Error() != want || !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: got %v, want %s", name, err, want)
			}
		}
		if s.Revision() != 2 {
			t.Errorf("the store is at revision %d, want 2", s.Revision())
		}
		// The disk is well again.
		s.commitTx = works
		if got := mustPut(t, s, "later", "x", 0); got != 3 {
			t.Errorf("the next write took revision %d, want 3", got)
		}
		for want := int64(2); want <= 3; want++ {
			if event := <-w.Events(); event.Revision != want {
				t.Errorf("got the event %+v, want revision %d", event, want)
			}
		}
		mustClose(t, s)
		s = mustOpen(t, path, Options{})
		got, err := s.List(t.Context(), testKey("").Resource, "")
		if err != nil || got.Revision != 3 || len(got.Entries) != 3 {
			t.Errorf("after opening again: %+v, %v", got, err)
		}
	})
}

// TestHalfFailedCommit: when a failed commit is in the file all the same, no
// write can be trusted until the store is opened anew.
func TestHalfFailedCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path, Options{})
	mustPut(t, s, "a", "old", 0)
	w, err := s.Watch(t.Context(), testKey("").Resource, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.commitTx = failsLate
	want := "store " + path + ": a write failed half-way and may or may not be on disk, so no more are taken: " +
		"check the disk, then restart the daemon: "
	for range 3 { // the second and third do not reach the disk
		_, err := s.Put(t.Context(), testKey("a"), []byte("new"), 1)
		if err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, syscall.EIO) {
			t.Errorf("got %v, want %s", err, want)
		}
		s.commitTx = works
	}
	if got, err := s.Get(t.Context(), testKey("a")); err != nil || string(got.Value) != "old" || s.Revision() != 1 {
		t.Errorf("read %q at %d, %v, want the last state known to be on disk", got.Value, s.Revision(), err)
	}
	select {
	case event := <-w.Events():
		t.Errorf("an event of a write that may not be on disk: %+v", event)
	default:
	}
	mustClose(t, s)
	s = mustOpen(t, path, Options{})
	if got, err := s.Get(t.Context(), testKey("a")); err != nil || string(got.Value) != "new" || got.Revision != 2 {
		t.Errorf("opened again: %+v, %v", got, err)
	}
	mustPut(t, s, "a", "newer", 2)
}
