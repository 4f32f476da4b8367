package apiserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/store"
)

// Bounds of the events that are kept. Whoever makes the daemon tell of something again
// and again, such as a guest that crashes, in ever new words, pushes out the oldest
// events about the same object first, then those of the same namespace, and never
// fills the store.
const (
	// maxEvents in all, maxEventsIn one namespace, and maxEventsAbout one object.
	maxEvents      = 4096
	maxEventsIn    = 1024
	maxEventsAbout = 64
	// sweepAfter so many writes the bounds are looked at: there may be so many more.
	sweepAfter = 128
)

// sweeper removes events some time after their last write, and the oldest ones when
// there are too many. Without events it sleeps until one is written.
//
//	written ──▶ sweep: too old, too many of one object, in a namespace, in all ──▶ wait: the next one's time, or sweepAfter writes
type sweeper struct {
	s       *Server
	ttl     time.Duration
	written chan struct{} // one slot
	crowded chan struct{} // one slot
	writes  atomic.Int64  // since the last sweep
}

func newSweeper(s *Server, ttl time.Duration) *sweeper {
	return &sweeper{s: s, ttl: ttl, written: make(chan struct{}, 1), crowded: make(chan struct{}, 1)}
}

// wrote wakes the sweeper if it has nothing to wait for, or if much was written.
func (w *sweeper) wrote() {
	wake(w.written)
	if w.writes.Add(1) >= sweepAfter {
		wake(w.crowded)
	}
}

func wake(slot chan struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}

func (w *sweeper) run(ctx context.Context) {
	for {
		next, err := w.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			w.s.log.Error(err, "Events could not be swept")
		}
		if next == 0 {
			select {
			case <-w.written:
				continue
			case <-ctx.Done():
				return
			}
		}
		timer := w.s.clock.NewTimer(next)
		select {
		case <-timer.C():
		case <-w.crowded:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// sweep removes the events whose time is up and those that are too many, and tells
// when the next ones' time will be: 0 when there are none. Unless much is written,
// sweeps are at least a tenth of the lifetime apart, so that events are removed in
// batches.
func (w *sweeper) sweep(ctx context.Context) (time.Duration, error) {
	w.writes.Store(0)
	snapshot, err := w.s.store.List(ctx, eventsKey, "")
	if err != nil {
		return w.ttl / 10, err
	}
	gone, next := surplus(snapshot.Entries, w.s.clock.Now(), w.ttl)
	for _, entry := range gone {
		// One that was written meanwhile stays.
		if _, err := w.s.remove(ctx, entry); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			return w.ttl / 10, err
		}
	}
	if next == 0 {
		return 0, nil
	}
	return max(next, w.ttl/10), nil
}

// surplus decides which events go, and in how long the next one's time is up; 0 when
// none stays.
func surplus(entries []store.Entry, now time.Time, ttl time.Duration) (gone []store.Entry, next time.Duration) {
	type kept struct {
		entry store.Entry
		about string
		last  time.Time
	}
	var all []kept
	for _, entry := range entries {
		about, last := aboutAndLast(entry.Value)
		if now.Sub(last) >= ttl {
			gone = append(gone, entry)
			continue
		}
		all = append(all, kept{entry, entry.Key.Namespace + "/" + about, last})
	}
	// The last written first; what was written in the same second by its revision.
	slices.SortFunc(all, func(a, b kept) int {
		return cmp.Or(b.last.Compare(a.last), cmp.Compare(b.entry.Revision, a.entry.Revision))
	})
	about, in, stay := map[string]int{}, map[string]int{}, 0
	for _, k := range all {
		namespace := k.entry.Key.Namespace
		if about[k.about] >= maxEventsAbout || in[namespace] >= maxEventsIn || stay >= maxEvents {
			gone = append(gone, k.entry)
			continue
		}
		about[k.about]++
		in[namespace]++
		stay++
		next = max(k.last.Add(ttl).Sub(now), 1) // the last one that stays is the oldest
	}
	slices.Reverse(gone) // the oldest first, so that none goes before an older one when this ends halfway
	return gone, next
}

// aboutAndLast is what an event is about, and when it was last written, by the
// server's own clock: an event's timestamps are its reporter's claim. A value that
// cannot be read counts as written long ago.
func aboutAndLast(value []byte) (about string, last time.Time) {
	var event struct {
		Metadata struct {
			CreationTimestamp metav1.Time
			ManagedFields     []struct{ Time metav1.Time }
		}
		InvolvedObject struct{ Kind, Name string }
	}
	if err := json.Unmarshal(value, &event); err != nil {
		return "", time.Time{}
	}
	last = event.Metadata.CreationTimestamp.Time
	for _, f := range event.Metadata.ManagedFields {
		if f.Time.After(last) {
			last = f.Time.Time
		}
	}
	return event.InvolvedObject.Kind + "/" + event.InvolvedObject.Name, last
}
