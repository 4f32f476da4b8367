package storetest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sandboxd.dev/sandboxd/store"
)

// checkModel runs random operations on a store and on a model of it, which must
// agree on every result.
func checkModel(t *testing.T, open func() Backend) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{backend: open()}
		m.open(rt)
		defer m.close(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"put":    m.put,
			"delete": m.delete,
			"get":    m.get,
			"list":   m.list,
			"watch":  m.watch,
			"listAt": m.listAt,
			"reopen": m.reopen,
			"":       m.check,
		})
	})
}

// machine is a store beside its model: the history of its writes, from which
// everything else follows.
type machine struct {
	backend Backend
	s       store.Store
	history []store.Event // one for each revision
	opened  int64         // the revision at the last opening
}

func (m *machine) open(rt *rapid.T) {
	s, err := m.backend.Open()
	if err != nil {
		rt.Fatalf("open: %v", err)
	}
	m.s, m.opened = s, m.revision()
}

func (m *machine) close(rt *rapid.T) {
	if err := m.s.Close(); err != nil {
		rt.Fatalf("close: %v", err)
	}
}

func (m *machine) revision() int64 { return int64(len(m.history)) }

// entry is the model's entry of a key, with revision 0 if there is none.
func (m *machine) entry(key store.Key) store.Entry {
	for i := len(m.history) - 1; i >= 0; i-- {
		if e := m.history[i]; e.Key == key {
			if e.Type == store.Delete {
				break
			}
			return store.Entry{Key: key, Value: e.Value, Revision: e.Revision}
		}
	}
	return store.Entry{}
}

// Names that are alike.
var (
	resources  = rapid.SampledFrom([]string{"sandboxes", "sandbox"})
	namespaces = rapid.SampledFrom([]string{"", "a", "a-b"})
	names      = rapid.SampledFrom([]string{"x", "x-y"})
	values     = rapid.SliceOfN(rapid.Byte(), 0, 100)
)

// key draws a key: mostly one that was written before, so that they meet.
func (m *machine) key(rt *rapid.T) store.Key {
	if n := len(m.history); n > 0 && rapid.IntRange(0, 3).Draw(rt, "old") > 0 {
		return m.history[rapid.IntRange(0, n-1).Draw(rt, "as in")].Key
	}
	return store.Key{
		Resource:  resources.Draw(rt, "resource"),
		Namespace: namespaces.Draw(rt, "namespace"),
		Name:      names.Draw(rt, "name"),
	}
}

// condition draws a revision to write at: mostly the right one.
func (m *machine) condition(rt *rapid.T, right int64) int64 {
	if rapid.IntRange(0, 3).Draw(rt, "right") > 0 {
		return right
	}
	return rapid.Int64Range(-2, m.revision()+1).Draw(rt, "ifRevision")
}

func (m *machine) put(rt *rapid.T) {
	key, value := m.key(rt), values.Draw(rt, "value")
	old := m.entry(key)
	ifRevision := m.condition(rt, old.Revision)
	var want error
	switch {
	case old.Revision == ifRevision:
	case old.Revision == 0:
		want = store.ErrNotFound
	case ifRevision == 0:
		want = store.ErrExists
	default:
		want = store.ErrConflict
	}
	revision, err := m.s.Put(rt.Context(), key, value, ifRevision)
	m.wrote(rt, revision, err, want, store.Event{Type: store.Put, Key: key, Value: value, Previous: old.Value, PreviousRevision: old.Revision})
}

func (m *machine) delete(rt *rapid.T) {
	key := m.key(rt)
	old := m.entry(key)
	ifRevision := m.condition(rt, old.Revision)
	var want error
	switch {
	case old.Revision == 0:
		want = store.ErrNotFound
	case ifRevision != store.AnyRevision && ifRevision != old.Revision:
		want = store.ErrConflict
	}
	revision, err := m.s.Delete(rt.Context(), key, ifRevision)
	m.wrote(rt, revision, err, want, store.Event{Type: store.Delete, Key: key, Previous: old.Value, PreviousRevision: old.Revision})
}

// wrote compares the outcome of a write and adds it to the history.
func (m *machine) wrote(rt *rapid.T, revision int64, err, want error, event store.Event) {
	if !errors.Is(err, want) {
		rt.Fatalf("got error %v, want %v", err, want)
	}
	if want != nil {
		return
	}
	if revision != m.revision()+1 {
		rt.Fatalf("got revision %d, want %d", revision, m.revision()+1)
	}
	event.Revision = revision
	m.history = append(m.history, event)
}

