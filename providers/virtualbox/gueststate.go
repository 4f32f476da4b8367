package virtualbox

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/guestcontrol"
)

// guestStates remembers for a moment what guests said, and who is busy inside
// them.
type guestStates struct {
	// begins is how many commands may begin in a guest at a time. Where the
	// processor is emulated, several hold each other up until VirtualBox gives up.
	begins int64

	mu     sync.Mutex
	states map[types.UID]guestState
	visits map[types.UID]map[*visit]bool
	doors  map[types.UID]*door
	// unseeing are logs of runs whose guests did not say that they have seen that
	// their memory was restored.
	unseeing map[types.UID]os.FileInfo
	closed   bool
	busy     sync.WaitGroup // visits
}

type guestState struct {
	run    time.Time // of the machine that the claims are of
	claims []v1.GuestAddress
	at     time.Time
}

// visit is one call into a guest of a machine that was seen to run.
type visit struct {
	end  context.CancelCauseFunc
	seen time.Time // or later
}

// door lets so many commands into a guest at a time, and so many begin.
type door struct {
	users       int
	sem, begins *semaphore.Weighted
}

func newGuestStates(engine string) *guestStates {
	begins := int64(sessions)
	if engine == EngineInterpreter || engine == EngineRecompiler {
		begins = 1
	}
	return &guestStates{
		begins: begins, states: map[types.UID]guestState{}, visits: map[types.UID]map[*visit]bool{}, doors: map[types.UID]*door{},
		unseeing: map[types.UID]os.FileInfo{},
	}
}

func (g *guestStates) get(id types.UID) guestState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.states[id]
}

func (g *guestStates) put(id types.UID, s guestState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.states[id] = s
}

// forget forgets what a guest said and ends all calls into it: the machine is off.
func (g *guestStates) forget(id types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.states, id)
	delete(g.unseeing, id)
	for v := range g.visits[id] {
		v.end(guestcontrol.ErrGone)
	}
}

// listed ends the calls into machines that a listing which began at that time shows
// off, but those into one that was seen to run since then.
func (g *guestStates) listed(on map[types.UID]bool, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, visits := range g.visits {
		for v := range visits {
			if !on[id] && v.seen.Before(at) {
				v.end(guestcontrol.ErrGone)
			}
		}
	}
}

// attend notes a call into a guest whose machine was seen to run at that time, or a
// little later. Its context ends when the machine goes off:
// VBoxManage itself may wait for ever then. After close it has ended before.
func (g *guestStates) attend(ctx context.Context, id types.UID, seen time.Time) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	v := &visit{end: cancel, seen: seen}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		cancel(nil)
		return ctx, func() {}
	}
	g.busy.Add(1)
	if g.visits[id] == nil {
		g.visits[id] = map[*visit]bool{}
	}
	g.visits[id][v] = true
	return ctx, sync.OnceFunc(func() {
		cancel(nil)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.visits[id], v)
		if len(g.visits[id]) == 0 {
			delete(g.visits, id)
		}
		g.busy.Done()
	})
}

// close refuses further calls into guests, and ends and waits for those that are
// under way, but no longer than so long.
func (g *guestStates) close(most time.Duration) {
	g.mu.Lock()
	g.closed = true
	for _, visits := range g.visits {
		for v := range visits {
			v.end(nil)
		}
	}
	g.mu.Unlock()
	over := make(chan struct{})
	go func() {
		g.busy.Wait()
		close(over)
	}()
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
	}
}

// enter waits until a guest may be given one more command. The caller says when
// that has begun and when it is over, in this order or just the latter.
func (g *guestStates) enter(ctx context.Context, id types.UID) (begun, leave func(), err error) {
	g.mu.Lock()
	d := g.doors[id]
	if d == nil {
		d = &door{sem: semaphore.NewWeighted(sessions), begins: semaphore.NewWeighted(g.begins)}
		g.doors[id] = d
	}
	d.users++
	g.mu.Unlock()
	away := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if d.users--; d.users == 0 {
			delete(g.doors, id)
		}
	}
	if err := d.sem.Acquire(ctx, 1); err != nil {
		away()
		return nil, nil, err
	}
	if err := d.begins.Acquire(ctx, 1); err != nil {
		d.sem.Release(1)
		away()
		return nil, nil, err
	}
	begun = sync.OnceFunc(func() { d.begins.Release(1) })
	return begun, func() {
		begun()
		d.sem.Release(1)
		away()
	}, nil
}
