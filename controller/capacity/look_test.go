package capacity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/providers"
)

// twoInLine are two that wait for the place of one that runs, and a look at each: the
// first one needs two units of memory, the second one only the one that is free.
func twoInLine(t *testing.T) (l *Ledger, objects cached, first, second Claim) {
	t.Helper()
	first, second = claim("first", 1, Amount{}, Amount{2 * gi, 1, gi, 1}), claim("second", 2, Amount{}, Amount{gi, 1, gi, 1})
	objects = cached{}
	l = New(Amount{2 * gi, 3, 3 * gi, 3}, objects)
	l.Keep(Who{"team", "runs"}, "runs", Amount{gi, 1, 0, 0})
	objects.add(first, 1)
	objects.add(second, 1)
	for _, c := range []Claim{first, second} {
		asks(t, l, c, false)
	}
	return l, objects, first, second
}

func asks(t *testing.T, l *Ledger, c Claim, admitted bool) {
	t.Helper()
	defer l.Look(c.Who)()
	if v := l.Ask(c); v.Admitted != admitted {
		t.Fatalf("%s: %+v, want admitted %v", c.Name, v, admitted)
	}
}

// TestWhatWasReadCounts: the image of one that waits is not ready for the very moment in
// which it is read, and is as before when the look ends. It has left the line, and nobody
// may go past it before it is looked at again.
func TestWhatWasReadCounts(t *testing.T) {
	l, _, first, second := twoInLine(t)
	look := l.Look(first.Who) // ready
	l.Read(first.Who, Key{Generation: 2})
	l.Keep(first.Who, first.ID, Amount{})
	look() // ready again
	if got := l.Woken(); len(got) > 0 {
		t.Fatalf("%v are woken, and are behind one that was not looked at as it is", got)
	}
	asks(t, l, second, false)
	asks(t, l, first, false)
	l.Release("runs")
	if got := l.Woken(); !slices.Equal(got, []Who{first.Who}) {
		t.Errorf("%v are woken, want the first one", got)
	}
}

// TestPlaceOfOneThatFails: what keeps from telling what the first one needs costs it its
// place only when nobody knows when it ends.
func TestPlaceOfOneThatFails(t *testing.T) {
	for _, waits := range []bool{true, false} { // in line, or changed and not looked at since
		for name, c := range map[string]struct {
			looks []Unknown
			kept  bool
		}{
			"written meanwhile":                {[]Unknown{Outdated}, true},
			"written meanwhile time and again": {[]Unknown{Outdated, Outdated, Outdated}, true},
			"fails":                            {[]Unknown{Failing}, true},
			"fails, and written meanwhile":     {[]Unknown{Failing, Outdated}, true},
			"fails, and fails again":           {[]Unknown{Failing, Failing}, false},
			"hypervisor away":                  {[]Unknown{Away}, false},
		} {
			t.Run(fmt.Sprintf("%s, in line %v", name, waits), func(t *testing.T) {
				l, objects, first, second := twoInLine(t)
				if !waits {
					objects.add(first, 2)
				}
				for _, why := range c.looks {
					objects.away(first.Who, why == Away)
					look := l.Look(first.Who)
					l.Undecided(first.Who, first.ID, why)
					look()
				}
				want := []Who{second.Who}
				if c.kept {
					want = nil
				}
				if got := l.Woken(); !slices.Equal(got, want) {
					t.Fatalf("%v are woken, want %v", got, want)
				}
			})
		}
	}
}

// TestFailuresAreForgiven: a failure counts only with the one right before it.
func TestFailuresAreForgiven(t *testing.T) {
	l, _, first, _ := twoInLine(t)
	for range 3 {
		look := l.Look(first.Who)
		l.Undecided(first.Who, first.ID, Failing)
		look()
		asks(t, l, first, false)
	}
	if got := l.Woken(); len(got) > 0 {
		t.Errorf("%v are woken, and are behind the first one", got)
	}
}

// TestHypervisorIsBack: nothing is given to those of a hypervisor that is away, and when
// it is back they are in the order of before, whoever is looked at first.
func TestHypervisorIsBack(t *testing.T) {
	for _, changed := range []bool{false, true} { // meanwhile
		l, objects, first, second := twoInLine(t)
		for _, c := range []Claim{first, second} {
			objects.away(c.Who, true)
		}
		for _, c := range []Claim{first, second} {
			look := l.Look(c.Who)
			l.Undecided(c.Who, c.ID, Away)
			look()
		}
		if got := l.Woken(); len(got) > 0 {
			t.Fatalf("%v are woken, and can do nothing", got)
		}
		for _, c := range []Claim{first, second} {
			if changed {
				objects.add(c, 2)
			}
			objects.away(c.Who, false)
		}
		asks(t, l, second, false)
		asks(t, l, first, false)
	}
}

