package storetest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-cmp/cmp"

	"sandboxd.dev/sandboxd/store"
)

// checkHistory: a watch after any revision delivers each later write to its
// resource, once, in order, with the values before and after.
func checkHistory(f *fixture) {
	a, b, other := inDefault("a"), clusterWide("b"), inDefault("c")
	b.Resource = a.Resource // cluster-wide names of the same resource are watched too
	other.Resource += "x"
	var want []store.Event
	put := func(key store.Key, value string, ifRevision int64) int64 {
		event := store.Event{Type: store.Put, Key: key, Value: []byte(value)}
		if ifRevision > 0 {
			entry, err := f.s.Get(f.Context(), key)
			if err != nil {
				f.Fatal(err)
			}
			event.Previous, event.PreviousRevision = entry.Value, entry.Revision
		}
		event.Revision = f.put(key, value, ifRevision)
		want = append(want, event)
		return event.Revision
	}
	remove := func(key store.Key, previous string, ifRevision int64) {
		entry, err := f.s.Get(f.Context(), key)
		if err != nil {
			f.Fatal(err)
		}
		revision := f.delete(key, ifRevision)
		want = append(want, store.Event{Type: store.Delete, Key: key, Previous: []byte(previous), PreviousRevision: entry.Revision, Revision: revision})
	}
	put(b, "b1", put(b, "b0", 0))
	put(other, "c0", 0)
	remove(a, "a1", put(a, "a1", put(a, "a0", 0)))
	put(a, "a2", 0)
	remove(b, "b1", store.AnyRevision)
	put(other, "c1", 3)
	last := want[len(want)-1].Revision

	for _, resource := range []string{a.Resource, other.Resource} {
		for after := int64(1); after <= last; after++ {
			w := f.watch(resource, after)
			for _, event := range want {
				if event.Revision > after && event.Key.Resource == resource {
					f.wantEvents(w, event)
				}
			}
			// The next thing to come is what happens next to the resource.
			elsewhere := store.Key{Resource: resource + "y", Namespace: "next", Name: fmt.Sprint(after)}
			f.delete(elsewhere, f.put(elsewhere, "e", 0))
			key := store.Key{Resource: resource, Namespace: "next", Name: fmt.Sprint(after)}
			revision := f.put(key, "n", 0)
			f.wantEvents(w, store.Event{Type: store.Put, Key: key, Value: []byte("n"), Revision: revision})
			w.Stop()
			f.wantEnd(w, nil)
			revision = f.delete(key, revision)
			want = append(want,
				store.Event{Type: store.Put, Key: key, Value: []byte("n"), Revision: revision - 1},
				store.Event{Type: store.Delete, Key: key, Previous: []byte("n"), PreviousRevision: revision - 1, Revision: revision})
		}
	}
}

func checkFromNow(f *fixture) {
	a := inDefault("a")
	empty := f.watch(a.Resource, 0)
	first := f.put(a, "one", 0)
	now := f.watch(a.Resource, 0)
	second := f.put(a, "two", first)
	two := store.Event{Type: store.Put, Key: a, Value: []byte("two"), Previous: []byte("one"), PreviousRevision: first, Revision: second}
	f.wantEvents(empty, store.Event{Type: store.Put, Key: a, Value: []byte("one"), Revision: first}, two)
	f.wantEvents(now, two)
	// From a list on, nothing is missed and nothing comes twice.
	listed := f.watch(a.Resource, f.list(a.Resource, "").Revision)
	third := f.delete(a, second)
	f.wantEvents(listed, store.Event{Type: store.Delete, Key: a, Previous: []byte("two"), PreviousRevision: second, Revision: third})
	f.reopen()
	now = f.watch(a.Resource, 0)
	fourth := f.put(a, "three", 0)
	f.wantEvents(now, store.Event{Type: store.Put, Key: a, Value: []byte("three"), Revision: fourth})
}

func checkFuture(f *fixture) {
	a := inDefault("a")
	_, err := f.s.Watch(f.Context(), a.Resource, 1)
	f.wantError("watch an empty store after 1", err, store.ErrFutureRevision)
	revision := f.put(a, "one", 0)
	f.watch(a.Resource, revision)
	_, err = f.s.Watch(f.Context(), a.Resource, revision+1)
	f.wantError("watch after the next revision", err, store.ErrFutureRevision)
	f.reopen()
	_, err = f.s.Watch(f.Context(), a.Resource, revision+1)
	f.wantError("watch after the next revision", err, store.ErrFutureRevision)
}

