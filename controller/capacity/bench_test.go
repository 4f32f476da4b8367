package capacity

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// planner is what is measured: the Ledger, and the one that goes through everybody.
type planner interface {
	Keep(Who, types.UID, Amount)
	Look(Who) func()
	Read(Who, Key)
	Ask(Claim) Verdict
	Release(types.UID)
	Woken() []Who
	Restated() []Who
}

var planners = map[string]func(Amount, Objects) planner{
	"ledger": func(b Amount, o Objects) planner { return New(b, o) },
	"naive":  func(b Amount, o Objects) planner { return newNaive(b, o) },
}

// full is a host that somebody has all of, and n who want a part of it.
func full(n int) (*world, Amount, []Claim) {
	w := &world{objects: map[Who]*object{}}
	claims := make([]Claim, n)
	for i := range claims {
		c := claim(fmt.Sprint("s", i), int64(i), Amount{}, Amount{gi, 1, gi, 1})
		w.objects[c.Who] = &object{Standing: Standing{Place: c.Place, Key: Key{Generation: 1}, Want: c.Want}}
		w.changed = append(w.changed, c.Who)
		claims[i] = c
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { claims[i], claims[j] = claims[j], claims[i] })
	return w, Amount{4 * gi, 4, 1000 * gi, Unlimited}, claims
}

// start has everybody looked at, as after the start of a daemon.
func start(p planner, budget Amount, claims []Claim) {
	for i := range budget[CPUs] {
		p.Keep(Who{"team", fmt.Sprint("runs", i)}, types.UID(fmt.Sprint("runs", i)), Amount{gi, 1, gi, 1})
	}
	for _, c := range claims {
		done := p.Look(c.Who)
		p.Read(c.Who, Key{Generation: 1})
		p.Ask(c)
		done()
	}
	p.Restated()
}

// floor is the time that nobody can do without: each claim is noted, put in order, and
// told something, once.
func floor(b *testing.B, claims []Claim) time.Duration {
	b.Helper()
	began := time.Now()
	noted := map[types.UID]Claim{}
	list := make([]Claim, 0, len(claims))
	for _, c := range claims {
		noted[c.ID] = c
		list = append(list, c)
	}
	told := 0
	for i, c := range sorted(list) {
		told += len(fmt.Sprintf("needs %s, and waits behind %s, which needs %s", c.Want, list[max(i-1, 0)].Who, c.Want))
	}
	took := time.Since(began)
	if told == 0 {
		b.Fatal("nobody is told anything")
	}
	return took
}

// BenchmarkLine is the start with so many that do not fit, and then the release of what one
// has of which the next one gets its place, in milliseconds; and the start as a multiple of
// the least that it can take.
func BenchmarkLine(b *testing.B) {
	for _, name := range []string{"ledger", "naive"} {
		for _, n := range []int{100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				if name == "naive" && n > 100 && testing.Short() {
					b.Skip("takes minutes")
				}
				var starts, releases, least []time.Duration // others use the machine too: the best counts
				for b.Loop() {
					w, budget, claims := full(n)
					least = append(least, floor(b, claims))
					p := planners[name](budget, w)
					began := time.Now()
					start(p, budget, claims)
					starts = append(starts, time.Since(began))
					began = time.Now()
					p.Release("runs0")
					releases = append(releases, time.Since(began))
					if got := p.Woken(); len(got) != 1 || got[0].Name != "s0" {
						b.Fatalf("%v are woken, want the first one", got)
					}
				}
				milliseconds := func(d []time.Duration) float64 { return float64(slices.Min(d).Nanoseconds()) / 1e6 }
				b.ReportMetric(milliseconds(starts), "start-ms")
				b.ReportMetric(milliseconds(releases), "release-ms")
				b.ReportMetric(milliseconds(starts)/milliseconds(least), "of-floor")
			})
		}
	}
}
