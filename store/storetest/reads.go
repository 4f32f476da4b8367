package storetest

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	gocmp "github.com/google/go-cmp/cmp"

	"sandboxd.dev/sandboxd/store"
)

func checkNothing(f *fixture) {
	f.wantAbsent(inDefault("a"))
	for _, namespace := range []string{"", "default"} {
		got := f.list(inDefault("").Resource, namespace)
		if len(got.Entries) != 0 || got.Revision != 0 {
			f.Fatalf("list of an empty store: %+v", got)
		}
	}
	// All gone again is as nothing, but for the revision.
	f.delete(inDefault("a"), f.put(inDefault("a"), "x", 0))
	if got := f.list(inDefault("").Resource, ""); len(got.Entries) != 0 || got.Revision != 2 {
		f.Fatalf("list after the last deletion: %+v", got)
	}
}

// checkList: entries come by namespace and name, of the asked resource and
// namespace only, however alike the others are called.
func checkList(f *fixture) {
	resources := []string{"pod", "pods", "pods.a"}
	namespaces := []string{"", "a", "a-b", "a.b", "ab", "b", "ä", "\xff", "A", "a\x01"}
	names := []string{"b", "a", "a-1", "a.1", "aa", "ab", "Z", "\x01", "ü", "a b"}
	var all []store.Entry
	for n, resource := range resources {
		for i := range namespaces {
			for j := range names {
				// Not in order.
				key := store.Key{
					Resource:  resource,
					Namespace: namespaces[(i*7+n)%len(namespaces)],
					Name:      names[(j*3+i)%len(names)],
				}
				revision := f.put(key, key.String(), 0)
				all = append(all, store.Entry{Key: key, Value: []byte(key.String()), Revision: revision})
			}
		}
	}
	slices.SortFunc(all, func(a, b store.Entry) int {
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	for _, resource := range append(resources, "po", "pods.", "podt") {
		for _, namespace := range append(namespaces, "none", "a-", "b\x01") {
			var want []store.Entry
			for _, entry := range all {
				if entry.Key.Resource == resource && (namespace == "" || entry.Key.Namespace == namespace) {
					want = append(want, entry)
				}
			}
			got := f.list(resource, namespace)
			if diff := diffEntries(want, got.Entries); diff != "" {
				f.Fatalf("list %q in %q (-want +got):\n%s", resource, namespace, diff)
			}
			if got.Revision != int64(len(all)) {
				f.Fatalf("list %q in %q is at revision %d, want %d", resource, namespace, got.Revision, len(all))
			}
		}
	}
}

// diffEntries compares entries; no entries may be an empty or a nil slice.
func diffEntries(want, got []store.Entry) string {
	if len(want) == 0 && len(got) == 0 {
		return ""
	}
	return gocmp.Diff(want, got)
}

func checkKeys(f *fixture) {
	long := strings.Repeat("x", store.MaxKeyPart)
	good := store.Key{Resource: long, Namespace: long, Name: long}
	f.wantEntry(good, "x", f.put(good, "x", 0))
	if got := f.list(long, long); len(got.Entries) != 1 {
		f.Fatalf("list of the longest names: %d entries", len(got.Entries))
	}
	bad := []store.Key{
		{},
		{Resource: "", Namespace: "n", Name: "a"},
		{Resource: "r", Namespace: "n", Name: ""},
		{Resource: "r/s", Namespace: "n", Name: "a"},
		{Resource: "r", Namespace: "n/m", Name: "a"},
		{Resource: "r", Namespace: "n", Name: "a/b"},
		{Resource: "r", Namespace: "n", Name: "/"},
		{Resource: "r\x00s", Namespace: "n", Name: "a"},
		{Resource: "r", Namespace: "\x00", Name: "a"},
		{Resource: "r", Namespace: "n", Name: "a\x00"},
		{Resource: long + "x", Namespace: "n", Name: "a"},
		{Resource: "r", Namespace: long + "x", Name: "a"},
		{Resource: "r", Namespace: "n", Name: long + "x"},
	}
	for _, key := range bad {
		_, err := f.s.Get(f.Context(), key)
		f.wantError("get", err, store.ErrInvalidKey)
		_, err = f.s.Put(f.Context(), key, nil, 0)
		f.wantError("put", err, store.ErrInvalidKey)
		_, err = f.s.Delete(f.Context(), key, store.AnyRevision)
		f.wantError("delete", err, store.ErrInvalidKey)
		key.Name = "a"
		if key.Validate() == nil {
			continue // only the name was wrong
		}
		_, err = f.s.List(f.Context(), key.Resource, key.Namespace)
		f.wantError("list", err, store.ErrInvalidKey)
		key.Namespace = ""
		if key.Validate() == nil {
			continue // the resource was right
		}
		_, err = f.s.Watch(f.Context(), key.Resource, 0)
		f.wantError("watch", err, store.ErrInvalidKey)
	}
	f.wantRevision(1)
}

func checkOwnership(f *fixture) {
	a := inDefault("a")
	w := f.watch(a.Resource, 0)
	mine := []byte("mine")
	revision, err := f.s.Put(f.Context(), a, mine, 0)
	if err != nil {
		f.Fatal(err)
	}
	copy(mine, "XXXX")
	f.wantEntry(a, "mine", revision)
	f.wantEvents(w, store.Event{Type: store.Put, Key: a, Value: []byte("mine"), Revision: revision})
	// What was read stays as it is, whatever is written afterwards.
	read, err := f.s.Get(f.Context(), a)
	if err != nil {
		f.Fatal(err)
	}
	listed := f.list(a.Resource, "").Entries[0]
	held := func(when string) {
		f.Helper()
		if string(read.Value) != "mine" || string(listed.Value) != "mine" {
			f.Fatalf("%s, values that were read before are %q and %q", when, read.Value, listed.Value)
		}
	}
	first, second := append(read.Value, '1'), append(listed.Value, '2')
	if string(first) != "mine1" || string(second) != "mine2" {
		f.Fatalf("what was appended to one value is found behind another: %q and %q", first, second)
	}
	updated := f.put(a, "ours", revision)
	held("after an update")
	f.wantEntry(a, "ours", updated)
	f.delete(a, updated)
	held("after a deletion")
	f.put(a, "more", 0)
	held("after another creation")
	f.reopen()
	held("after the store was closed")
}

func checkValueSizes(f *fixture) {
	// A value of no bytes is a value: never nil.
	a := inDefault("a")
	w := f.watch(a.Resource, 0)
	revision, err := f.s.Put(f.Context(), a, nil, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.wantEntry(a, "", revision)
	updated := f.put(a, "", revision)
	f.wantEvents(w,
		store.Event{Type: store.Put, Key: a, Value: []byte{}, Revision: revision},
		store.Event{Type: store.Put, Key: a, Value: []byte{}, Previous: []byte{}, PreviousRevision: revision, Revision: updated})
	w.Stop()

	binary := make([]byte, 70_000)
	for i := range binary {
		binary[i] = byte(i * i >> 8)
	}
	largest := bytes.Repeat([]byte{0xfe}, store.MaxValueSize)
	_, err = f.s.Put(f.Context(), inDefault("b"), append(largest, 0), 0)
	f.wantError("a value that is too large", err, store.ErrTooLarge)
	f.wantAbsent(inDefault("b"))
	binaryAt := f.put(inDefault("binary"), string(binary), 0)
	largestAt := f.put(inDefault("largest"), string(largest), 0)
	for range 2 {
		for key, want := range map[store.Key]store.Entry{
			inDefault("binary"):  {Value: binary, Revision: binaryAt},
			inDefault("largest"): {Value: largest, Revision: largestAt},
		} {
			got, err := f.s.Get(f.Context(), key)
			if err != nil || got.Revision != want.Revision || !bytes.Equal(got.Value, want.Value) {
				f.Fatalf("%s came back otherwise: %d bytes, revision %d, %v", key, len(got.Value), got.Revision, err)
			}
		}
		f.reopen()
	}
}

// checkSnapshots: while many write, each list is the state at its revision,
// has all that was acknowledged before, and time does not run backwards.
func checkSnapshots(f *fixture) {
	const writers, writes, readers = 6, 40, 3
	var acked atomic.Int64
	var mu sync.Mutex
	var history []store.Event
	stop := make(chan struct{})
	lists := make([][]store.Snapshot, readers)
	var reading sync.WaitGroup
	for i := range readers {
		reading.Go(func() {
			last := store.Snapshot{Revision: -1}
			for {
				before := acked.Load()
				snapshot, err := f.s.List(f.Context(), inDefault("").Resource, "")
				if err != nil || snapshot.Revision < before {
					f.Errorf("list at %d (%v) after %d was acknowledged", snapshot.Revision, err, before)
					return
				}
				if got := f.s.Revision(); got < snapshot.Revision {
					f.Errorf("the store is at %d after a list at %d", got, snapshot.Revision)
				}
				switch {
				case snapshot.Revision > last.Revision:
					lists[i] = append(lists[i], snapshot)
				case snapshot.Revision < last.Revision || diffEntries(last.Entries, snapshot.Entries) != "":
					f.Errorf("a list at revision %d follows another one at %d", snapshot.Revision, last.Revision)
					return
				}
				last = snapshot
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	inParallel(writers, func(i int) {
		for n := range writes {
			event, err := writeSome(f, i, n)
			if err != nil {
				f.Errorf("writer %d, write %d: %v", i, n, err)
				return
			}
			for seen := acked.Load(); event.Revision > seen && !acked.CompareAndSwap(seen, event.Revision); {
				seen = acked.Load()
			}
			mu.Lock()
			history = append(history, event)
			mu.Unlock()
		}
	})
	close(stop)
	reading.Wait()
	if f.Failed() {
		return
	}
	slices.SortFunc(history, func(a, b store.Event) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, snapshots := range lists {
		for _, snapshot := range snapshots {
			if diff := diffEntries(fold(history, snapshot.Revision), snapshot.Entries); diff != "" {
				f.Fatalf("list at revision %d (-history +list):\n%s", snapshot.Revision, diff)
			}
		}
	}
}

// writeSome does the n-th write of a writer, a creation, an update or a
// deletion of one of its keys, and returns the event that it makes.
func writeSome(f *fixture, writer, n int) (store.Event, error) {
	key := inDefault(string(rune('a'+writer)) + string(rune('0'+n%3)))
	entry, err := f.s.Get(f.Context(), key)
	if err != nil {
		entry = store.Entry{}
	}
	event := store.Event{Type: store.Put, Key: key, Previous: entry.Value, PreviousRevision: entry.Revision}
	if entry.Revision > 0 && n%4 == 3 {
		event.Type = store.Delete
		event.Revision, err = f.s.Delete(f.Context(), key, entry.Revision)
		return event, err
	}
	event.Value = []byte{byte(writer), byte(n)}
	event.Revision, err = f.s.Put(f.Context(), key, event.Value, entry.Revision)
	return event, err
}

// fold is what a list shows after events, in order, up to a revision.
func fold(events []store.Event, upTo int64) []store.Entry {
	var entries []store.Entry
	for _, e := range events {
		if e.Revision > upTo {
			break
		}
		i, found := slices.BinarySearchFunc(entries, e.Key, func(entry store.Entry, key store.Key) int {
			return cmp.Or(cmp.Compare(entry.Key.Namespace, key.Namespace), cmp.Compare(entry.Key.Name, key.Name))
		})
		entry := store.Entry{Key: e.Key, Value: e.Value, Revision: e.Revision}
		switch {
		case e.Type == store.Delete:
			entries = slices.Delete(entries, i, i+1)
		case found:
			entries[i] = entry
		default:
			entries = slices.Insert(entries, i, entry)
		}
	}
	return entries
}
