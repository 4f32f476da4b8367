package capacity

import "math/rand/v2"

// queue is everybody in line and everybody who is coming, in order, as a tree that knows of
// each of its branches what those on it take together. So it takes a few steps only, in a
// line of any length, to find who is next, what is left for one, and whom it waits behind.
//
//	what is free ─▶ 2Gi          ┌── d, takes 4Gi together with b and e ──┐
//	                             b                                         e
//	for e that is left: 2Gi, less what b and d take
//
// Each entry has a rank by chance, and is below those of a higher rank: that keeps the tree
// about as deep as it has to be.
type queue struct {
	root  *entry
	ranks *rand.PCG
	// changed: it is not as it was when that was last set to false.
	changed bool
}

// entry is one in line, or one who is coming.
type entry struct {
	Claim
	// waits in line; otherwise it is coming.
	waits bool
	// exceeds: it is more than there is.
	exceeds bool

	needs       Amount
	rank        uint64
	left, right *entry
	branch      sum
}

// sum is what is known of some entries together.
type sum struct {
	// ahead is what those in line keep from those behind them, and expected what those
	// keep who are coming.
	ahead, expected Amount
	// waiting is how many wait in line.
	waiting int
	// rivals are those whom others wait behind, and ready those that can be admitted.
	rivals, ready demands
}

func (s *sum) add(t *sum) {
	s.ahead, s.expected = s.ahead.Plus(t.ahead), s.expected.Plus(t.expected)
	s.waiting += t.waiting
	s.rivals |= t.rivals
	s.ready |= t.ready
}

// own is the sum of an entry alone.
func (e *entry) own() sum {
	var s sum
	blocks := !e.exceeds && !e.Away // nobody waits behind others
	switch {
	case !e.waits && blocks:
		s.expected = e.needs
	case e.waits && blocks:
		s.ahead = e.needs
		s.rivals = demand(e.needs)
		if !e.Stale {
			s.ready = s.rivals
		}
	}
	if e.waits && !e.Away {
		s.waiting = 1
	}
	return s
}

func (e *entry) update() {
	e.branch = e.own()
	for _, below := range []*entry{e.left, e.right} {
		if below != nil {
			e.branch.add(&below.branch)
		}
	}
}

// put has an entry in place of an older one, which may be nil; so may be the new one. It
// returns what is there now.
func (q *queue) put(old, e *entry) *entry {
	if old != nil && e != nil && old.Claim == e.Claim && old.waits == e.waits && old.exceeds == e.exceeds {
		return old
	}
	if old != nil {
		q.changed = true
		q.root = remove(q.root, old)
	}
	if e != nil {
		q.changed = true
		e.needs, e.rank = e.Claim.needs(), q.ranks.Uint64()
		q.root = insert(q.root, e)
	}
	return e
}

func insert(at, e *entry) *entry {
	switch {
	case at == nil:
		e.update()
		return e
	case at.rank < e.rank:
		e.left, e.right = split(at, e.Place)
		e.update()
		return e
	case e.Compare(at.Place) < 0:
		at.left = insert(at.left, e)
	default:
		at.right = insert(at.right, e)
	}
	at.update()
	return at
}

// split parts those before a place from the others.
func split(at *entry, p Place) (before, after *entry) {
	if at == nil {
		return nil, nil
	}
	if at.Compare(p) < 0 {
		at.right, after = split(at.right, p)
		at.update()
		return at, after
	}
	before, at.left = split(at.left, p)
	at.update()
	return before, at
}

func remove(at, e *entry) *entry {
	switch {
	case at == e:
		return join(at.left, at.right)
	case e.Compare(at.Place) < 0:
		at.left = remove(at.left, e)
	default:
		at.right = remove(at.right, e)
	}
	at.update()
	return at
}

// join puts two together of which one is before the other.
func join(before, after *entry) *entry {
	switch {
	case before == nil:
		return after
	case after == nil:
		return before
	case before.rank > after.rank:
		before.right = join(before.right, after)
		before.update()
		return before
	default:
		after.left = join(before, after.left)
		after.update()
		return after
	}
}

