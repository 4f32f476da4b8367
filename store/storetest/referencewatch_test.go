package storetest

import (
	"context"
	"errors"

	"sandboxd.dev/sandboxd/store"
)

// refWatcher is a watch of the reference store: a channel with room for twice
// the log. The store's lock guards err.
type refWatcher struct {
	s        *reference
	resource string
	events   chan store.Event
	err      error
}

func (w *refWatcher) Events() <-chan store.Event { return w.events }

func (w *refWatcher) Err() error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.err
}

func (w *refWatcher) Stop() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.bug == "stop is an error" {
		w.end(errors.New("stopped"))
		return
	}
	w.end(nil)
}

// end is called with the lock held.
func (w *refWatcher) end(err error) {
	if w.s.watchers[w] {
		delete(w.s.watchers, w)
		w.err = err
		if w.s.bug != "stop leaves the channel open" {
			close(w.events)
		}
	}
}

func (s *reference) Watch(ctx context.Context, resource string, after int64) (store.Watcher, error) {
	if err := errors.Join(store.ValidateScope(resource, ""), ctx.Err()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, store.ErrClosed
	case after > s.revision && s.bug != "waits for the future":
		return nil, store.ErrFutureRevision
	case after == 0 && s.bug != "from now is from the beginning":
		after = s.revision
	case after < max(s.opened, s.floors[resource]) && s.bug != "gap instead of compacted" &&
		s.bug != "from now is from the beginning":
		return nil, store.ErrCompacted
	}
	w := &refWatcher{s: s, resource: resource, events: make(chan store.Event, 2*logEvents)}
	if s.bug == "log without end" {
		w.events = make(chan store.Event, 1<<16)
	}
	s.watchers[w] = true
	for _, e := range s.logs[resource] {
		if e.Revision > after || e.Revision == after && s.bug == "the revision itself again" {
			w.send(e)
		}
	}
	if s.bug != "outlives its context" {
		context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			w.end(nil)
		})
	}
	return w, nil
}

// publish adds an event to its log and sends it to the watchers.
func (s *reference) publish(e store.Event) {
	resource := e.Key.Resource
	s.logs[resource] = append(s.logs[resource], e)
	keep := logEvents
	if s.bug == "log too short" {
		keep = logEvents / 2
	}
	if log := s.logs[resource]; len(log) > keep && s.bug != "log without end" {
		s.floors[resource] = log[0].Revision
		s.logs[resource] = log[1:]
	}
	for w := range s.watchers {
		if w.resource == resource || s.bug == "events of all resources" {
			w.send(e)
		}
	}
}

func (w *refWatcher) send(e store.Event) {
	times := 1
	switch w.s.bug {
	case "event twice":
		times = 2
	case "event lost":
		times = int(min(1, (e.Revision+1)%5))
	}
	for range times {
		select {
		case w.events <- e:
		default:
			if w.s.bug != "slow watcher misses events" {
				w.end(store.ErrSlowWatcher)
			}
			return
		}
	}
}

func (s *reference) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		if s.bug == "closes twice" {
			return nil
		}
		return store.ErrClosed
	}
	s.closed = true
	for w := range s.watchers {
		switch s.bug {
		case "close leaves watchers":
		case "close is no reason":
			w.end(nil)
		default:
			w.end(store.ErrClosed)
		}
	}
	return s.journal.Close()
}
