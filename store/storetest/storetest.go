// Package storetest proves that a store.Store keeps its contract.
//
//	Run      every sentence of the contract, one check each, and
//	         └── model: random operations and reopenings against a model
//	Crash    a child process writes and is killed; the store is opened again
//	         and must hold whatever was acknowledged
//
// A backend's own tests call both:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Backend { … })
//	}
//
//	func TestCrash(t *testing.T) {
//		storetest.Crash(t, func(dir string) (store.Store, error) { … })
//	}
//
// The checks look at what the store holds and delivers, never at how. They
// assume nothing beyond the contract, but that a watch log of a known size
// exists.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sandboxd.dev/sandboxd/store"
)

// Backend is one store, empty at first, that can be closed and opened again.
type Backend struct {
	// Open opens the store. Each call opens the same data; the suite closes
	// the store before it opens it again.
	Open func() (store.Store, error)
	// LogEvents is how many events of one resource the store's watch log is
	// sure to keep, when no value is longer than 100 bytes. It must be 64 at
	// least; the smaller it is the quicker is the suite.
	LogEvents int
	// Patience is how long the suite waits for what must come, such as an
	// event, before it calls it missing. 0 means a minute: it is spent only
	// by a store that is broken.
	Patience time.Duration
}

// Run checks a store against the contract. It calls open for a new, empty
// Backend for each check.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	checks := []struct {
		name  string
		check func(*fixture)
	}{
		{"put", checkPut},
		{"delete", checkDelete},
		{"revisions", checkRevisions},
		{"failed writes change nothing", checkFailedWrites},
		{"get and list of nothing", checkNothing},
		{"list order and scope", checkList},
		{"list the past", checkPast},
		{"keys", checkKeys},
		{"values stay as they are", checkOwnership},
		{"value sizes", checkValueSizes},
		{"watch history", checkHistory},
		{"watch from now", checkFromNow},
		{"watch the future", checkFuture},
		{"watch the compacted past", checkCompacted},
		{"slow watcher", checkSlowWatcher},
		{"stop a watch", checkStop},
		{"contexts", checkContexts},
		{"close", checkClose},
		{"close under load", checkCloseUnderLoad},
		{"reopen", checkReopen},
		{"instances", func(f *fixture) { checkInstances(f, open) }},
		{"one creator wins", checkOneCreator},
		{"no update is lost", checkNoLostUpdate},
		{"snapshots under load", checkSnapshots},
		{"watchers under load", checkWatchers},
		{"cancelled writes", checkCancelledWrites},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.check(newFixture(t, open(t))) })
	}
	t.Run("model", func(t *testing.T) { checkModel(t, func() Backend { return open(t).checked(t) }) })
}

// fixture is a store under check. Its methods end the check when the store
// does not do as it must; they belong to the check's own goroutine.
type fixture struct {
	*testing.T
	backend Backend
	s       store.Store
}

func newFixture(t *testing.T, b Backend) *fixture {
	f := &fixture{T: t, backend: b.checked(t)}
	f.open()
	// A check may have closed the store itself.
	t.Cleanup(func() { _ = f.s.Close() })
	return f
}

// checked fills in what a backend leaves out.
func (b Backend) checked(t *testing.T) Backend {
	if b.LogEvents < 64 {
		t.Fatalf("Backend.LogEvents is %d, the suite needs 64", b.LogEvents)
	}
	if b.Patience == 0 {
		b.Patience = time.Minute
	}
	return b
}

func (f *fixture) open() {
	f.Helper()
	s, err := f.backend.Open()
	if err != nil {
		f.Fatalf("open the store: %v", err)
	}
	f.s = s
}

func (f *fixture) reopen() {
	f.Helper()
	if err := f.s.Close(); err != nil {
		f.Fatalf("close the store: %v", err)
	}
	f.open()
}

func (f *fixture) put(key store.Key, value string, ifRevision int64) int64 {
	f.Helper()
	revision, err := f.s.Put(f.Context(), key, []byte(value), ifRevision)
	if err != nil {
		f.Fatalf("put %s if at %d: %v", key, ifRevision, err)
	}
	return revision
}

