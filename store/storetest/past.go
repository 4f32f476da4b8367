package storetest

import (
	"fmt"

	"sandboxd.dev/sandboxd/store"
)

// checkPast: a list at any revision of the log shows what a list showed then, in
// each namespace; one further back, before the opening or ahead says so.
func checkPast(f *fixture) {
	a, b := inDefault("a"), inDefault("b")
	elsewhere, other := inDefault("a"), inDefault("a")
	elsewhere.Namespace += "-2"
	other.Resource += "x"
	scopes := []string{"", a.Namespace, elsewhere.Namespace, "none"}
	then := map[string][]store.Snapshot{} // by namespace, of each revision
	note := func(revision int64) int64 {
		for _, namespace := range scopes {
			then[namespace] = append(then[namespace], f.list(a.Resource, namespace))
		}
		return revision
	}
	check := func(when string) {
		f.Helper()
		for _, namespace := range scopes {
			for _, want := range then[namespace] {
				got, err := f.s.ListAt(f.Context(), a.Resource, namespace, want.Revision)
				if err != nil || got.Revision != want.Revision {
					f.Fatalf("%s, the list at %d is at %d (%v)", when, want.Revision, got.Revision, err)
				}
				if diff := diffEntries(want.Entries, got.Entries); diff != "" {
					f.Fatalf("%s, in %q at %d (-want +got):\n%s", when, namespace, want.Revision, diff)
				}
			}
		}
	}
	note(0)
	first := note(f.put(b, "b1", 0))
	second := note(f.put(a, "a1", 0))
	note(f.put(other, "not of it", 0))
	third := note(f.put(a, "a2", second))
	note(f.put(elsewhere, "e1", 0))
	note(f.delete(b, first)) // what is gone today
	note(f.put(b, "b2", 0))  // and is there again
	note(f.delete(a, third))
	last := note(f.put(a, "", 0)) // a value of no bytes is a value
	check("after a few writes")

	_, err := f.s.ListAt(f.Context(), a.Resource, "", last+1)
	f.wantError("a list of the future", err, store.ErrFutureRevision)
	_, err = f.s.ListAt(f.Context(), a.Resource, "", -1)
	f.wantError("a list of before the beginning", err, store.ErrCompacted)
	_, err = f.s.ListAt(f.Context(), a.Resource, "a/b", last)
	f.wantError("a list of no namespace", err, store.ErrInvalidKey)

	// The log of another resource is no log of this one.
	for n := range 4 * f.backend.LogEvents {
		f.put(store.Key{Resource: other.Resource, Namespace: "many", Name: fmt.Sprint(n)}, "x", 0)
	}
	check("after many writes elsewhere")
	for n := range 4 * f.backend.LogEvents {
		f.put(store.Key{Resource: a.Resource, Namespace: "many", Name: fmt.Sprint(n)}, "x", 0)
	}
	_, err = f.s.ListAt(f.Context(), a.Resource, "", last)
	f.wantError("a list that the log does not reach", err, store.ErrCompacted)

	now := f.list(a.Resource, "")
	f.reopen()
	got, err := f.s.ListAt(f.Context(), a.Resource, "", now.Revision)
	if diff := diffEntries(now.Entries, got.Entries); err != nil || diff != "" {
		f.Fatalf("a list at the opening: %v (-want +got):\n%s", err, diff)
	}
	_, err = f.s.ListAt(f.Context(), a.Resource, "", now.Revision-1)
	f.wantError("a list of before the opening", err, store.ErrCompacted)
	if err := f.s.Close(); err != nil {
		f.Fatal(err)
	}
	_, err = f.s.ListAt(f.Context(), a.Resource, "", now.Revision)
	f.wantError("a list after the end", err, store.ErrClosed)
}
