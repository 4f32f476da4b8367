package bolt

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sandboxd.dev/sandboxd/store"
)

// TestWatchLog: the log keeps a bounded end of what was added, the newest event
// whatever its size, and gives what follows any revision from its floor on.
func TestWatchLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &watchLog{
			maxEvents: rapid.IntRange(1, 10).Draw(t, "maxEvents"),
			maxBytes:  rapid.IntRange(1, 100).Draw(t, "maxBytes"),
			floor:     3,
		}
		var all []store.Event
		revision := l.floor
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			revision += rapid.Int64Range(1, 3).Draw(t, "step") // other resources take revisions too
			event := store.Event{
				Revision: revision,
				Value:    make([]byte, rapid.IntRange(0, 40).Draw(t, "value")),
				Previous: make([]byte, rapid.IntRange(0, 40).Draw(t, "previous")),
			}
			all = append(all, event)
			l.add(event)

			kept, bytes := all[len(all)-len(l.events):], 0
			for _, e := range kept {
				bytes += len(e.Value) + len(e.Previous)
			}
			if bytes != l.bytes {
				t.Fatalf("it counts %d bytes, there are %d", l.bytes, bytes)
			}
			if len(kept) == 0 || len(kept) > 1 && (len(kept) > l.maxEvents || bytes > l.maxBytes) {
				t.Fatalf("it keeps %d events of %d bytes", len(kept), bytes)
			}
			if dropped := len(all) - len(kept); dropped > 0 {
				if l.floor != all[dropped-1].Revision {
					t.Fatalf("its floor is %d, the newest dropped event %d", l.floor, all[dropped-1].Revision)
				}
				// Dropped for a reason: one more would have been too many.
				last := all[dropped-1]
				if len(kept) < l.maxEvents && bytes+len(last.Value)+len(last.Previous) <= l.maxBytes {
					t.Fatalf("it dropped the event %d without need", last.Revision)
				}
			} else if l.floor != 3 {
				t.Fatalf("its floor is %d, nothing was dropped", l.floor)
			}
		}
		after := rapid.Int64Range(l.floor, revision).Draw(t, "after")
		room := rapid.IntRange(0, 12).Draw(t, "room")
		var want []store.Event
		for _, e := range all {
			if e.Revision > after && len(want) < room {
				want = append(want, e)
			}
		}
		got := l.after(after, make([]store.Event, 0, room))
		if len(got) != len(want) || len(want) > 0 && cmp.Diff(want, got) != "" {
			t.Fatalf("after %d (-want +got):\n%s", after, cmp.Diff(want, got))
		}
	})
}

// TestWatchLogBytes: large values end a watch's history as many small ones do.
func TestWatchLogBytes(t *testing.T) {
	s := mustOpen(t, t.TempDir()+"/store.db", Options{WatchBytes: 10_000})
	revision := int64(0)
	for range 10 {
		revision = mustPut(t, s, "a", string(make([]byte, 3000)), revision)
	}
	// Each event has a value and the one before: one fits.
	if _, err := s.Watch(t.Context(), testKey("").Resource, revision-2); err == nil {
		t.Error("the log holds more than its bytes")
	}
	w, err := s.Watch(t.Context(), testKey("").Resource, revision-1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if event := <-w.Events(); event.Revision != revision {
		t.Errorf("got revision %d, want %d", event.Revision, revision)
	}
}
