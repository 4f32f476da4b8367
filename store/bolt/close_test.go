package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/store"
)

// hangs ends a test that hangs; nothing is expected to take so long.
const hangs = 2 * time.Minute

// TestCloseUnderLoad closes stores at random moments while they are written,
// read, watched and backed up. bbolt's own Close waits for every transaction:
// whatever is under way then must end, and what was acknowledged must be there.
func TestCloseUnderLoad(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		path := filepath.Join(t.TempDir(), "store.db")
		s, err := Open(path, Options{WatchEvents: 16})
		if err != nil {
			t.Fatal(err)
		}
		u := &usage{t: t, s: s, acknowledged: map[store.Key]int64{}}
		for w := range 8 {
			u.run(func() error { return u.write(w) })
		}
		for range 2 {
			u.run(u.read)
			u.run(u.watch)
			u.run(func() error { return s.Backup(context.Background(), io.Discard) })
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		closed := make(chan error, 1)
		go func() {
			err := s.Close()
			u.users.Wait()
			closed <- err
		}()
		select {
		case err := <-closed:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(hangs):
			panic("the store does not close") // with every goroutine's stack
		}
		u.check(path)
	}
}

// usage is everything that uses a store until it is closed.
type usage struct {
	t     *testing.T
	s     *Store
	users sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[store.Key]int64
}

// run repeats a use until the store is closed.
func (u *usage) run(use func() error) {
	u.users.Go(func() {
		for {
			err := use()
			if errors.Is(err, store.ErrClosed) {
				return
			}
			if err != nil {
				u.t.Errorf("got %v", err)
				return
			}
		}
	})
}

func (u *usage) write(writer int) error {
	key := store.Key{Resource: "things", Namespace: "default", Name: fmt.Sprint(writer)}
	u.mu.Lock()
	last := u.acknowledged[key]
	u.mu.Unlock()
	revision, err := u.s.Put(context.Background(), key, make([]byte, rand.N(64<<10)), last)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.acknowledged[key] = revision
	return nil
}

func (u *usage) read() error {
	_, err := u.s.List(context.Background(), "things", "")
	return err
}

// watch follows the writes for as long as the store lets it.
func (u *usage) watch() error {
	w, err := u.s.Watch(context.Background(), "things", 0)
	if err != nil {
		return err
	}
	defer w.Stop()
	last := int64(0)
	for e := range w.Events() {
		if e.Revision <= last {
			return fmt.Errorf("event %d came after %d", e.Revision, last)
		}
		last = e.Revision
	}
	if err := w.Err(); !errors.Is(err, store.ErrSlowWatcher) {
		return err
	}
	return nil
}

// check opens the store again and looks for every acknowledged write.
func (u *usage) check(path string) {
	s, err := Open(path, Options{})
	if err != nil {
		u.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for key, revision := range u.acknowledged {
		if e, err := s.Get(context.Background(), key); err != nil || e.Revision != revision {
			u.t.Errorf("%s was acknowledged at revision %d and is at %d (%v)", key, revision, e.Revision, err)
		}
	}
}
