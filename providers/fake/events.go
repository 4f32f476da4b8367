package fake

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// subscription holds what one provider has not been told yet. An event that
// waits already is not added again, so that a slow reader costs little and the
// world never waits.
type subscription struct {
	instance providers.Instance
	wake     chan struct{} // holds one value while something waits

	mu      sync.Mutex
	waiting []providers.Event
	known   map[providers.Event]bool
}

func (s *subscription) add(e providers.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[e] {
		return
	}
	s.known[e] = true
	s.waiting = append(s.waiting, e)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscription) take() []providers.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.waiting
	s.waiting = nil
	clear(s.known)
	return events
}

// Events implements providers.Provider.
func (p *Provider) Events(ctx context.Context) <-chan providers.Event {
	s := &subscription{
		instance: p.instance,
		wake:     make(chan struct{}, 1),
		known:    map[providers.Event]bool{},
	}
	p.w.mu.Lock()
	p.w.subs[s] = struct{}{}
	p.w.mu.Unlock()
	out := make(chan providers.Event)
	go func() {
		defer close(out)
		defer func() {
			p.w.mu.Lock()
			defer p.w.mu.Unlock()
			delete(p.w.subs, s)
		}()
		for {
			select {
			case <-s.wake:
			case <-ctx.Done():
				return
			}
			for _, e := range s.take() {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// emit tells the providers of an instance; it needs the lock. What happens
// while the hypervisor does not answer is lost.
func (w *World) emit(instance providers.Instance, t providers.EventType, id types.UID) {
	if w.down {
		return
	}
	for s := range w.subs {
		if s.instance == instance {
			s.add(providers.Event{Type: t, ID: id})
		}
	}
}
