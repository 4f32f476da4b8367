package capacity

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// host is a model of machines that ask a ledger.
type host struct {
	t       *rapid.T
	ledger  *Ledger
	budget  Amount
	asks    map[string]Claim  // of those that were not admitted
	holds   map[string]Amount // of those that were
	created int64
}

func (h *host) name() (string, bool) {
	names := slices.Sorted(func(yield func(string) bool) {
		for n := range h.asks {
			if !yield(n) {
				return
			}
		}
		for n := range h.holds {
			if !yield(n) {
				return
			}
		}
	})
	if len(names) == 0 {
		return "", false
	}
	return rapid.SampledFrom(names).Draw(h.t, "name"), true
}

func (h *host) amount(label string) Amount {
	n := func(most int64) int64 { return rapid.Int64Range(0, most).Draw(h.t, label) }
	return Amount{n(h.budget[Memory]), n(h.budget[CPUs]), n(h.budget[Disk]), 1}
}

// woken lets those ask again who were woken.
func (h *host) woken() {
	for _, who := range h.ledger.Woken() {
		c, waits := h.asks[who.Name]
		if !waits {
			h.t.Fatalf("%s was woken and waits for nothing", who)
		}
		v := h.ledger.Ask(c)
		if !v.Admitted {
			h.t.Fatalf("%s was woken and is not admitted: %s", who, v.Message)
		}
		delete(h.asks, who.Name)
		h.holds[who.Name] = c.Want
	}
}

func (h *host) ask(c Claim) {
	delete(h.holds, c.Name)
	delete(h.asks, c.Name)
	switch v := h.ledger.Ask(c); {
	case v.Admitted:
		h.holds[c.Name] = c.Want
	case v.TooLarge:
		h.t.Fatalf("%+v is said to be too large for %v: %s", c, h.budget, v.Message)
	default:
		if v.Message == "" || v.Reason == "" {
			h.t.Fatalf("%s waits and nobody says why", c.Name)
		}
		h.asks[c.Name] = c
	}
	h.woken()
}

// check compares what the ledger says with what its users have.
func (h *host) check(*rapid.T) {
	var sum Amount
	for _, a := range h.holds {
		sum = sum.Plus(a)
	}
	var waits Amount
	for _, c := range h.asks {
		sum, waits = sum.Plus(c.Base), waits.Plus(c.needs())
	}
	budget, reserved, waiting := h.ledger.Totals()
	if reserved != sum {
		h.t.Fatalf("%v is reserved, and the machines have %v", reserved, sum)
	}
	if waiting != waits {
		h.t.Fatalf("the line needs %v, and the ledger says %v", waits, waiting)
	}
	if !budget.Covers(reserved) {
		h.t.Fatalf("%v is reserved of %v", reserved, budget)
	}
	h.nobodyIsForgotten(budget.Minus(reserved))
}

// nobodyIsForgotten: the first in line waits only because there is too little, and of
// what those in line need nobody behind them was given any.
func (h *host) nobodyIsForgotten(free Amount) {
	line := []Claim{}
	for _, c := range h.asks {
		line = append(line, c)
	}
	for _, c := range sorted(line) {
		if fits(c.needs(), free) {
			h.t.Fatalf("%s waits, and there is room for it and all before it: it needs %v of %v", c.Name, c.needs(), free)
		}
		free = free.Minus(c.needs())
	}
}

