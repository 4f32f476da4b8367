package capacity

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Key tells an object apart from what it was before something changed that may have
// it ask.
type Key struct {
	Generation int64
	// Of is the state of what it waits for before it asks.
	Of string
}

// Standing is an object as the cache has it.
type Standing struct {
	Place
	Key Key
	// Want is about what it is going to ask for.
	Want Amount
	// Away: its hypervisor does not answer.
	Away bool
}

// Objects are those that may come to ask, as the cache has them that reconcilers
// read: what a reconciler has read before is there. None of it blocks.
type Objects interface {
	// Key of an object; the zero Key when there is none.
	Key(Who) Key
	// Away tells whether the hypervisor of an object does not answer.
	Away(Who) bool
	// Standing is an object that is not being deleted; false when there is none.
	Standing(Who) (Standing, bool)
	// Names lists all objects, in no order.
	Names() []Who
	// Changed tells of whom any of this may have changed since it was asked last; of
	// everybody, when it tells so. What can be read of a change was told before.
	Changed() (list []Who, everybody bool)
}

// Ledger knows what is reserved and who waits. It is safe for concurrent use: what it
// says of one claim is decided while no other one is.
type Ledger struct {
	objects Objects

	mu     sync.Mutex
	budget Amount
	// most is what the budget can become without anybody's changing the settings.
	most Amount
	held map[types.UID]holding
	sum  Amount
	line map[types.UID]*waiting
	// ids are those of each name that are held or in line.
	ids map[Who][]types.UID
	// queue has those in line, and those that are coming, as they were looked up last;
	// outdated are those of whom something changed since.
	queue    queue
	coming   map[Who]*entry
	outdated map[Who]bool
	// everybody is to be looked up again.
	everybody bool
	// restate: somebody in line may be to be told something else.
	restate bool
	// waits is what those in line ask for.
	waits Amount
	// large are those whose claim can never be met.
	large map[types.UID]Who
	seen  map[Who]Key
	// looking is what is known of those that are being looked at.
	looking map[Who]look
	// failing are those of whom their last look could not tell what they need.
	failing map[Who]bool
	// unseen are those that there were at the start and were not looked at since.
	unseen map[Who]bool
	woken  map[Who]bool
	// changed has an element while somebody is to be woken or to be told.
	changed chan struct{}
}

type holding struct {
	who    Who
	amount Amount
}

type waiting struct {
	Claim
	// key that it had when it asked.
	key Key
	// told is what it was told last.
	told why
	// entry is its own in the queue; nil before it was looked up.
	entry *entry
}

// New makes a Ledger with a budget. Without objects the order of those that did not
// ask yet is not kept.
func New(budget Amount, objects Objects) *Ledger {
	return &Ledger{
		objects: objects, budget: budget, most: budget,
		held: map[types.UID]holding{}, line: map[types.UID]*waiting{}, large: map[types.UID]Who{},
		ids: map[Who][]types.UID{}, coming: map[Who]*entry{}, outdated: map[Who]bool{},
		queue: queue{ranks: rand.NewPCG(0, 0)}, everybody: true,
		seen: map[Who]Key{}, looking: map[Who]look{}, failing: map[Who]bool{}, unseen: map[Who]bool{},
		woken: map[Who]bool{}, changed: make(chan struct{}, 1),
	}
}

// Restore notes an object that there was before the start and what its status says is
// reserved for it. Nothing is admitted before it was looked at.
func (l *Ledger) Restore(who Who, id types.UID, reserved Amount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unseen[who] = true
	l.set(who, id, reserved)
}

// Ask has a claim reserved, or puts it in line. Asked again, it changes the claim.
// While it waits, its Base is kept and all else that was reserved is released. Whoever
// is admitted later is woken.
func (l *Ledger) Ask(c Claim) Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.large, c.ID)
	if l.held[c.ID].amount.Covers(c.Want) {
		l.leave(c.ID)
		l.set(c.Who, c.ID, c.Want)
		l.plan()
		return Verdict{Admitted: true}
	}
	l.set(c.Who, c.ID, c.Base)
	if v, ok := tooLarge(l.most, c); ok {
		l.leave(c.ID)
		l.large[c.ID] = c.Who
		l.plan()
		return v
	}
	w := l.line[c.ID]
	if w == nil {
		w = &waiting{}
		l.line[c.ID] = w
		l.note(c.Who, c.ID)
	}
	l.waits = l.waits.Minus(w.needs()).Plus(c.needs())
	w.Claim, w.key = c, l.key(c.Who)
	l.outdated[c.Who] = true
	if at, looks := l.looking[c.Who]; looks {
		w.key = at.key
	}
	l.plan()
	if _, waits := l.line[c.ID]; !waits {
		delete(l.woken, c.Who)
		return Verdict{Admitted: true}
	}
	w.told = l.whyWaits(w.entry)
	return w.told.verdict()
}

