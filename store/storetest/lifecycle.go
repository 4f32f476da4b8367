package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"sandboxd.dev/sandboxd/store"
)

// checkContexts: a call whose context is over does nothing, and a watch ends
// with its own.
func checkContexts(f *fixture) {
	a := inDefault("a")
	revision := f.put(a, "one", 0)
	over := ended()
	_, err := f.s.Get(over, a)
	f.wantError("get", err, context.Canceled)
	_, err = f.s.List(over, a.Resource, "")
	f.wantError("list", err, context.Canceled)
	_, err = f.s.Put(over, a, []byte("two"), revision)
	f.wantError("put", err, context.Canceled)
	_, err = f.s.Delete(over, a, revision)
	f.wantError("delete", err, context.Canceled)
	_, err = f.s.Watch(over, a.Resource, revision)
	f.wantError("watch", err, context.Canceled)
	f.wantEntry(a, "one", revision)
	f.wantRevision(revision)

	ctx, cancel := context.WithCancel(f.Context())
	var watches []store.Watcher
	for range 2 {
		w, err := f.s.Watch(ctx, a.Resource, revision)
		if err != nil {
			f.Fatal(err)
		}
		watches = append(watches, w)
	}
	idle, full := watches[0], watches[1]
	stays := f.watch(a.Resource, revision)
	next := f.put(a, "two", revision)
	event := store.Event{Type: store.Put, Key: a, Value: []byte("two"), Previous: []byte("one"), PreviousRevision: revision, Revision: next}
	f.wantEvents(idle, event)
	cancel()
	f.wantEnd(idle, nil)
	f.wantEnd(full, nil)
	full.Stop()
	f.wantEvents(stays, event)
}

// checkClose: after Close there is nothing but ErrClosed.
func checkClose(f *fixture) {
	a := inDefault("a")
	idle := f.watch(a.Resource, 0)
	revision := f.put(a, "one", 0)
	full := f.watch("other", 0)
	f.put(store.Key{Resource: "other", Name: "o"}, "", 0)
	f.wantEvents(idle, store.Event{Type: store.Put, Key: a, Value: []byte("one"), Revision: revision})
	instance := f.s.InstanceID()

	if err := f.s.Close(); err != nil {
		f.Fatalf("close: %v", err)
	}
	f.wantEnd(idle, store.ErrClosed)
	f.wantEnd(full, store.ErrClosed)
	_, err := f.s.Get(f.Context(), a)
	f.wantError("get", err, store.ErrClosed)
	_, err = f.s.List(f.Context(), a.Resource, "")
	f.wantError("list", err, store.ErrClosed)
	_, err = f.s.Put(f.Context(), a, nil, revision)
	f.wantError("put", err, store.ErrClosed)
	_, err = f.s.Delete(f.Context(), a, revision)
	f.wantError("delete", err, store.ErrClosed)
	_, err = f.s.Watch(f.Context(), a.Resource, 0)
	f.wantError("watch", err, store.ErrClosed)
	f.wantError("second close", f.s.Close(), store.ErrClosed)
	if got := f.s.InstanceID(); got != instance {
		f.Fatalf("the instance ID is %q after Close, was %q", got, instance)
	}
	f.wantRevision(revision + 1)
}

// checkCloseUnderLoad: Close amid writes leaves each acknowledged or refused,
// and what was acknowledged is there afterwards.
func checkCloseUnderLoad(f *fixture) {
	for round := range 5 {
		before := f.s.Revision()
		acked := make([]atomic.Int64, 6)
		var begun atomic.Int32
		ready, closed := make(chan struct{}), make(chan error, 1)
		begin := sync.OnceFunc(func() { close(ready) })
		go func() {
			<-ready
			closed <- f.s.Close()
		}()
		inParallel(len(acked), func(i int) {
			key := inDefault(string(rune('a'+round)) + string(rune('a'+i)))
			for revision := int64(0); ; {
				var err error
				revision, err = f.s.Put(f.Context(), key, []byte{byte(i)}, revision)
				if err != nil {
					if !errors.Is(err, store.ErrClosed) {
						f.Errorf("put while the store is closed: %v", err)
					}
					return
				}
				acked[i].Store(revision)
				if begun.Add(1) == int32(len(acked))+5 {
					begin()
				}
			}
		})
		begin() // if they all failed before
		if err := <-closed; err != nil {
			f.Fatalf("close: %v", err)
		}
		f.open()
		total := int64(begun.Load())
		f.wantRevision(before + total)
		for i := range acked {
			if revision := acked[i].Load(); revision > 0 {
				f.wantEntry(inDefault(string(rune('a'+round))+string(rune('a'+i))), string([]byte{byte(i)}), revision)
			}
		}
	}
}

// checkReopen: what is in the store is there when it is opened again, and the
// revision goes on where it was.
func checkReopen(f *fixture) {
	a, b, c := inDefault("a"), clusterWide("b"), inDefault("c")
	instance := f.s.InstanceID()
	f.reopen()
	f.wantRevision(0)
	f.put(a, "one", 0)
	f.put(b, "two", 0)
	f.put(c, "three", 0)
	f.put(a, "four", 1)
	f.delete(c, 3)
	for range 2 {
		f.reopen()
		f.wantRevision(5)
		f.wantEntry(a, "four", 4)
		f.wantEntry(b, "two", 2)
		f.wantAbsent(c)
		f.same("list", f.list(a.Resource, ""), store.Snapshot{
			Entries: []store.Entry{{Key: a, Value: []byte("four"), Revision: 4}}, Revision: 5,
		})
		if got := f.s.InstanceID(); got != instance {
			f.Fatalf("the instance ID is %q, was %q before", got, instance)
		}
	}
	// Conditions hold across.
	_, err := f.s.Put(f.Context(), c, []byte("x"), 3)
	f.wantError("update of the deleted entry", err, store.ErrNotFound)
	if revision := f.put(a, "five", 4); revision != 6 {
		f.Fatalf("the write after revision 5 took %d", revision)
	}
}

// checkInstances: each store has an ID of its own, a random UUID.
func checkInstances(f *fixture, open func(t *testing.T) Backend) {
	seen := make(map[string]bool)
	for range 3 {
		s, err := open(f.T).Open()
		if err != nil {
			f.Fatal(err)
		}
		id, err := uuid.Parse(s.InstanceID())
		if err != nil || id.Version() != 4 || id.String() != s.InstanceID() {
			f.Errorf("the instance ID %q is not a random UUID (%v)", s.InstanceID(), err)
		}
		if seen[s.InstanceID()] {
			f.Errorf("two stores have the instance ID %q", s.InstanceID())
		}
		seen[s.InstanceID()] = true
		if err := s.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	}
}
