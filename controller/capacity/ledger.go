package capacity

import (
	"maps"
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
// read: what a reconciler has read before is there.
type Objects interface {
	// Key of an object; the zero Key when there is none.
	Key(Who) Key
	// Away tells whether the hypervisor of an object does not answer.
	Away(Who) bool
	// Standing lists all that are not being deleted, in no order. It must not block.
	Standing() []Standing
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
	key     Key
	verdict Verdict
	// told is the message that it was given last.
	told string
}

// New makes a Ledger with a budget. Without objects the order of those that did not
// ask yet is not kept.
func New(budget Amount, objects Objects) *Ledger {
	return &Ledger{
		objects: objects, budget: budget, most: budget,
		held: map[types.UID]holding{}, line: map[types.UID]*waiting{}, large: map[types.UID]Who{},
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
	}
	w.Claim, w.key = c, l.key(c.Who)
	if at, looks := l.looking[c.Who]; looks {
		w.key = at.key
	}
	l.plan()
	if _, waits := l.line[c.ID]; !waits {
		delete(l.woken, c.Who)
		return Verdict{Admitted: true}
	}
	w.told = w.verdict.Message
	return w.verdict
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
	for id, h := range l.held {
		if h.who == who {
			l.release(id)
		}
	}
	for id, w := range l.line {
		if w.Who == who {
			l.release(id)
		}
	}
	delete(l.seen, who)
	delete(l.looking, who)
	delete(l.failing, who)
	delete(l.unseen, who)
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
	for _, w := range l.line {
		waits = waits.Plus(w.needs())
	}
	return l.budget, l.sum, waits
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

// Restated are those in line of whom something else is to be said than they were told.
func (l *Ledger) Restated() []Who {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Who
	for _, w := range l.line {
		if w.restated() {
			list = append(list, w.Who)
		}
	}
	return list
}

func (w *waiting) restated() bool { return !w.verdict.Passing && w.verdict.Message != w.told }

// plan admits who is next and works out what is to be said of the others.
func (l *Ledger) plan() {
	if len(l.line) == 0 {
		return
	}
	s := State{Budget: l.budget, Held: l.sum, Unseen: l.awaits(), Coming: l.coming()}
	for _, w := range l.line {
		w.Stale = w.key != l.key(w.Who)
		w.Away = l.objects != nil && l.objects.Away(w.Who)
		s.Line = append(s.Line, w.Claim)
	}
	sorted(s.Line)
	news := false
	for i, v := range s.Plan() {
		c := s.Line[i]
		if v.Admitted {
			l.leave(c.ID)
			l.set(c.Who, c.ID, c.Base.Max(c.Want))
			l.wake(c.Who)
			continue
		}
		w := l.line[c.ID]
		w.verdict = v
		news = news || w.restated()
	}
	if news {
		l.signal()
	}
}

// awaits tells whether something that there was at the start was not looked at since.
// What went before the cache was filled never will be.
func (l *Ledger) awaits() bool {
	if l.objects != nil {
		maps.DeleteFunc(l.unseen, func(who Who, _ bool) bool { return l.objects.Key(who) == Key{} })
	}
	return len(l.unseen) > 0
}

func (l *Ledger) key(who Who) Key {
	if l.objects == nil {
		return Key{}
	}
	return l.objects.Key(who)
}

// coming are those that were not looked at since they changed.
func (l *Ledger) coming() []Claim {
	if l.objects == nil || l.budget == NoLimit() {
		return nil
	}
	var list []Claim
	for _, o := range l.objects.Standing() {
		if _, waits := l.line[o.ID]; waits || o.Away {
			continue
		}
		seen, ok := l.seen[o.Who]
		if at, looks := l.looking[o.Who]; looks && at.key != o.Key {
			ok = false // and what it says now is not of what it is
		}
		if ok && seen == o.Key {
			continue
		}
		list = append(list, Claim{Place: o.Place, Base: l.held[o.ID].amount, Want: o.Want})
	}
	return sorted(list)
}

func (l *Ledger) set(who Who, id types.UID, a Amount) {
	l.sum = l.sum.Minus(l.held[id].amount).Plus(a)
	if a == (Amount{}) {
		delete(l.held, id)
		return
	}
	l.held[id] = holding{who, a}
}

func (l *Ledger) leave(id types.UID) { delete(l.line, id) }

func (l *Ledger) release(id types.UID) {
	l.leave(id)
	delete(l.large, id)
	l.set(Who{}, id, Amount{})
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
