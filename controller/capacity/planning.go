package capacity

// plan admits who is next, and has those told whose words are others now.
func (l *Ledger) plan() {
	if len(l.line) == 0 {
		return
	}
	l.lookUp()
	if len(l.unseen) == 0 {
		for _, e := range l.queue.next(l.free()) {
			l.leave(e.ID)
			l.set(e.Who, e.ID, e.Base.Max(e.Want))
			l.wake(e.Who)
		}
	}
	if l.queue.changed || l.restate {
		l.queue.changed, l.restate = false, true
		l.signal()
	}
}

func (l *Ledger) free() Amount { return l.budget.free(l.sum) }

// whyWaits tells why one in line waits that was not admitted.
func (l *Ledger) whyWaits(e *entry) why {
	free := l.free()
	return whyWaits(e, l.queue.position(e, free), l.budget, free, len(l.unseen) > 0)
}

// Restated are those in line of whom something else is to be said than they were told.
// Nobody is passed over: it goes through the whole line.
func (l *Ledger) Restated() []Who {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restate = false
	var list []Who
	free, unseen := l.free(), len(l.unseen) > 0
	l.queue.each(free, func(e *entry, at position) {
		told := l.line[e.ID].told
		w := whyWaits(e, at, l.budget, free, unseen)
		if w != told && w.passing == "" && w.verdict().Message != told.verdict().Message {
			list = append(list, e.Who)
		}
	})
	return list
}

// lookUp brings the queue up to date with what the objects are.
func (l *Ledger) lookUp() {
	if l.objects != nil {
		changed, everybody := l.objects.Changed()
		for _, who := range changed {
			l.outdated[who] = true
		}
		if l.everybody = l.everybody || everybody; l.everybody {
			for _, who := range l.objects.Names() {
				l.outdated[who] = true
			}
		}
	}
	if l.everybody { // those as well that are gone
		l.everybody = false
		for who := range l.coming {
			l.outdated[who] = true
		}
		for _, w := range l.line {
			l.outdated[w.Who] = true
		}
		for who := range l.unseen {
			l.outdated[who] = true
		}
	}
	l.refresh()
}

// refresh looks those up of whom something has changed.
func (l *Ledger) refresh() {
	for who := range l.outdated {
		l.update(who)
	}
	if len(l.outdated) > manyOutdated { // and what they took is not kept
		l.outdated = map[Who]bool{}
	}
	clear(l.outdated)
}

// manyOutdated is when memory for so many is not kept.
const manyOutdated = 1000

// update has the queue say of an object what is so now.
func (l *Ledger) update(who Who) {
	key := l.key(who)
	if l.objects != nil && key == (Key{}) {
		l.known(who) // it went before the cache was filled, and nobody ever looks at it
	}
	away := l.objects != nil && l.objects.Away(who)
	l.coming[who] = l.queue.put(l.coming[who], l.comes(who))
	if l.coming[who] == nil {
		delete(l.coming, who)
	}
	for _, id := range l.ids[who] {
		w := l.line[id]
		if w == nil {
			continue
		}
		w.Stale, w.Away = w.key != key, away
		w.entry = l.queue.put(w.entry, &entry{Claim: w.Claim, waits: true, exceeds: exceeds(w.Claim, l.budget)})
	}
}

// known notes that nobody waits any more for an object to be looked at that there was at
// the start.
func (l *Ledger) known(who Who) {
	if l.unseen[who] {
		delete(l.unseen, who)
		l.restate = l.restate || len(l.unseen) == 0
	}
}

// comes is the entry of an object that was not looked at since it changed; nil when it was.
func (l *Ledger) comes(who Who) *entry {
	if l.objects == nil || l.budget == NoLimit() {
		return nil
	}
	o, ok := l.objects.Standing(who)
	if !ok || o.Away || l.line[o.ID] != nil {
		return nil
	}
	seen, ok := l.seen[who]
	if at, looks := l.looking[who]; looks && at.key != o.Key {
		ok = false // and what it says now is not of what it is
	}
	if ok && seen == o.Key {
		return nil
	}
	c := Claim{Place: o.Place, Base: l.held[o.ID].amount, Want: o.Want}
	return &entry{Claim: c, exceeds: exceeds(c, l.budget)}
}

func (l *Ledger) key(who Who) Key {
	if l.objects == nil {
		return Key{}
	}
	return l.objects.Key(who)
}