// checkCompacted: the log goes back as far as it must and not forever, and a
// watch that it cannot serve is refused, not served with gaps.
func checkCompacted(f *fixture) {
	a := inDefault("a")
	revision := f.put(a, "x", 0)
	compacted := false
	for n := 0; !compacted; n++ {
		if n > 20*f.backend.LogEvents {
			f.Fatalf("after %d events the log still begins at revision 1: it is not bounded", n)
		}
		revision = f.put(a, "x", revision)
		w, err := f.s.Watch(f.Context(), a.Resource, 1)
		if err == nil {
			w.Stop()
			continue
		}
		f.wantError("watch from the beginning", err, store.ErrCompacted)
		compacted = true
		if n < f.backend.LogEvents {
			f.Fatalf("the log lost the event after revision 1 %d events later, it is to keep %d", n, f.backend.LogEvents)
		}
	}
	_, err := f.s.Watch(f.Context(), a.Resource, -1)
	f.wantError("watch after revision -1", err, store.ErrCompacted)
	after := revision - int64(f.backend.LogEvents)
	w := f.watch(a.Resource, after)
	events, err := collect(w, revision, f.backend.Patience)
	if err != nil {
		f.Fatal(err)
	}
	if err := contiguous(events, after); err != nil {
		f.Fatal(err)
	}
}

// contiguous checks that events follow a revision without gaps.
func contiguous(events []store.Event, after int64) error {
	for i, event := range events {
		if want := after + 1 + int64(i); event.Revision != want {
			return fmt.Errorf("event %d has revision %d, want %d", i, event.Revision, want)
		}
	}
	return nil
}

// checkSlowWatcher: one that does not read holds nobody up, and learns that it
// has missed something after what it did not miss.
func checkSlowWatcher(f *fixture) {
	a := inDefault("a")
	revision := f.put(a, "0", 0)
	slow, fast, other := f.watch(a.Resource, revision), f.watch(a.Resource, revision), f.watch("quiet", revision)
	for range 4*f.backend.LogEvents + 1000 {
		revision = f.put(a, "x", revision)
		event, err := next(fast, f.backend.Patience)
		if err != nil || event.Revision != revision {
			f.Fatalf("the fast watcher got revision %d (%v), want %d", event.Revision, err, revision)
		}
	}
	if err := slow.Err(); err != nil && !errors.Is(err, store.ErrSlowWatcher) {
		f.Fatalf("the slow watcher's error is %v", err)
	}
	var events []store.Event
	for {
		event, err := next(slow, f.backend.Patience)
		if errors.Is(err, errEnded) {
			break
		}
		if err != nil {
			f.Fatalf("the slow watcher was not dropped: %v after %d events", err, len(events))
		}
		events = append(events, event)
	}
	f.wantError("end of the slow watch", slow.Err(), store.ErrSlowWatcher)
	if err := contiguous(events, 1); err != nil {
		f.Fatalf("the slow watcher got a gap before its end: %v", err)
	}
	// A watcher of another resource had nothing to read and is not slow.
	key := store.Key{Resource: "quiet", Name: "q"}
	f.wantEvents(other, store.Event{Type: store.Put, Key: key, Value: []byte("q"), Revision: f.put(key, "q", 0)})
}

func checkStop(f *fixture) {
	a := inDefault("a")
	idle, full := f.watch(a.Resource, 0), f.watch(a.Resource, 0)
	stays := f.watch(a.Resource, 0)
	revision := f.put(a, "x", 0)
	// From many goroutines, with events not taken, and again after the end.
	inParallel(4, func(int) {
		idle.Stop()
		full.Stop()
	})
	f.wantEnd(idle, nil)
	f.wantEnd(full, nil)
	idle.Stop()
	f.wantEvents(stays, store.Event{Type: store.Put, Key: a, Value: []byte("x"), Revision: revision})
	if err := stays.Err(); err != nil {
		f.Fatalf("a watch that goes on has the error %v", err)
	}
}

// checkWatchers: while many write, watches that begin anywhere get every event
// from there on.
func checkWatchers(f *fixture) {
	const writers = 4
	writes := f.backend.LogEvents / 2 / writers
	resource := inDefault("").Resource
	var mu sync.Mutex // guards history and watches
	history := make(map[int64]store.Event)
	watches := make(map[store.Watcher]int64) // and where each began
	inParallel(writers, func(i int) {
		for n := range writes {
			event, err := writeSome(f, i, n)
			if err != nil {
				f.Errorf("writer %d, write %d: %v", i, n, err)
				return
			}
			w, err := f.s.Watch(f.Context(), resource, event.Revision)
			if err != nil {
				f.Errorf("watch after %d: %v", event.Revision, err)
				return
			}
			mu.Lock()
			history[event.Revision], watches[w] = event, event.Revision
			mu.Unlock()
		}
	})
	if f.Failed() {
		return
	}
	end := f.put(inDefault("end"), "", 0)
	history[end] = store.Event{Type: store.Put, Key: inDefault("end"), Value: []byte{}, Revision: end}
	// Nobody has read yet: the log is long enough for all of it.
	var watching sync.WaitGroup
	for w, after := range watches {
		watching.Go(func() {
			defer w.Stop()
			events, err := collect(w, end, f.backend.Patience)
			if err == nil {
				err = contiguous(events, after)
			}
			if err != nil {
				f.Errorf("watch after %d: %v", after, err)
				return
			}
			for _, event := range events {
				if diff := cmp.Diff(history[event.Revision], event); diff != "" {
					f.Errorf("event (-written +watched):\n%s", diff)
				}
			}
		})
	}
	watching.Wait()
}