// Keep notes what an object has, whatever the budget, and that it asks for nothing.
func (l *Ledger) Keep(who Who, id types.UID, has Amount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.line[id]; !waits && l.held[id].amount == has {
		return
	}
	l.leave(id)
	l.set(who, id, has)
	l.plan()
}

// PoweredOff notes that a machine is off: it keeps its disk.
func (l *Ledger) PoweredOff(id types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[id]
	h.amount[Memory], h.amount[CPUs] = 0, 0
	l.leave(id)
	l.set(h.who, id, h.amount)
	l.plan()
}

// Withdraw takes a claim out of the line. What is reserved stays so.
func (l *Ledger) Withdraw(id types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.line[id]; waits {
		l.leave(id)
		l.plan()
	}
}

// Release ends everything that is reserved for an object.
func (l *Ledger) Release(id types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(id)
	l.plan()
}

// Gone ends everything that is reserved for whatever had a name, as no object has it.
func (l *Ledger) Gone(who Who) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range slices.Clone(l.ids[who]) {
		l.release(id)
	}
	l.outdated[who] = true
	delete(l.seen, who)
	delete(l.looking, who)
	delete(l.failing, who)
	l.known(who)
	l.plan()
}

// Held is what is reserved for an object.
func (l *Ledger) Held(id types.UID) Amount {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id].amount
}

// SetBudget changes what there is, and the most that it may become by itself.
func (l *Ledger) SetBudget(b, most Amount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b == l.budget && most == l.most {
		return
	}
	if most != l.most {
		l.setMost(most)
	}
	l.budget = b
	l.everybody, l.restate = true, true
	l.plan()
}

func (l *Ledger) setMost(most Amount) {
	l.most = most
	for _, who := range l.large { // it may fit now
		l.wake(who)
	}
	for id, w := range l.line { // it may fit no more
		if _, large := tooLarge(most, w.Claim); large {
			l.leave(id)
			l.wake(w.Who)
		}
	}
}

// Totals are the budget, what is reserved of it, and what those in line ask for.
func (l *Ledger) Totals() (budget, reserved, waits Amount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.budget, l.sum, l.waits
}

// Changed has an element when Woken or Restated have something new.
func (l *Ledger) Changed() <-chan struct{} { return l.changed }

// Woken are those that were admitted while they waited, or that are to ask again.
func (l *Ledger) Woken() []Who {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Collect(maps.Keys(l.woken))
	clear(l.woken)
	return list
}

func (l *Ledger) set(who Who, id types.UID, a Amount) {
	h := l.held[id]
	if h.amount == a {
		return
	}
	l.sum = l.sum.Minus(h.amount).Plus(a)
	l.outdated[who] = true
	l.restate = true
	if a == (Amount{}) {
		delete(l.held, id)
		l.forget(who, id)
		return
	}
	l.held[id] = holding{who, a}
	l.note(who, id)
}

func (l *Ledger) leave(id types.UID) {
	w := l.line[id]
	if w == nil {
		return
	}
	delete(l.line, id)
	l.waits = l.waits.Minus(w.needs())
	l.queue.put(w.entry, nil)
	l.outdated[w.Who] = true
	l.forget(w.Who, id)
}

func (l *Ledger) release(id types.UID) {
	l.leave(id)
	delete(l.large, id)
	l.set(l.held[id].who, id, Amount{})
}

// note remembers that something of that name is held or in line.
func (l *Ledger) note(who Who, id types.UID) {
	if !slices.Contains(l.ids[who], id) {
		l.ids[who] = append(l.ids[who], id)
	}
}

// forget forgets it when neither is so any more.
func (l *Ledger) forget(who Who, id types.UID) {
	_, held := l.held[id]
	if _, waits := l.line[id]; held || waits {
		return
	}
	l.ids[who] = slices.DeleteFunc(l.ids[who], func(of types.UID) bool { return of == id })
	if len(l.ids[who]) == 0 {
		delete(l.ids, who)
	}
}

func (l *Ledger) wake(who Who) {
	l.woken[who] = true
	l.signal()
}

func (l *Ledger) signal() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}
