package bolt

import (
	"fmt"

	"sandboxd.dev/sandboxd/store"
)

// write is one Put or Delete on its way to the committer.
type write struct {
	op         store.EventType
	key        store.Key
	value      []byte
	ifRevision int64
	done       chan outcome // of one, so that the committer never waits
}

// outcome answers a write: its revision or why it failed.
type outcome struct {
	revision int64
	err      error
}

// group decides writes, in order, without any effect. It sees the index as the
// writes before it in the group would leave it.
type group struct {
	base     index
	revision int64                 // of the last write that was accepted
	staged   map[store.Key]*record // what the group leaves; nil is a deletion
	events   []store.Event         // one for each accepted write
}

func newGroup(base index, revision int64) *group {
	return &group{base: base, revision: revision, staged: make(map[store.Key]*record)}
}

// decide accepts a write and gives it the next revision, or says why not.
func (g *group) decide(w *write) (int64, error) {
	old, staged := g.staged[w.key]
	if !staged {
		old = g.base.get(w.key)
	}
	if err := admit(w, old); err != nil {
		return 0, err
	}
	g.revision++
	event := store.Event{Type: w.op, Key: w.key, Value: w.value, Revision: g.revision}
	if old != nil {
		event.Previous, event.PreviousRevision = old.value, old.revision
	}
	g.events = append(g.events, event)
	if w.op == store.Delete {
		g.staged[w.key] = nil
	} else {
		g.staged[w.key] = &record{key: w.key, value: w.value, revision: g.revision}
	}
	return g.revision, nil
}

// admit holds a write's condition against the record that it finds, nil if
// there is none.
func admit(w *write, old *record) error {
	switch {
	case old == nil && w.op == store.Put && w.ifRevision == 0:
		return nil
	case old == nil:
		return fmt.Errorf("%s: %w", w.key, store.ErrNotFound)
	case w.op == store.Put && w.ifRevision == 0:
		return fmt.Errorf("%s: %w", w.key, store.ErrExists)
	case w.op == store.Delete && w.ifRevision == store.AnyRevision:
		return nil
	case w.ifRevision != old.revision:
		return fmt.Errorf("%s: %w: it is at revision %d, not %d",
			w.key, store.ErrConflict, old.revision, w.ifRevision)
	}
	return nil
}
