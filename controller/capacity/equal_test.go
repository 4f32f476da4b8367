package capacity

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// world is a cache that tells what has changed in it, and hypervisors of which some may
// not answer.
type world struct {
	objects map[Who]*object
	down    [2]bool
	changed []Who
	all     bool
}

type object struct {
	Standing
	deleting bool
	provider int
}

func (w *world) Key(who Who) Key {
	if o := w.objects[who]; o != nil {
		return o.Key
	}
	return Key{}
}

func (w *world) Away(who Who) bool {
	o := w.objects[who]
	return o != nil && w.down[o.provider]
}

func (w *world) Standing(who Who) (Standing, bool) {
	o := w.objects[who]
	if o == nil || o.deleting {
		return Standing{}, false
	}
	s := o.Standing
	s.Away = w.down[o.provider]
	return s, true
}

func (w *world) Names() []Who { return slices.Collect(maps.Keys(w.objects)) }

func (w *world) Changed() (list []Who, everybody bool) {
	list, everybody = w.changed, w.all
	w.changed, w.all = nil, false
	return list, everybody
}

// twins are a ledger and the one that it is held to.
type twins struct {
	*world
	t      testing.TB
	rand   *rand.Rand
	ledger *Ledger
	naive  *naive
	made   int
	// ids that there ever were, and looks under way.
	ids   map[types.UID]Who
	looks map[Who][2]func()
	base  map[types.UID]Amount
}

// both does something to both of them.
func (w *twins) both(ledger func(*Ledger), naive func(*naive)) {
	ledger(w.ledger)
	naive(w.naive)
	w.compare()
}

func (w *twins) who() (Who, bool) {
	names := w.Names()
	if len(names) == 0 {
		return Who{}, false
	}
	slices.SortFunc(names, Who.Compare)
	return one(w.rand, names), true
}

func (w *twins) amount() Amount {
	var a Amount
	for r := range a {
		a[r] = max(0, w.rand.Int64N(8)-2)
	}
	return a
}

func (w *twins) budget() Amount {
	var a Amount
	for r := range a {
		a[r] = []int64{0, 3, 5, 8, 10, 15, 20, 30, Unlimited}[w.rand.IntN(9)]
	}
	return a
}

func (w *twins) create() {
	w.made++
	who := Who{"team", fmt.Sprint("s", w.rand.IntN(40))}
	if w.objects[who] != nil {
		return
	}
	id := types.UID(fmt.Sprintf("%s-%d", who.Name, w.made))
	w.ids[id] = who
	w.objects[who] = &object{Standing: Standing{
		Place: Place{Who: who, ID: id, Created: time.Unix(w.rand.Int64N(21), 0)},
		Key:   Key{Generation: 1}, Want: w.amount(),
	}, provider: w.rand.IntN(2)}
	w.changed = append(w.changed, who)
}

// compare fails where the two tell different things.
func (w *twins) compare() {
	for id := range w.ids {
		if got, want := w.ledger.Held(id), w.naive.Held(id); got != want {
			w.t.Fatalf("%v is held for %s, want %v", got, id, want)
		}
	}
	budget, held, waits := w.ledger.Totals()
	wantBudget, wantHeld, wantWaits := w.naive.Totals()
	if budget != wantBudget || held != wantHeld || waits != wantWaits {
		w.t.Fatalf("totals %v %v %v, want %v %v %v", budget, held, waits, wantBudget, wantHeld, wantWaits)
	}
	if got, want := ordered(w.ledger.Woken()), ordered(w.naive.Woken()); !slices.Equal(got, want) {
		w.t.Fatalf("%v are woken, want %v", got, want)
	}
}