func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := Amount{16, 8, 32, rapid.Int64Range(1, 8).Draw(t, "places")}
		h := &host{t: t, budget: budget, ledger: New(budget, nil), asks: map[string]Claim{}, holds: map[string]Amount{}}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(*rapid.T) {
				h.created++
				h.ask(claim(fmt.Sprintf("m%d", h.created), rapid.Int64Range(h.created-2, h.created).Draw(t, "second"), Amount{}, h.amount("want")))
			},
			"ask again": func(*rapid.T) { // for the same, or for something else
				name, ok := h.name()
				if !ok {
					t.Skip()
				}
				c, waits := h.asks[name]
				if !waits { // off, and to be started again: its disk stays
					off := h.holds[name]
					off[Memory], off[CPUs] = 0, 0
					c = claim(name, 0, off, h.holds[name])
				}
				if rapid.Bool().Draw(t, "changed") {
					want := h.amount("changed want")
					want[Disk] = max(c.Base[Disk], want[Disk])
					c.Want = want
				}
				h.ask(c)
			},
			"power off": func(*rapid.T) { // keeps its disk, and is started again later
				name, ok := h.name()
				if _, held := h.holds[name]; !ok || !held {
					t.Skip()
				}
				h.ledger.PoweredOff(types.UID(name))
				a := h.holds[name]
				a[Memory], a[CPUs] = 0, 0
				h.holds[name] = a
				h.woken()
			},
			"keep less": func(*rapid.T) {
				name, ok := h.name()
				if held, runs := h.holds[name]; ok && runs {
					held[Memory] /= 2
					h.holds[name] = held
					h.ledger.Keep(Who{"team", name}, types.UID(name), held)
					h.woken()
				}
			},
			"delete": func(*rapid.T) {
				name, ok := h.name()
				if !ok {
					t.Skip()
				}
				if rapid.Bool().Draw(t, "by name") {
					h.ledger.Gone(Who{"team", name})
				} else {
					h.ledger.Release(types.UID(name))
				}
				delete(h.holds, name)
				delete(h.asks, name)
				h.woken()
			},
			"": h.check,
		})
		// Whoever waits is admitted once those before it end.
		for len(h.asks) > 0 {
			if len(h.holds) == 0 { // but for the disks of others in line
				for name, c := range h.asks {
					if c.Base == (Amount{}) {
						continue
					}
					h.ledger.Release(types.UID(name))
					delete(h.asks, name)
					break
				}
			}
			for name := range h.holds {
				h.ledger.Release(types.UID(name))
				delete(h.holds, name)
				break
			}
			h.woken()
			h.check(t)
		}
		if _, reserved, _ := h.ledger.Totals(); len(h.holds) == 0 && reserved != (Amount{}) {
			t.Fatalf("%v is reserved for nobody", reserved)
		}
	})
}

// cached is a cache with objects.
type cached map[Who]Standing

func (c cached) Key(w Who) Key { return c[w].Key }

func (c cached) Away(w Who) bool { return c[w].Away }

func (c cached) Standing(w Who) (Standing, bool) {
	s, ok := c[w]
	return s, ok
}

func (c cached) Names() []Who { return slices.Collect(maps.Keys(c)) }

func (c cached) Changed() ([]Who, bool) { return nil, true }

func (c cached) add(claim Claim, generation int64) {
	c[claim.Who] = Standing{Place: claim.Place, Key: Key{Generation: generation}, Want: claim.Want}
}

// away has the hypervisor of an object not answer, or answer again.
func (c cached) away(w Who, away bool) {
	s := c[w]
	s.Away = away
	c[w] = s
}

// TestOrderOfThoseThatDidNotAsk: the one that was made first gets the place, also when
// it is looked at last, and also after both waited for something else.
func TestOrderOfThoseThatDidNotAsk(t *testing.T) {
	one := Amount{gi, 1, gi, 1}
	first, second := claim("first", 1, Amount{}, one), claim("second", 2, Amount{}, one)
	objects := cached{}
	l := New(one, objects)
	objects.add(first, 1)
	objects.add(second, 1)
	for _, c := range []Claim{first, second} { // neither asks, say because their image is not ready
		l.Look(c.Who)()
	}
	objects.add(first, 2)
	objects.add(second, 2)
	look := l.Look(second.Who)
	if v := l.Ask(second); v.Admitted || !v.Passing {
		t.Fatalf("the second one: %+v, want it to wait for the first to be looked at", v)
	}
	look()
	look = l.Look(first.Who)
	if v := l.Ask(first); !v.Admitted {
		t.Fatalf("the first one: %+v", v)
	}
	look()
	if got := l.Restated(); !slices.Equal(got, []Who{second.Who}) {
		t.Errorf("%v are told how it stands now, want the second one", got)
	}
	l.Release(first.ID)
	if got := l.Woken(); !slices.Equal(got, []Who{second.Who}) {
		t.Errorf("%v are woken, want the second one", got)
	}
}