// next finds those that are to be admitted, in order, given what is free. Who is admitted
// takes as much from those behind as who waits. So whoever is not admitted leaves nothing of
// some resource to all behind, and no more than one for each resource is looked at in vain.
func (q *queue) next(free Amount) []*entry {
	var list []*entry
	var visit func(*entry)
	visit = func(e *entry) {
		switch {
		case e == nil:
			return
		case !e.branch.ready.any(free):
			free = free.free(e.branch.ahead).free(e.branch.expected)
			return
		}
		visit(e.left)
		own := e.own()
		if own.ready.any(free) && fits(e.needs, free) {
			list = append(list, e)
		}
		free = free.free(own.ahead).free(own.expected)
		visit(e.right)
	}
	visit(q.root)
	return list
}

// position of an entry, given what is free.
func (q *queue) position(e *entry, free Amount) position {
	var before sum
	for at := q.root; at != nil; {
		if e.Compare(at.Place) <= 0 {
			at = at.left
			continue
		}
		if at.left != nil {
			before.add(&at.left.branch)
		}
		own := at.own()
		before.add(&own)
		at = at.right
	}
	return position{before.waiting, free.free(before.ahead), func(of resources, first bool) *entry {
		if !first {
			return lastRival(q.root, e.Place, of)
		}
		if found := firstRival(q.root, of); found != nil && found.Compare(e.Place) < 0 {
			return found
		}
		return nil
	}}
}

func firstRival(at *entry, of resources) *entry {
	for at != nil && at.branch.rivals.of(of) {
		switch {
		case at.left != nil && at.left.branch.rivals.of(of):
			at = at.left
		case at.own().rivals.of(of):
			return at
		default:
			at = at.right
		}
	}
	return nil
}

func lastRival(at *entry, before Place, of resources) *entry {
	switch {
	case at == nil || !at.branch.rivals.of(of):
		return nil
	case at.Compare(before) >= 0:
		return lastRival(at.left, before, of)
	}
	if found := lastRival(at.right, before, of); found != nil {
		return found
	}
	if at.own().rivals.of(of) {
		return at
	}
	return lastRival(at.left, before, of)
}

// each visits those in line, in order, with their positions, given what is free.
func (q *queue) each(free Amount, visit func(*entry, position)) {
	type seen struct {
		*entry
		order int
	}
	var first, last [Resources]seen
	order := 0
	rival := func(of resources, want bool) *entry {
		var found seen
		for r := range Resources {
			switch {
			case !of.has(r):
			case want && first[r].entry != nil && (found.entry == nil || first[r].order < found.order):
				found = first[r]
			case !want && last[r].order > found.order:
				found = last[r]
			}
		}
		return found.entry
	}
	at := position{left: free, rival: rival}
	var walk func(*entry)
	walk = func(e *entry) {
		if e == nil {
			return
		}
		walk(e.left)
		if e.waits {
			visit(e, at)
		}
		own := e.own()
		at.left, at.waiting = at.left.free(own.ahead), at.waiting+own.waiting
		if own.rivals != 0 {
			order++
			for r, n := range e.needs {
				if n > 0 {
					last[r] = seen{e, order}
				}
				if first[r].entry == nil {
					first[r] = last[r]
				}
			}
		}
		walk(e.right)
	}
	walk(q.root)
}

// resources are some of the resources.
type resources uint8

func (r resources) has(one Resource) bool { return r&(1<<one) != 0 }

// missing are those of which less is left than is needed. Of what is not needed there may
// be less than nothing.
func missing(needs, left Amount) resources {
	var r resources
	for i, n := range needs {
		if n > 0 && n > left[i] {
			r |= 1 << i
		}
	}
	return r
}

// demands are which resources some need: a bit for each set of resources that one of them
// needs.
type demands uint16

func demand(needs Amount) demands { return 1 << missing(needs, Amount{}) }

// any tells whether one of them needs nothing but what there is something left of.
func (d demands) any(left Amount) bool {
	gone := missing(Amount{1, 1, 1, 1}, left)
	for of := resources(0); of < 1<<Resources; of++ {
		if d&(1<<of) != 0 && of&gone == 0 {
			return true
		}
	}
	return false
}

// of tells whether one of them needs any of some resources.
func (d demands) of(some resources) bool {
	for of := resources(0); of < 1<<Resources; of++ {
		if d&(1<<of) != 0 && of&some != 0 {
			return true
		}
	}
	return false
}
