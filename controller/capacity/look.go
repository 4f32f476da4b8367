package capacity

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// look is one reconciliation.
type look struct {
	// key that the object was read with.
	key Key
	// unknown is why it could not be told what it needs; 0 when it could.
	unknown Unknown
}

// Unknown is why a look could not tell what an object needs.
type Unknown int

const (
	_ Unknown = iota
	// Outdated: it was written meanwhile, and is looked at again at once. It keeps its
	// place, in line or among those that are coming.
	Outdated
	// Failing: its next look may fare better, and it keeps its place until then. When
	// that fails too it gives its place up, so that nobody waits for what fails for ever.
	Failing
	// Away: its hypervisor does not answer, which Objects know too. It keeps its place,
	// and nobody waits for it as long as that is so.
	Away
	// gaveUp: failed again.
	gaveUp
)

// UnknownFor is why an error, that is not for good, kept what an object needs from being
// told.
func UnknownFor(ctx context.Context, err error) Unknown {
	switch {
	case apierrors.IsConflict(err) || ctx.Err() != nil:
		return Outdated
	case errors.Is(err, providers.ErrDown):
		return Away
	default:
		return Failing
	}
}

// Look is called before an object is read to be reconciled, and the function that it
// returns when that is done, whatever came of it.
func (l *Ledger) Look(who Who) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lookUp()
	l.looking[who] = look{key: l.key(who)}
	l.outdated[who] = true
	return func() { l.looked(who) }
}

// Read notes with which key an object was read, during a Look and before anything is
// said of what it needs. The key that it has before or afterwards may be another one, and
// even the same one again while what was read in between was not.
func (l *Ledger) Read(who Who, key Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looking[who] = look{key: key}
	l.outdated[who] = true
}

// Undecided is called during a Look instead of anything else, when it cannot be told what
// the object needs. What is reserved for it stays so.
func (l *Ledger) Undecided(who Who, id types.UID, why Unknown) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.looking[who]
	if why == Away && l.objects != nil && !l.objects.Away(who) {
		why = Failing // it was away, or that of something else is: nobody would say when to wait no more
	}
	switch {
	case why == Failing && l.failing[who]:
		why = gaveUp
	case why == Failing:
		l.failing[who] = true
	}
	at.unknown = why
	l.looking[who] = at
	switch why {
	case gaveUp:
		l.leave(id)
		l.plan()
	case Away:
		l.plan()
	}
}

// decided tells whether it is known what an object with a key needs.
func (l *Ledger) decided(who Who, key Key) bool {
	seen, ok := l.seen[who]
	return ok && seen == key && l.key(who) == key
}

// looked ends a Look.
func (l *Ledger) looked(who Who) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.looking[who]
	delete(l.looking, who)
	l.outdated[who] = true
	switch at.unknown {
	case Outdated, Failing:
		return
	case Away, gaveUp:
	default:
		delete(l.failing, who)
	}
	first := l.unseen[who]
	l.known(who)
	decided := l.decided(who, at.key)
	l.seen[who] = at.key
	switch {
	case at.unknown == Away && !decided || l.key(who) != at.key: // it is looked at again
		delete(l.seen, who)
		if !first {
			return
		}
	case decided && !first:
		return
	}
	if l.objects != nil || first && len(l.unseen) == 0 {
		l.plan()
	}
}
