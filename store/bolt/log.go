package bolt

import "sandboxd.dev/sandboxd/store"

// watchLog holds the last events of one resource. The store's mu guards it.
//
//	   dropped       events
//	────────────┬───────────────────▶ revisions
//	          floor             newest
type watchLog struct {
	resource            string
	maxEvents, maxBytes int

	events []store.Event // oldest first
	bytes  int           // of their values
	// floor is the revision of the newest dropped event or where the log
	// began: every later event is in events.
	floor int64
	// wake is closed, and replaced, when events were added.
	wake chan struct{}
}

// log returns the watch log of a resource. One that is made now begins at Open:
// there has been no event of the resource since.
func (s *Store) log(resource string) *watchLog {
	l := s.logs[resource]
	if l == nil {
		l = &watchLog{
			resource:  resource,
			maxEvents: s.opts.WatchEvents,
			maxBytes:  s.opts.WatchBytes,
			floor:     s.opened,
			wake:      make(chan struct{}),
		}
		s.logs[resource] = l
	}
	return l
}

// add appends an event and drops the oldest ones beyond the bounds.
func (l *watchLog) add(event store.Event) {
	l.events = append(l.events, event)
	l.bytes += size(event)
	drop := 0
	for n := len(l.events); n-drop > 1 && (n-drop > l.maxEvents || l.bytes > l.maxBytes); drop++ {
		l.bytes -= size(l.events[drop])
		l.floor = l.events[drop].Revision
	}
	clear(l.events[:drop]) // the array lives on for a while, the values need not
	l.events = l.events[drop:]
}

func size(event store.Event) int { return len(event.Value) + len(event.Previous) }

// announce wakes the watchers that wait for events.
func (l *watchLog) announce() {
	close(l.wake)
	l.wake = make(chan struct{})
}

// after appends events that follow a revision to batch, as many as it has room
// for.
func (l *watchLog) after(revision int64, batch []store.Event) []store.Event {
	later := l.since(revision)
	return append(batch, later[:min(len(later), cap(batch)-len(batch))]...)
}

// since is the part of the log behind a revision.
func (l *watchLog) since(revision int64) []store.Event {
	// By halves: the log is in order.
	from, to := 0, len(l.events)
	for from < to {
		middle := (from + to) / 2
		if l.events[middle].Revision <= revision {
			from = middle + 1
		} else {
			to = middle
		}
	}
	return l.events[from:]
}
