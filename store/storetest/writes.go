package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sandboxd.dev/sandboxd/store"
)

func checkPut(f *fixture) {
	a := inDefault("a")
	_, err := f.s.Put(f.Context(), a, []byte("x"), 1)
	f.wantError("update of nothing", err, store.ErrNotFound)
	_, err = f.s.Put(f.Context(), a, []byte("x"), store.AnyRevision)
	f.wantError("put on any revision of nothing", err, store.ErrNotFound)
	f.wantAbsent(a)

	created := f.put(a, "one", 0)
	f.wantEntry(a, "one", created)
	_, err = f.s.Put(f.Context(), a, []byte("x"), 0)
	f.wantError("second creation", err, store.ErrExists)
	_, err = f.s.Put(f.Context(), a, []byte("x"), created+1)
	f.wantError("update of a later revision", err, store.ErrConflict)
	_, err = f.s.Put(f.Context(), a, []byte("x"), store.AnyRevision)
	f.wantError("put on any revision", err, store.ErrConflict)
	f.wantEntry(a, "one", created)

	updated := f.put(a, "two", created)
	f.wantEntry(a, "two", updated)
	_, err = f.s.Put(f.Context(), a, []byte("x"), created)
	f.wantError("update of an old revision", err, store.ErrConflict)
	f.wantEntry(a, "two", updated)
	// The same value again is a write too.
	again := f.put(a, "two", updated)
	f.wantEntry(a, "two", again)
	if again <= updated {
		f.Fatalf("writing the same value gave revision %d after %d", again, updated)
	}
}

func checkDelete(f *fixture) {
	a := inDefault("a")
	_, err := f.s.Delete(f.Context(), a, store.AnyRevision)
	f.wantError("deletion of nothing", err, store.ErrNotFound)
	_, err = f.s.Delete(f.Context(), a, 7)
	f.wantError("conditional deletion of nothing", err, store.ErrNotFound)

	first := f.put(a, "one", 0)
	second := f.put(a, "two", first)
	for _, wrong := range []int64{0, first, second + 1, -2} {
		_, err = f.s.Delete(f.Context(), a, wrong)
		f.wantError("deletion of a wrong revision", err, store.ErrConflict)
	}
	f.wantEntry(a, "two", second)
	deleted := f.delete(a, second)
	if deleted <= second {
		f.Fatalf("the deletion has revision %d after %d", deleted, second)
	}
	f.wantAbsent(a)
	_, err = f.s.Delete(f.Context(), a, second)
	f.wantError("second deletion", err, store.ErrNotFound)

	// A new entry of that key is another one: conditions on the old one fail.
	third := f.put(a, "three", 0)
	_, err = f.s.Put(f.Context(), a, []byte("x"), second)
	f.wantError("update of the deleted entry", err, store.ErrConflict)
	_, err = f.s.Delete(f.Context(), a, second)
	f.wantError("deletion of the deleted entry", err, store.ErrConflict)
	f.wantEntry(a, "three", third)
	f.delete(a, store.AnyRevision)
	f.wantAbsent(a)
}

// checkRevisions: each write takes the next revision, whatever its key.
func checkRevisions(f *fixture) {
	f.wantRevision(0)
	var last int64
	took := func(revision int64) {
		f.Helper()
		if revision != last+1 {
			f.Fatalf("a write took revision %d after %d", revision, last)
		}
		last = revision
		f.wantRevision(last)
		if listed := f.list("events", "").Revision; listed != last {
			f.Fatalf("a list is at revision %d, want %d", listed, last)
		}
	}
	a, b := inDefault("a"), clusterWide("b")
	took(f.put(a, "1", 0))
	took(f.put(b, "1", 0))
	took(f.put(a, "2", 1))
	took(f.delete(a, 3))
	took(f.put(a, "3", 0))
	took(f.delete(b, store.AnyRevision))
	f.wantEntry(a, "3", 5)
}

