package apiserver

import (
	"fmt"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/store"
)

func eventEntry(revision int, about string, written time.Time) store.Entry {
	return store.Entry{
		Key: store.Key{Resource: eventsKey, Namespace: "default", Name: fmt.Sprint(revision)}, Revision: int64(revision),
		Value: fmt.Appendf(nil, `{"metadata":{"creationTimestamp":%q},"involvedObject":{"kind":"Sandbox","name":%q}}`, written.UTC().Format(time.RFC3339), about),
	}
}

// TestSurplus: events are kept for a time, so many of one object, in one namespace and
// in all; the oldest go, and a quiet object or namespace keeps its own beside a noisy one.
func TestSurplus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const ttl = time.Hour
	var entries []store.Entry
	add := func(n int, about string, age time.Duration) {
		for range n {
			entries = append(entries, eventEntry(len(entries)+1, about, now.Add(-age)))
		}
	}
	stayed := func() map[string]int {
		gone, _ := surplus(entries, now, ttl)
		left := map[string]int{}
		for _, e := range entries {
			about, _ := aboutAndLast(e.Value)
			left[about]++
		}
		for _, e := range gone {
			about, _ := aboutAndLast(e.Value)
			left[about]--
		}
		return left
	}
	add(1, "quiet", 50*time.Minute)
	add(2, "old", ttl)
	add(maxEventsAbout+10, "noisy", time.Minute)
	if got := stayed(); got["Sandbox/quiet"] != 1 || got["Sandbox/old"] != 0 || got["Sandbox/noisy"] != maxEventsAbout {
		t.Errorf("what stays is %v", got)
	}
	gone, next := surplus(entries, now, ttl)
	if next != 10*time.Minute {
		t.Errorf("the next one's time is up in %v", next)
	}
	for _, e := range gone {
		if e.Revision > 13 {
			t.Errorf("event %d goes, and older ones stay", e.Revision)
		}
	}
	quiet := eventEntry(len(entries)+1, "elsewhere", now.Add(-50*time.Minute))
	quiet.Key.Namespace = "quiet"
	entries = append(entries, quiet)
	for i := range maxEvents {
		add(1, fmt.Sprint("one-of-many-", i), 30*time.Minute)
	}
	if got := stayed(); got["Sandbox/elsewhere"] != 1 {
		t.Error("a noisy namespace pushes out the events of a quiet one")
	} else if n := len(entries) - len(first(surplus(entries, now, ttl))); n != maxEventsIn+1 {
		t.Errorf("%d events stay of too many in a namespace", n)
	}
	for i := range maxEvents {
		add(1, fmt.Sprint("one-of-too-many-", i), 30*time.Minute)
		entries[len(entries)-1].Key.Namespace = fmt.Sprint("team-", i%8)
	}
	total := 0
	for _, n := range stayed() {
		total += n
	}
	if total != maxEvents {
		t.Errorf("%d events stay of too many", total)
	}
	if gone, next := surplus(nil, now, ttl); gone != nil || next != 0 {
		t.Errorf("of nothing: %v, %v", gone, next)
	}
}

func first(gone []store.Entry, _ time.Duration) []store.Entry { return gone }
