package crash_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

// column is a kind of points at which a control plane may die.
type column int

const (
	providerBefore column = iota
	providerInside
	providerAfter
	storeBefore
	storeAfter
	columns
)

func (c column) String() string {
	return [columns]string{"provider before", "provider inside", "provider after", "store before", "store after"}[c]
}

// point is the n-th of a column, counted from 1; n is 0 for none.
type point struct {
	column column
	n      int
}

func (p point) String() string { return fmt.Sprintf("%s %d", p.column, p.n) }

// death ends a control plane at a point. From then on no call of it, to its
// provider or its store, reaches them or returns before it is buried.
type death struct {
	mu    sync.Mutex
	armed bool
	at    point
	// strike, when set, is what happens at the point instead: it ends the process,
	// or something else of the host's.
	strike func(where string)
	struck string // where it did
	// remote is where it happens when it is in another process.
	remote interface {
		ask(word string) ([columns]int, error)
	}
	counted [columns]int
	// where it died, in words.
	where  string
	died   chan struct{}
	once   sync.Once
	buried chan struct{}
}

func newDeath(at point) *death {
	return &death{at: at, died: make(chan struct{}), buried: make(chan struct{})}
}

// arm begins to count.
func (d *death) arm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = true
	if d.remote != nil {
		_, _ = d.remote.ask("arm") // one that has died is seen to have
	}
}

// disarm lets it live on, unless it has died.
func (d *death) disarm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = false
	if d.remote != nil {
		_, _ = d.remote.ask("disarm")
	}
}

// points are those that were passed since it was armed.
func (d *death) points() [columns]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.remote != nil {
		d.counted, _ = d.remote.ask("points")
	}
	return d.counted
}

func (d *death) epitaph() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.where
}

// pass tells whether the control plane is alive at a point.
func (d *death) pass(c column, what func() string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.where != "" {
		return false
	}
	if !d.armed {
		return true
	}
	d.counted[c]++
	if c != d.at.column || d.counted[c] != d.at.n {
		return true
	}
	where := fmt.Sprintf("%s (%s)", d.at, what())
	if d.strike != nil {
		d.strike(where)
		return true
	}
	d.die(where)
	return false
}

// die needs the lock.
func (d *death) die(where string) {
	d.where = where
	close(d.died)
}

// strikes notes what happened at the point to something else.
func (d *death) strikes(where string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.struck = where
}

// hasStruck tells where something else was ended; "" when nothing was.
func (d *death) hasStruck() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.struck
}

// call is a fault.Hook.
func (d *death) call(ctx context.Context, at fault.Point) error {
	c := providerBefore
	if at.When == fault.After {
		c = providerAfter
	}
	if d.strike != nil && at.Verb == "ListResources" {
		return nil // of a sample none for a look by the garbage collection, of which there are many
	}
	if d.pass(c, func() string { return at.Verb }) {
		return nil
	}
	select {
	case <-ctx.Done():
	case <-d.buried: // some calls outlive the end of who makes them, for a while
	}
	return errDead
}

// step is a hook of fake.World.OnStep: what has been begun stays as it is.
func (d *death) step(s fake.Step) {
	if !d.pass(providerInside, func() string { return s.Verb + ": " + s.Name }) {
		runtime.Goexit()
	}
}

// bury lets go of whatever the dead was at.
func (d *death) bury() { d.once.Do(func() { close(d.buried) }) }
