package bolt

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sandboxd.dev/sandboxd/store"
)

// TestGroup: each write of a group is decided by itself, on what those before
// it leave.
func TestGroup(t *testing.T) {
	put := func(name, value string, ifRevision int64) *write {
		return &write{op: store.Put, key: testKey(name), value: []byte(value), ifRevision: ifRevision}
	}
	del := func(name string, ifRevision int64) *write {
		return &write{op: store.Delete, key: testKey(name), ifRevision: ifRevision}
	}
	type step struct {
		write    *write
		revision int64
		err      error
	}
	tests := []struct {
		name  string
		steps []step
		// What is left of the keys that the group touched.
		left map[string]string
	}{
		{"nothing succeeds", []step{
			{put("a", "x", 0), 0, store.ErrExists},
			{put("a", "x", 3), 0, store.ErrConflict},
			{put("b", "x", 3), 0, store.ErrNotFound},
			{del("a", 3), 0, store.ErrConflict},
			{del("b", store.AnyRevision), 0, store.ErrNotFound},
		}, map[string]string{}},
		{"a conflict amid others", []step{
			{put("b", "1", 0), 6, nil},
			{put("a", "x", 4), 0, store.ErrConflict},
			{put("c", "1", 0), 7, nil},
		}, map[string]string{"b": "1", "c": "1"}},
		{"writes of the same key", []step{
			{put("a", "2", 5), 6, nil},
			{put("a", "x", 5), 0, store.ErrConflict},
			{put("a", "3", 6), 7, nil},
			{del("a", 6), 0, store.ErrConflict},
			{del("a", 7), 8, nil},
			{del("a", store.AnyRevision), 0, store.ErrNotFound},
			{put("a", "x", 7), 0, store.ErrNotFound},
			{put("a", "4", 0), 9, nil},
			{put("a", "x", 0), 0, store.ErrExists},
		}, map[string]string{"a": "4"}},
		{"made and deleted", []step{
			{put("b", "1", 0), 6, nil},
			{del("b", 6), 7, nil},
		}, map[string]string{"b": "deleted"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := index{}
			base.set(&record{key: testKey("a"), value: []byte("1"), revision: 5})
			g := newGroup(base, 5)
			for i, s := range tt.steps {
				revision, err := g.decide(s.write)
				if revision != s.revision || !errors.Is(err, s.err) {
					t.Errorf("write %d: got %d, %v, want %d, %v", i, revision, err, s.revision, s.err)
				}
			}
			left := map[string]string{}
			for key, r := range g.staged {
				left[key.Name] = "deleted"
				if r != nil {
					left[key.Name] = string(r.value)
				}
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			if got := base.get(testKey("a")); string(got.value) != "1" || len(base) != 1 {
				t.Errorf("the index was changed: %+v", base)
			}
			if want := 5 + int64(len(g.events)); g.revision != want {
				t.Errorf("the group ends at %d with %d events", g.revision, len(g.events))
			}
		})
	}
}

func TestGroupEvents(t *testing.T) {
	g := newGroup(index{}, 0)
	for _, w := range []*write{
		{op: store.Put, key: testKey("a"), value: []byte("1")},
		{op: store.Put, key: testKey("a"), value: []byte("2"), ifRevision: 1},
		{op: store.Delete, key: testKey("a"), ifRevision: 2},
		{op: store.Put, key: testKey("a"), value: []byte("3")},
	} {
		if _, err := g.decide(w); err != nil {
			t.Fatal(err)
		}
	}
	want := []store.Event{
		{Type: store.Put, Key: testKey("a"), Value: []byte("1"), Revision: 1},
		{Type: store.Put, Key: testKey("a"), Value: []byte("2"), Previous: []byte("1"), PreviousRevision: 1, Revision: 2},
		{Type: store.Delete, Key: testKey("a"), Previous: []byte("2"), PreviousRevision: 2, Revision: 3},
		{Type: store.Put, Key: testKey("a"), Value: []byte("3"), Revision: 4},
	}
	if diff := cmp.Diff(want, g.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
