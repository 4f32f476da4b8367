package bolt

import (
	"context"
	"fmt"
	"sync"

	"sandboxd.dev/sandboxd/store"
)

// watchBatch is how many events a watcher takes from the log at a time: enough
// that the lock is taken rarely, few enough to hold by hundreds of watchers.
const watchBatch = 64

// watcher is a cursor in a watch log and the goroutine that moves it.
type watcher struct {
	events chan store.Event
	stop   chan struct{}
	once   sync.Once // closes stop

	mu  sync.Mutex
	err error
}

var _ store.Watcher = (*watcher)(nil)

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, resource string, after int64) (store.Watcher, error) {
	if err := store.ValidateScope(resource, ""); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, s.errClosed()
	}
	if after == 0 {
		after = s.revision
	}
	if after > s.revision {
		return nil, fmt.Errorf("watch %s after revision %d: %w: the store is at %d",
			resource, after, store.ErrFutureRevision, s.revision)
	}
	log := s.log(resource)
	if after < log.floor {
		return nil, fmt.Errorf("watch %s after revision %d: %w: the log begins after %d",
			resource, after, store.ErrCompacted, log.floor)
	}
	w := &watcher{events: make(chan store.Event), stop: make(chan struct{})}
	s.running.Go(func() { w.run(ctx, s, log, after) })
	return w, nil
}

// Events implements store.Watcher.
func (w *watcher) Events() <-chan store.Event { return w.events }

// Stop implements store.Watcher.
func (w *watcher) Stop() { w.once.Do(func() { close(w.stop) }) }

// Err implements store.Watcher.
func (w *watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// run delivers events until the watch ends, and says why it did.
func (w *watcher) run(ctx context.Context, s *Store, log *watchLog, after int64) {
	err := w.deliver(ctx, s, log, after)
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
	close(w.events)
}

func (w *watcher) deliver(ctx context.Context, s *Store, log *watchLog, after int64) error {
	buffer := make([]store.Event, 0, watchBatch)
	for {
		s.mu.RLock()
		floor, wake, batch := log.floor, log.wake, log.after(after, buffer)
		s.mu.RUnlock()
		if after < floor {
			return fmt.Errorf("watch %s: %w: it has read up to revision %d and the log begins after %d",
				log.resource, store.ErrSlowWatcher, after, floor)
		}
		for _, event := range batch {
			select {
			case w.events <- event:
				after = event.Revision
			case <-w.stop:
				return nil
			case <-ctx.Done():
				return nil
			case <-s.closing:
				return s.errClosed()
			}
		}
		if len(batch) > 0 {
			clear(batch)
			continue
		}
		select {
		case <-wake:
		case <-w.stop:
			return nil
		case <-ctx.Done():
			return nil
		case <-s.closing:
			return s.errClosed()
		}
	}
}