// TestOneThatIsLookedAtAndDoesNotAsk lets those after it go on.
func TestOneThatIsLookedAtAndDoesNotAsk(t *testing.T) {
	one := Amount{gi, 1, gi, 1}
	first, second := claim("first", 1, Amount{}, one), claim("second", 2, Amount{}, one)
	objects := cached{}
	l := New(one, objects)
	objects.add(first, 1)
	objects.add(second, 1)
	look := l.Look(first.Who)
	if v := l.Ask(second); v.Admitted {
		t.Fatal("the second one went past the first")
	}
	look()
	if got := l.Woken(); !slices.Equal(got, []Who{second.Who}) {
		t.Errorf("%v are woken, want the second one", got)
	}
}

// TestRestart: nobody is admitted before all was looked at that there was, and what the
// status says counts from the start, also when it is more than there is.
func TestRestart(t *testing.T) {
	one := Amount{gi, 1, gi, 1}
	l := New(Amount{2 * gi, 1, 2 * gi, 2}, nil)
	old, lost, fresh := claim("old", 1, Amount{}, Amount{2 * gi, 2, gi, 1}), claim("lost", 2, Amount{}, one), claim("fresh", 3, Amount{}, one)
	l.Restore(old.Who, old.ID, old.Want)
	l.Restore(lost.Who, lost.ID, Amount{})
	if _, reserved, _ := l.Totals(); reserved != old.Want {
		t.Fatalf("%v is reserved, want %v", reserved, old.Want)
	}
	if v := l.Ask(old); !v.Admitted {
		t.Errorf("what ran before: %+v", v)
	}
	l.Look(old.Who)()
	if v := l.Ask(fresh); v.Admitted || !v.Passing {
		t.Errorf("before all was looked at: %+v", v)
	}
	l.PoweredOff(old.ID)
	if got := l.Woken(); len(got) > 0 {
		t.Errorf("%v are woken before all was looked at", got)
	}
	l.Look(lost.Who)()
	if got := l.Woken(); !slices.Equal(got, []Who{fresh.Who}) {
		t.Errorf("%v are woken once all was looked at, want the fresh one", got)
	}
}

// TestBudgetThatChanges: those too large are woken when there is more.
func TestBudgetThatChanges(t *testing.T) {
	c := claim("a", 1, Amount{}, Amount{2 * gi, 1, gi, 1})
	l := New(Amount{gi, 1, gi, 1}, nil)
	if v := l.Ask(c); !v.TooLarge {
		t.Fatalf("got %+v, want it to be too large", v)
	}
	l.SetBudget(Amount{4 * gi, 1, gi, 1}, Amount{4 * gi, 1, gi, 1})
	select {
	case <-l.Changed():
	case <-time.After(time.Second):
		t.Fatal("nobody is told")
	}
	if got := l.Woken(); !slices.Equal(got, []Who{c.Who}) {
		t.Fatalf("%v are woken", got)
	}
	if v := l.Ask(c); !v.Admitted {
		t.Errorf("got %+v", v)
	}
}