// checkFailedWrites: they take no revision and make no event.
func checkFailedWrites(f *fixture) {
	a, b := inDefault("a"), inDefault("b")
	created := f.put(a, "one", 0)
	w := f.watch(a.Resource, created)
	for range 3 {
		_, err := f.s.Put(f.Context(), a, []byte("x"), 0)
		f.wantError("put", err, store.ErrExists)
		_, err = f.s.Put(f.Context(), a, []byte("x"), 99)
		f.wantError("put", err, store.ErrConflict)
		_, err = f.s.Delete(f.Context(), a, 99)
		f.wantError("delete", err, store.ErrConflict)
		_, err = f.s.Put(f.Context(), b, []byte("x"), 99)
		f.wantError("put", err, store.ErrNotFound)
	}
	f.wantRevision(created)
	f.wantEntry(a, "one", created)
	f.wantAbsent(b)
	next := f.put(b, "two", 0)
	f.wantEvents(w, store.Event{Type: store.Put, Key: b, Value: []byte("two"), Revision: next})
	if next != created+1 {
		f.Fatalf("failed writes took revisions: %d follows %d", next, created)
	}
}

// checkOneCreator: of many who create the same key at once, one succeeds.
func checkOneCreator(f *fixture) {
	for round := range 8 {
		key := inDefault(string(rune('a' + round)))
		var won atomic.Int64
		var wins, other atomic.Int32
		inParallel(8, func(i int) {
			revision, err := f.s.Put(f.Context(), key, []byte{byte(i)}, 0)
			switch {
			case err == nil:
				wins.Add(1)
				won.Store(revision)
			case !errors.Is(err, store.ErrExists):
				f.Errorf("creator %d: %v", i, err)
			default:
				other.Add(1)
			}
		})
		if wins.Load() != 1 || other.Load() != 7 {
			f.Fatalf("%d of 8 creators succeeded, %d found it made, want 1 and 7", wins.Load(), other.Load())
		}
		got, err := f.s.Get(f.Context(), key)
		if err != nil || got.Revision != won.Load() {
			f.Fatalf("got revision %d, %v, want that of the winner, %d", got.Revision, err, won.Load())
		}
	}
}

// checkNoLostUpdate: conditional writes of many add up.
func checkNoLostUpdate(f *fixture) {
	const writers, increments = 8, 16
	key := inDefault("counter")
	f.put(key, "\x00", 0)
	inParallel(writers, func(int) {
		for done := 0; done < increments; {
			entry, err := f.s.Get(f.Context(), key)
			if err != nil {
				f.Error(err)
				return
			}
			_, err = f.s.Put(f.Context(), key, []byte{entry.Value[0] + 1}, entry.Revision)
			switch {
			case err == nil:
				done++
			case !errors.Is(err, store.ErrConflict):
				f.Error(err)
				return
			}
		}
	})
	f.wantEntry(key, string([]byte{writers * increments}), 1+writers*increments)
}

// checkCancelledWrites: a write whose context ends has happened, will happen or
// does not happen, and the store knows which.
func checkCancelledWrites(f *fixture) {
	w := f.watch(inDefault("").Resource, 0)
	acked := make([]atomic.Int64, 8)
	inParallel(len(acked), func(i int) {
		key := inDefault(string(rune('a' + i)))
		abandoned := false
		for n := range 6 {
			// The cancellation races with the write, if there is one.
			ctx, cancel := context.WithCancel(f.Context())
			defer cancel()
			if n%2 == 1 {
				time.AfterFunc(rand.N(500*time.Microsecond), cancel)
			}
			entry, err := f.s.Get(f.Context(), key)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				f.Error(err)
				return
			}
			revision, err := f.s.Put(ctx, key, []byte{byte(n)}, entry.Revision)
			switch {
			case err == nil:
				acked[i].Store(revision)
			case errors.Is(err, context.Canceled):
				abandoned = true
			case abandoned && (errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists)):
				// The abandoned write came after the Get.
			default:
				f.Errorf("write %d of %s: %v", n, key, err)
			}
		}
	})
	// Whatever was still under way is decided when this returns.
	last := f.put(inDefault("z"), "", 0)
	events, err := collect(w, last, f.backend.Patience)
	if err != nil {
		f.Fatal(err)
	}
	if err := contiguous(events, 0); err != nil {
		f.Fatal(err)
	}
	snapshot := f.list(inDefault("").Resource, "")
	if diff := diffEntries(fold(events, last), snapshot.Entries); diff != "" {
		f.Fatalf("the events do not add up to the list (-events +list):\n%s", diff)
	}
	for i := range acked {
		key := inDefault(string(rune('a' + i)))
		if want := acked[i].Load(); want > 0 {
			got, err := f.s.Get(f.Context(), key)
			if err != nil || got.Revision < want {
				f.Errorf("%s is at %d (%v), %d was acknowledged", key, got.Revision, err, want)
			}
		}
	}
}

func inParallel(n int, do func(i int)) {
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { do(i) })
	}
	running.Wait()
}