func (m *machine) get(rt *rapid.T) {
	key := m.key(rt)
	want := m.entry(key)
	got, err := m.s.Get(rt.Context(), key)
	if want.Revision == 0 {
		if !errors.Is(err, store.ErrNotFound) {
			rt.Fatalf("got %+v, %v, want ErrNotFound", got, err)
		}
		return
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		rt.Fatalf("%v (-want +got):\n%s", err, diff)
	}
}

func (m *machine) list(rt *rapid.T) {
	resource, namespace := resources.Draw(rt, "resource"), namespaces.Draw(rt, "namespace")
	var events []store.Event
	for _, e := range m.history {
		if e.Key.Resource == resource && (namespace == "" || e.Key.Namespace == namespace) {
			events = append(events, e)
		}
	}
	got, err := m.s.List(rt.Context(), resource, namespace)
	if err != nil || got.Revision != m.revision() {
		rt.Fatalf("list at revision %d, %v, want %d", got.Revision, err, m.revision())
	}
	if diff := diffEntries(fold(events, m.revision()), got.Entries); diff != "" {
		rt.Fatalf("list (-want +got):\n%s", diff)
	}
}

// listAt lists anywhere in the past, and a little beyond the present.
func (m *machine) listAt(rt *rapid.T) {
	resource, namespace := resources.Draw(rt, "resource"), namespaces.Draw(rt, "namespace")
	revision := rapid.Int64Range(-1, m.revision()+2).Draw(rt, "revision")
	var events []store.Event
	later := 0
	for _, e := range m.history {
		if e.Key.Resource == resource && e.Revision > revision {
			later++
		}
		if e.Key.Resource == resource && (namespace == "" || e.Key.Namespace == namespace) {
			events = append(events, e)
		}
	}
	got, err := m.s.ListAt(rt.Context(), resource, namespace, revision)
	switch {
	case revision > m.revision():
		if !errors.Is(err, store.ErrFutureRevision) {
			rt.Fatalf("list at %d of %d: got error %v, want ErrFutureRevision", revision, m.revision(), err)
		}
		return
	case errors.Is(err, store.ErrCompacted) && (revision < m.opened || later > m.backend.LogEvents):
		return // allowed: it is before the opening or far back
	case err != nil || got.Revision != revision:
		rt.Fatalf("list at %d of %d is at %d: %v", revision, m.revision(), got.Revision, err)
	}
	if diff := diffEntries(fold(events, revision), got.Entries); diff != "" {
		rt.Fatalf("list at %d of %d (-want +got):\n%s", revision, m.revision(), diff)
	}
}

// watch begins anywhere and reads up to the present.
func (m *machine) watch(rt *rapid.T) {
	resource := resources.Draw(rt, "resource")
	after := rapid.Int64Range(0, m.revision()+2).Draw(rt, "after")
	w, err := m.s.Watch(rt.Context(), resource, after)
	var want []store.Event
	if after > 0 {
		for _, e := range m.history[min(after, m.revision()):] {
			if e.Key.Resource == resource {
				want = append(want, e)
			}
		}
	}
	switch {
	case after > m.revision():
		if !errors.Is(err, store.ErrFutureRevision) {
			rt.Fatalf("got error %v, want ErrFutureRevision", err)
		}
		return
	case errors.Is(err, store.ErrCompacted) && after > 0 &&
		(after < m.opened || len(want) > m.backend.LogEvents):
		return // allowed: it is before the opening or far back
	case err != nil:
		rt.Fatalf("watch after %d of %d: %v", after, m.revision(), err)
	}
	defer w.Stop()
	for i, event := range want {
		got, err := next(w, m.backend.Patience)
		if err != nil {
			rt.Fatalf("event %d of %d: %v", i+1, len(want), err)
		}
		if diff := cmp.Diff(event, got); diff != "" {
			rt.Fatalf("event %d of %d (-want +got):\n%s", i+1, len(want), diff)
		}
	}
	select {
	case event := <-w.Events():
		rt.Fatalf("an event that never happened: %+v", event)
	default:
	}
}

func (m *machine) reopen(rt *rapid.T) {
	m.close(rt)
	m.open(rt)
}

// check holds after every step.
func (m *machine) check(rt *rapid.T) {
	if got := m.s.Revision(); got != m.revision() {
		rt.Fatalf("the store is at revision %d, want %d", got, m.revision())
	}
}
