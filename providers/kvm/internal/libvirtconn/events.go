package libvirtconn

import (
	"context"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

// heartbeat is how often the event connection is asked for a sign of life: a
// daemon that hangs would otherwise look like one where nothing happens.
const heartbeat = 30 * time.Second

// resubscribe is the pause after a daemon that answers has refused the
// subscription.
const resubscribe = time.Second

// takeUp is how long a daemon that was started anew may be busy with taking up its
// machines. It sends no events of those that it finds to have ended meanwhile.
const takeUp = 10 * time.Second

// Event is a change that libvirt reported.
type Event struct {
	// ID is the domain's UUID.
	ID string
	// Agent: its agent connected or disconnected; otherwise its own state,
	// definition, devices or existence changed.
	Agent bool
}

// Watch delivers events until the context ends or the client is closed. It
// keeps trying to reach the daemon. connected is called each time a
// subscription begins, because events before it are lost, and once more when the
// daemon has taken up its machines. The functions are
// called from one goroutine at a time.
func (c *Client) Watch(ctx context.Context, connected func(), event func(Event)) {
	for ctx.Err() == nil && !c.isClosed() {
		wait := resubscribe
		if s, err := c.events.session(ctx); err == nil {
			if c.watch(ctx, s, connected, event) {
				continue
			}
		} else {
			wait = max(c.outage.wait(), 10*time.Millisecond)
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
		case <-c.closed:
		}
		pause.Stop()
	}
}

// watch subscribes on one connection and returns when it is over. It tells
// whether there was a subscription at all. The
// subscriptions are never cancelled but die with their connection:
// go-libvirt's own way of cancelling can block its reader for ever when an
// event arrives in between.
func (c *Client) watch(ctx context.Context, s *session, connected func(), event func(Event)) (subscribed bool) {
	defer s.kill()
	stop := context.AfterFunc(ctx, s.kill)
	defer stop()

	events, ok := subscribe(s)
	if !ok {
		return false
	}
	connected()
	var reading sync.WaitGroup
	reading.Go(func() { c.beat(s) })
	settled := time.NewTimer(takeUp)
	defer settled.Stop()
	for events != nil {
		select {
		case <-settled.C:
			connected()
		case e, ok := <-events:
			if !ok {
				events = nil
			} else if known, ok := eventOf(e); ok {
				event(known)
			}
		}
	}
	s.kill()
	reading.Wait()
	return true
}

// subscriptions are the events that change what is known of a machine: of its state
// and definition, its agent, and devices that others plug in.
var subscriptions = []libvirt.DomainEventID{
	libvirt.DomainEventIDLifecycle, libvirt.DomainEventIDAgentLifecycle, libvirt.DomainEventIDDeviceAdded,
}

// subscribe returns a channel of all events, which ends with the connection.
func subscribe(s *session) (<-chan interface{}, bool) {
	hang := time.AfterFunc(Quick, s.kill)
	defer hang.Stop()
	all := make(chan interface{})
	var reading sync.WaitGroup
	for _, id := range subscriptions {
		some, err := s.lib.SubscribeEvents(context.Background(), id, libvirt.OptDomain{})
		if err != nil {
			s.kill()
			go drain(all)
			reading.Wait()
			close(all)
			return nil, false
		}
		reading.Go(func() {
			for e := range some {
				all <- e
			}
		})
	}
	go func() {
		reading.Wait()
		close(all)
	}()
	return all, true
}

// eventOf translates an event.
func eventOf(e interface{}) (Event, bool) {
	switch m := e.(type) {
	case *libvirt.DomainEventCallbackLifecycleMsg:
		return Event{ID: uuid.UUID(m.Msg.Dom.UUID).String()}, true
	case *libvirt.DomainEventCallbackDeviceAddedMsg:
		return Event{ID: uuid.UUID(m.Dom.UUID).String()}, true
	case *libvirt.DomainEventCallbackAgentLifecycleMsg:
		return Event{ID: uuid.UUID(m.Dom.UUID).String(), Agent: true}, true
	}
	return Event{}, false
}

// beat asks for a sign of life until the connection is over, and ends it when
// there is none.
func (c *Client) beat(s *session) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.conn.dead:
			return
		}
		hang := time.AfterFunc(Quick, s.kill)
		_, err := s.lib.ConnectGetLibVersion()
		hang.Stop()
		if err != nil {
			s.kill()
			return
		}
	}
}

func drain(events <-chan interface{}) {
	for range events { //nolint:revive // emptied so that its sender ends
	}
}