// compareWords compares what everybody in line is told.
func (w *twins) compareWords() {
	w.ledger.plan()
	w.naive.plan()
	w.naive.plan() // which says what is so after the last one
	w.compare()
	if len(w.ledger.line) != len(w.naive.line) {
		w.t.Fatalf("%d are in line, want %d", len(w.ledger.line), len(w.naive.line))
	}
	w.ledger.lookUp()
	coming := w.naive.coming()
	if len(w.ledger.coming) != len(coming) {
		w.t.Fatalf("%d are coming, want %d", len(w.ledger.coming), len(coming))
	}
	for _, c := range coming {
		if e := w.ledger.coming[c.Who]; e == nil || e.Claim != c {
			w.t.Fatalf("%+v is coming, want %+v", e, c)
		}
	}
	for id, c := range w.naive.line {
		e := w.ledger.line[id].entry
		if got := w.ledger.whyWaits(e).verdict(); got != c.verdict {
			w.t.Fatalf("%s: got %+v, want %+v", id, got, c.verdict)
		}
	}
	if got, want := ordered(w.ledger.Restated()), ordered(w.naive.Restated()); !slices.Equal(got, want) {
		w.t.Fatalf("%v are told anew, want %v", got, want)
	}
}

func ordered(list []Who) []Who {
	slices.SortFunc(list, Who.Compare)
	return list
}

func (w *twins) ask(who Who, o *object) {
	c := Claim{Place: o.Place, Base: w.base[o.ID], Want: o.Want}
	c.Urgent = w.rand.IntN(10) == 0
	if w.rand.IntN(4) == 0 {
		c.Want = w.amount()
	}
	got, want := w.ledger.Ask(c), w.naive.Ask(c)
	w.naive.plan()
	if l := w.naive.line[c.ID]; l != nil {
		want = l.verdict
		l.told = want.Message
	}
	if got != want {
		w.t.Fatalf("%s asks for %v and has %v: got %+v, want %+v", who, c.Want, c.Base, got, want)
	}
	w.compare()
}

// say has somebody who is looked at say what it needs.
func (w *twins) say(who Who) {
	o := w.objects[who]
	switch what := w.rand.IntN(10); {
	case o == nil:
		w.both(func(l *Ledger) { l.Gone(who) }, func(l *naive) { l.Gone(who) })
	case what < 6:
		w.ask(who, o)
	case what < 7:
		has := w.amount()
		w.base[o.ID] = has
		w.both(func(l *Ledger) { l.Keep(who, o.ID, has) }, func(l *naive) { l.Keep(who, o.ID, has) })
	case what < 9:
		why := []Unknown{Outdated, Failing, Away}[w.rand.IntN(3)]
		w.both(func(l *Ledger) { l.Undecided(who, o.ID, why) }, func(l *naive) { l.Undecided(who, o.ID, why) })
	}
}

func (w *twins) begin(who Who) {
	w.looks[who] = [2]func(){w.ledger.Look(who), w.naive.Look(who)}
	key := w.Key(who)
	if w.rand.IntN(8) == 0 {
		key.Of = []string{"", "ready"}[w.rand.IntN(2)] // as it is for a moment
	}
	w.both(func(l *Ledger) { l.Read(who, key) }, func(l *naive) { l.Read(who, key) })
}

func (w *twins) end(who Who) {
	done := w.looks[who]
	delete(w.looks, who)
	w.both(func(*Ledger) { done[0]() }, func(*naive) { done[1]() })
}

