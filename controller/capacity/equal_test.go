package capacity

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
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
	t      *rapid.T
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
	return rapid.SampledFrom(names).Draw(w.t, "who"), true
}

func (w *twins) amount(label string) Amount {
	var a Amount
	for r := range a {
		a[r] = rapid.Int64Range(0, 6).Draw(w.t, label)
	}
	return a
}

func (w *twins) budget(label string) Amount {
	var a Amount
	for r := range a {
		a[r] = rapid.SampledFrom([]int64{0, 3, 5, 8, 20, Unlimited}).Draw(w.t, label)
	}
	return a
}

func (w *twins) create() {
	w.made++
	who := Who{"team", fmt.Sprint("s", rapid.IntRange(0, 30).Draw(w.t, "name"))}
	if w.objects[who] != nil {
		return
	}
	id := types.UID(fmt.Sprintf("%s-%d", who.Name, w.made))
	w.ids[id] = who
	w.objects[who] = &object{Standing: Standing{
		Place: Place{Who: who, ID: id, Created: time.Unix(rapid.Int64Range(0, 20).Draw(w.t, "created"), 0)},
		Key:   Key{Generation: 1}, Want: w.amount("wants"),
	}, provider: rapid.IntRange(0, 1).Draw(w.t, "provider")}
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
	c.Urgent = rapid.IntRange(0, 9).Draw(w.t, "urgent") == 0
	if rapid.IntRange(0, 3).Draw(w.t, "wants something else") == 0 {
		c.Want = w.amount("asks for")
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
	switch what := rapid.IntRange(0, 9).Draw(w.t, "says"); {
	case o == nil:
		w.both(func(l *Ledger) { l.Gone(who) }, func(l *naive) { l.Gone(who) })
	case what < 6:
		w.ask(who, o)
	case what < 7:
		has := w.amount("has")
		w.base[o.ID] = has
		w.both(func(l *Ledger) { l.Keep(who, o.ID, has) }, func(l *naive) { l.Keep(who, o.ID, has) })
	case what < 9:
		why := rapid.SampledFrom([]Unknown{Outdated, Failing, Away}).Draw(w.t, "unknown")
		w.both(func(l *Ledger) { l.Undecided(who, o.ID, why) }, func(l *naive) { l.Undecided(who, o.ID, why) })
	}
}

func (w *twins) begin(who Who) {
	w.looks[who] = [2]func(){w.ledger.Look(who), w.naive.Look(who)}
	key := w.Key(who)
	w.both(func(l *Ledger) { l.Read(who, key) }, func(l *naive) { l.Read(who, key) })
}

func (w *twins) end(who Who) {
	done := w.looks[who]
	delete(w.looks, who)
	w.both(func(*Ledger) { done[0]() }, func(*naive) { done[1]() })
}

func (w *twins) steps() map[string]func(*rapid.T) {
	some := func(do func(Who, *object)) func(*rapid.T) {
		return func(t *rapid.T) {
			who, ok := w.who()
			if !ok {
				t.Skip()
			}
			do(who, w.objects[who])
		}
	}
	look := some(func(who Who, _ *object) {
		if w.looks[who][0] == nil {
			w.begin(who)
			w.say(who)
			w.end(who)
		}
	})
	return map[string]func(*rapid.T){
		"create":     func(*rapid.T) { w.create() },
		"create one": func(*rapid.T) { w.create() },
		"look":       look, "look at one": look, "look again": look,
		"begin a look": some(func(who Who, _ *object) {
			if w.looks[who][0] == nil {
				w.begin(who)
			}
		}),
		"end a look": func(t *rapid.T) {
			if len(w.looks) == 0 {
				t.Skip()
			}
			who := rapid.SampledFrom(ordered(slices.Collect(maps.Keys(w.looks)))).Draw(t, "looked at")
			w.say(who)
			w.end(who)
		},
		"change": some(func(who Who, o *object) {
			o.Key.Generation++
			o.Want = w.amount("changed")
			w.changed = append(w.changed, who)
		}),
		"blink": func(t *rapid.T) { // what all wait for
			of := rapid.SampledFrom([]string{"", "ready"}).Draw(t, "image")
			for _, o := range w.objects {
				o.Key.Of = of
			}
			w.all = true
		},
		"outage": func(t *rapid.T) {
			i := rapid.IntRange(0, 1).Draw(t, "hypervisor")
			w.down[i] = !w.down[i]
			w.all = true
		},
		"delete": some(func(who Who, o *object) {
			o.deleting = true
			w.changed = append(w.changed, who)
			w.both(func(l *Ledger) { l.Withdraw(o.ID) }, func(l *naive) { l.Withdraw(o.ID) })
		}),
		"go": some(func(who Who, o *object) {
			delete(w.objects, who)
			w.changed = append(w.changed, who)
			w.both(func(l *Ledger) { l.Release(o.ID) }, func(l *naive) { l.Release(o.ID) })
		}),
		"power off": some(func(who Who, o *object) {
			w.both(func(l *Ledger) { l.PoweredOff(o.ID) }, func(l *naive) { l.PoweredOff(o.ID) })
			w.base[o.ID] = w.ledger.Held(o.ID)
		}),
		"release": some(func(who Who, o *object) {
			delete(w.base, o.ID)
			w.both(func(l *Ledger) { l.Release(o.ID) }, func(l *naive) { l.Release(o.ID) })
		}),
		"measure": func(*rapid.T) {
			b, more := w.budget("budget"), w.amount("most")
			most := b
			for r := range most {
				if most[r] != Unlimited {
					most[r] += more[r]
				}
			}
			w.both(func(l *Ledger) { l.SetBudget(b, most) }, func(l *naive) { l.SetBudget(b, most) })
		},
		"": func(*rapid.T) { w.compareWords() },
	}
}

// TestPlansAsOverAll: whatever happens, the ledger admits whom one admits that goes through
// everybody each time, and says the same of those who wait.
func TestPlansAsOverAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		objects := &world{objects: map[Who]*object{}}
		w := &twins{
			world: objects, t: t, ids: map[types.UID]Who{}, looks: map[Who][2]func(){}, base: map[types.UID]Amount{},
		}
		b := w.budget("budget")
		w.ledger, w.naive = New(b, objects), newNaive(b, objects)
		for range rapid.IntRange(0, 30).Draw(t, "before the start") {
			w.create()
		}
		for _, id := range slices.Sorted(maps.Keys(w.ids)) {
			who := w.ids[id]
			if rapid.IntRange(0, 3).Draw(t, "restored") == 0 {
				held := w.amount("reserved")
				w.both(func(l *Ledger) { l.Restore(who, id, held) }, func(l *naive) { l.Restore(who, id, held) })
			}
		}
		t.Repeat(w.steps())
	})
}