func (f *fixture) delete(key store.Key, ifRevision int64) int64 {
	f.Helper()
	revision, err := f.s.Delete(f.Context(), key, ifRevision)
	if err != nil {
		f.Fatalf("delete %s if at %d: %v", key, ifRevision, err)
	}
	return revision
}

// wantEntry checks that a key has that value and revision.
func (f *fixture) wantEntry(key store.Key, value string, revision int64) {
	f.Helper()
	got, err := f.s.Get(f.Context(), key)
	if err != nil {
		f.Fatalf("get %s: %v", key, err)
	}
	f.same("get "+key.String(), got, store.Entry{Key: key, Value: []byte(value), Revision: revision})
}

// wantAbsent checks that there is no entry of that key.
func (f *fixture) wantAbsent(key store.Key) {
	f.Helper()
	got, err := f.s.Get(f.Context(), key)
	f.wantError("get "+key.String(), err, store.ErrNotFound)
	f.same("entry beside the error", got, store.Entry{})
}

func (f *fixture) list(resource, namespace string) store.Snapshot {
	f.Helper()
	snapshot, err := f.s.List(f.Context(), resource, namespace)
	if err != nil {
		f.Fatalf("list %s in %q: %v", resource, namespace, err)
	}
	return snapshot
}

func (f *fixture) watch(resource string, after int64) store.Watcher {
	f.Helper()
	w, err := f.s.Watch(f.Context(), resource, after)
	if err != nil {
		f.Fatalf("watch %s after %d: %v", resource, after, err)
	}
	f.Cleanup(w.Stop)
	return w
}

// wantEvents checks that these events come next.
func (f *fixture) wantEvents(w store.Watcher, want ...store.Event) {
	f.Helper()
	for i, event := range want {
		got, err := next(w, f.backend.Patience)
		if err != nil {
			f.Fatalf("event %d of %d: %v", i+1, len(want), err)
		}
		f.same(fmt.Sprintf("event %d of %d", i+1, len(want)), got, event)
	}
}

// wantEnd checks that the watch ends, after events that nobody took, for that
// reason; nil means for none.
func (f *fixture) wantEnd(w store.Watcher, reason error) {
	f.Helper()
	for {
		_, err := next(w, f.backend.Patience)
		switch {
		case err == nil:
			continue
		case !errors.Is(err, errEnded):
			f.Fatalf("the watch should end: %v", err)
		}
		if got := w.Err(); !errors.Is(got, reason) {
			f.Fatalf("the watch ended with %v, want %v", got, reason)
		}
		return
	}
}

func (f *fixture) wantError(what string, got, want error) {
	f.Helper()
	if !errors.Is(got, want) {
		f.Fatalf("%s: got error %v, want %v", what, got, want)
	}
}

func (f *fixture) wantRevision(want int64) {
	f.Helper()
	if got := f.s.Revision(); got != want {
		f.Fatalf("the store is at revision %d, want %d", got, want)
	}
}

func (f *fixture) same(what string, got, want any) {
	f.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		f.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

var (
	errEnded   = errors.New("the watch has ended")
	errMissing = errors.New("nothing came")
)

// next receives an event; it fails with errEnded when the watch is over and
// with errMissing when none comes.
func next(w store.Watcher, patience time.Duration) (store.Event, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case event, ok := <-w.Events():
		if !ok {
			return store.Event{}, errEnded
		}
		return event, nil
	case <-timer.C:
		return store.Event{}, errMissing
	}
}

// collect receives the events up to a revision. Unlike the fixture's methods it
// may be called from any goroutine.
func collect(w store.Watcher, upTo int64, patience time.Duration) ([]store.Event, error) {
	var events []store.Event
	for {
		event, err := next(w, patience)
		if err != nil {
			return events, fmt.Errorf("after %d events: %w (%w)", len(events), err, w.Err())
		}
		events = append(events, event)
		if event.Revision >= upTo {
			return events, nil
		}
	}
}

// Keys of the checks.

func inDefault(name string) store.Key {
	return store.Key{Resource: "sandboxes.sandboxd.dev", Namespace: "default", Name: name}
}

func clusterWide(name string) store.Key {
	return store.Key{Resource: "goldenimages.sandboxd.dev", Name: name}
}

// ended is a context that is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