// step does one of the things that happen.
func (w *twins) step() {
	who, any := w.who()
	o := w.objects[who]
	looks := w.looks[who][0] != nil
	switch n := w.rand.IntN(100); {
	case n < 15 || !any:
		w.create()
	case n < 50 && !looks:
		w.begin(who)
		w.say(who)
		w.end(who)
	case n < 60 && !looks:
		w.begin(who)
	case n < 70 && len(w.looks) > 0:
		who := one(w.rand, ordered(slices.Collect(maps.Keys(w.looks))))
		w.say(who)
		w.end(who)
	case n < 75:
		o.Key.Generation++
		o.Want = w.amount()
		w.changed = append(w.changed, who)
	case n < 78: // what all wait for
		of := []string{"", "ready"}[w.rand.IntN(2)]
		for _, o := range w.objects {
			o.Key.Of = of
		}
		w.all = true
	case n < 80:
		i := w.rand.IntN(2)
		w.down[i] = !w.down[i]
		w.all = true
	case n < 82:
		o.deleting = true
		w.changed = append(w.changed, who)
		w.both(func(l *Ledger) { l.Withdraw(o.ID) }, func(l *naive) { l.Withdraw(o.ID) })
	case n < 85:
		delete(w.objects, who)
		if w.all = w.rand.IntN(2) == 0; !w.all {
			w.changed = append(w.changed, who)
		}
		w.both(func(l *Ledger) { l.Release(o.ID) }, func(l *naive) { l.Release(o.ID) })
	case n < 90:
		w.both(func(l *Ledger) { l.PoweredOff(o.ID) }, func(l *naive) { l.PoweredOff(o.ID) })
		w.base[o.ID] = w.ledger.Held(o.ID)
	case n < 98:
		delete(w.base, o.ID)
		w.both(func(l *Ledger) { l.Release(o.ID) }, func(l *naive) { l.Release(o.ID) })
	default:
		b := w.budget()
		most := b
		for r, more := range w.amount() {
			if most[r] != Unlimited {
				most[r] += more
			}
		}
		w.both(func(l *Ledger) { l.SetBudget(b, most) }, func(l *naive) { l.SetBudget(b, most) })
	}
}

func one[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// TestPlansAsOverAll: whatever happens, the ledger admits whom one admits that goes through
// everybody each time, and says the same of those who wait.
func TestPlansAsOverAll(t *testing.T) {
	lives, steps := uint64(40), 200
	if testing.Short() {
		lives = 15
	}
	longest := 0
	for seed := range lives {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			objects := &world{objects: map[Who]*object{}}
			w := &twins{
				world: objects, t: t, rand: rand.New(rand.NewPCG(seed, 0)),
				ids: map[types.UID]Who{}, looks: map[Who][2]func(){}, base: map[types.UID]Amount{},
			}
			b := w.budget()
			w.ledger, w.naive = New(b, objects), newNaive(b, objects)
			w.restart()
			for range steps {
				w.step()
				w.compareWords()
				longest = max(longest, len(w.ledger.line))
			}
		})
	}
	if longest <= figured {
		t.Errorf("no more than %d were in line", longest)
	}
}

// restart begins with what there was before.
func (w *twins) restart() {
	for range w.rand.IntN(30) {
		w.create()
	}
	for _, id := range slices.Sorted(maps.Keys(w.ids)) {
		if who, held := w.ids[id], w.amount(); w.rand.IntN(4) == 0 {
			w.both(func(l *Ledger) { l.Restore(who, id, held) }, func(l *naive) { l.Restore(who, id, held) })
		}
	}
}

// strict counts what it is asked.
type strict struct {
	*world
	asked, everybody int
}

func (s *strict) Key(who Who) Key {
	s.asked++
	return s.world.Key(who)
}

func (s *strict) Standing(who Who) (Standing, bool) {
	s.asked++
	return s.world.Standing(who)
}

func (s *strict) Names() []Who {
	s.everybody++
	return s.world.Names()
}

// TestManyInLine: each of very many is looked up a few times, however many there are, and
// all at once only at the start. The tree they are in stays low.
func TestManyInLine(t *testing.T) {
	const n, few, low = 2000, 20, 60
	w, budget, claims := full(n)
	objects := &strict{world: w}
	l := New(budget, objects)
	start(l, budget, claims)
	l.Release("runs0")
	if got := l.Woken(); len(got) != 1 || got[0].Name != "s0" {
		t.Errorf("%v are woken, want the first one", got)
	}
	if objects.asked > few*n || objects.everybody > 1 {
		t.Errorf("of %d, %d were looked up, and all of them %d times", n, objects.asked, objects.everybody)
	}
	var depth func(*entry) int
	depth = func(e *entry) int {
		if e == nil {
			return 0
		}
		return 1 + max(depth(e.left), depth(e.right))
	}
	if got := depth(l.queue.root); got > low || len(l.line) != n-1 {
		t.Errorf("%d are in line, %d below one another", len(l.line), got)
	}
}