// TestDiskThatOthersFill: what is more than there is on the disk now, and not more than
// there may be, waits and keeps nobody from what there is; it is woken once others have
// freed enough, and told so when the disk itself is too small.
func TestDiskThatOthersFill(t *testing.T) {
	most, now := Amount{4 * gi, 4, 100 * gi, 9}, Amount{4 * gi, 4, 20 * gi, 9}
	l := New(most, nil)
	l.SetBudget(now, most)
	large, small := claim("large", 1, Amount{}, Amount{gi, 1, 50 * gi, 1}), claim("small", 2, Amount{}, Amount{gi, 1, 10 * gi, 1})
	if v := l.Ask(large); v.Admitted || v.TooLarge || v.Reason != v1.ReasonCapacity || v.Message != "needs 50Gi disk, 20Gi of 20Gi free" {
		t.Errorf("got %+v, want it to wait", v)
	}
	if v := l.Ask(small); !v.Admitted {
		t.Errorf("the one behind it got %+v", v)
	}
	now[Disk] = 70 * gi
	l.SetBudget(now, most)
	if got := l.Woken(); !slices.Equal(got, []Who{large.Who}) || l.Held(large.ID) != large.Want {
		t.Errorf("%v are woken, and %v is reserved for the large one", got, l.Held(large.ID))
	}
	huge := claim("huge", 3, Amount{}, Amount{gi, 1, 101 * gi, 1})
	if v := l.Ask(huge); !v.TooLarge || v.Message != "needs 101Gi disk, and this host has 100Gi for sandboxes at all: ask for less, or raise capacity.disk" {
		t.Errorf("got %+v, want it to be too large", v)
	}
	now[Disk] = 60 * gi
	l.SetBudget(now, most)
	if got := l.Woken(); len(got) != 0 {
		t.Errorf("%v are woken for nothing", got)
	}
	most[Disk] = 200 * gi
	l.SetBudget(now, most)
	if got := l.Woken(); !slices.Equal(got, []Who{huge.Who}) {
		t.Errorf("%v are woken, want the one that was too large", got)
	}
}

// TestNobodyGainsByABlink: two wait in line, and their image is not ready for a moment.
// The first one sees that and leaves the line; the second one has not looked yet, and
// gets nothing before it has. Then the first one is first again.
func TestNobodyGainsByABlink(t *testing.T) {
	first, second := claim("first", 1, Amount{}, Amount{2 * gi, 1, gi, 1}), claim("second", 2, Amount{}, Amount{gi, 1, gi, 1})
	ready := func(objects cached, generation int64) {
		objects.add(first, generation)
		objects.add(second, generation)
	}
	objects := cached{}
	l := New(Amount{2 * gi, 2, 2 * gi, 2}, objects)
	l.Keep(Who{"team", "runs"}, "runs", Amount{gi, 1, 0, 0})
	ready(objects, 1)
	for _, c := range []Claim{first, second} {
		look := l.Look(c.Who)
		if v := l.Ask(c); v.Admitted {
			t.Fatalf("%s: %+v", c.Name, v)
		}
		look()
	}
	ready(objects, 2) // not ready
	look := l.Look(first.Who)
	l.Keep(first.Who, first.ID, Amount{})
	look()
	if got := l.Woken(); len(got) > 0 {
		t.Fatalf("%v are woken, and were not looked at since they changed", got)
	}
	ready(objects, 1)
	look = l.Look(first.Who)
	ready(objects, 2) // not ready again, in the middle of the look
	l.Keep(first.Who, first.ID, Amount{})
	look()
	ready(objects, 1)
	if got := l.Woken(); len(got) > 0 {
		t.Fatalf("%v are woken, and were not looked at", got)
	}
	look = l.Look(second.Who)
	if v := l.Ask(second); v.Admitted || !v.Passing {
		t.Fatalf("the second one: %+v, want it to wait for the first to be looked at", v)
	}
	look()
	look = l.Look(first.Who)
	if v := l.Ask(first); v.Admitted || v.Message != "needs 2Gi memory, 1Gi of 2Gi free" {
		t.Fatalf("the first one: %+v", v)
	}
	look()
	l.Release("runs")
	if got := l.Woken(); !slices.Equal(got, []Who{first.Who}) {
		t.Errorf("%v are woken, want the first one", got)
	}
}