// census tells what has changed, and counts how often objects are looked up.
type census struct {
	cached
	before cached
	times  int
}

func (c *census) Standing(w Who) (Standing, bool) {
	c.times++
	return c.cached.Standing(w)
}

func (c *census) Changed() (list []Who, everybody bool) {
	for _, objects := range []cached{c.cached, c.before} {
		for w := range objects {
			if c.cached[w] != c.before[w] {
				list = append(list, w)
			}
		}
	}
	c.before = maps.Clone(c.cached)
	return list, false
}

// TestOutageOfMany: that a hypervisor does not answer is worked out for those in line and
// those that are coming, and not again for each one that runs on it, however often they
// are looked at.
func TestOutageOfMany(t *testing.T) {
	l, objects, first, second := twoInLine(t)
	asked := &census{cached: objects}
	l.objects = asked
	all := []Claim{first}
	for i := range 100 {
		runs := claim(fmt.Sprint("runs", i), 3+int64(i), Amount{}, Amount{})
		objects.add(runs, 1)
		l.Look(runs.Who)()
		all = append(all, runs)
	}
	coming := claim("coming", 0, Amount{}, Amount{gi, 1, gi, 1})
	objects.add(coming, 1)
	all = append(all, coming)
	for _, c := range all {
		objects.away(c.Who, true)
	}
	asked.times = 0
	for range 2 {
		for _, c := range all {
			look := l.Look(c.Who)
			l.Undecided(c.Who, c.ID, Away)
			look()
		}
	}
	if got := l.Woken(); !slices.Equal(got, []Who{second.Who}) {
		t.Errorf("%v are woken, want the second one", got)
	}
	if most := 10 * len(all); asked.times > most { // a few times each
		t.Errorf("objects were looked up %d times, want no more than %d", asked.times, most)
	}
	for _, c := range all {
		objects.away(c.Who, false)
	}
	l.Keep(second.Who, second.ID, Amount{}) // it leaves; what is free again is for the one that was coming
	asks(t, l, first, false)
	asks(t, l, coming, true)
}

// TestNotAwayAnyMore: who fails time and again with words of an outage, while its
// hypervisor answers, gives its place up as any other.
func TestNotAwayAnyMore(t *testing.T) {
	for _, waits := range []bool{true, false} { // in line, or changed and not looked at since
		l, objects, first, second := twoInLine(t)
		if !waits {
			objects.add(first, 2)
		}
		for _, want := range [][]Who{nil, {second.Who}} {
			look := l.Look(first.Who)
			l.Undecided(first.Who, first.ID, Away)
			look()
			if got := l.Woken(); !slices.Equal(got, want) {
				t.Fatalf("in line %v: %v are woken, want %v", waits, got, want)
			}
		}
	}
}

// TestFailingSinceTheStart: nobody is admitted before all there was could be looked at,
// except what fails for longer, and what went before anybody could look.
func TestFailingSinceTheStart(t *testing.T) {
	old, fresh := claim("old", 1, Amount{}, Amount{gi, 1, gi, 1}), claim("fresh", 2, Amount{}, Amount{gi, 1, gi, 1})
	for name, c := range map[string]struct {
		looks []Unknown
		gone  bool
		free  bool
	}{
		"written meanwhile":      {[]Unknown{Outdated}, false, false},
		"fails":                  {[]Unknown{Failing}, false, false},
		"fails, and fails again": {[]Unknown{Failing, Failing}, false, true},
		"gone":                   {nil, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			objects := cached{}
			l := New(Amount{2 * gi, 3, 3 * gi, 3}, objects)
			l.Restore(old.Who, old.ID, Amount{})
			if !c.gone {
				objects.add(old, 1)
			}
			objects.add(fresh, 1)
			for _, why := range c.looks {
				look := l.Look(old.Who)
				l.Undecided(old.Who, old.ID, why)
				look()
			}
			asks(t, l, fresh, c.free)
		})
	}
}

func TestUnknownFor(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "sandboxes"}, "s", errors.New("changed"))
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		want Unknown
	}{
		"conflict":        {t.Context(), fmt.Errorf("write: %w", conflict), Outdated},
		"daemon ends":     {ended, errors.New("cut off"), Outdated},
		"hypervisor away": {t.Context(), providers.Errorf(providers.ErrDown, "provider kvm", "gone"), Away},
		"busy":            {t.Context(), providers.Errorf(providers.ErrBusy, "machine", "locked"), Failing},
		"anything else":   {t.Context(), errors.New("no idea"), Failing},
	} {
		if got := UnknownFor(c.ctx, c.err); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}
