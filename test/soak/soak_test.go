package soak

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// plan is how long a soak is and what it must have seen.
type plan struct {
	seed      uint64
	simulated time.Duration
	// crowd is about how many sandboxes there are at a time; one comes every birth.
	crowd           int
	birth           time.Duration
	operate, strike time.Duration
	audits          int
	// sandboxes and faults that there are at least.
	sandboxes, faults int
}

// Errors that Kubernetes' informers report are logged, but pause nobody: how long, they
// tell by the clock of the last one in the process, which may have been seen on another
// clock than a bubble's, years away.
func init() { utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1] }

// TestSoak is a short form, which lives through the same plan each time: what chance finds
// is for the long one. With SOAK_SIMULATED set to a time, such as 168h, it is as long as
// that, by a plan of its own, on two hosts at the same time: time advances in one bubble
// when all of it waits, so that one host does not keep two processors busy. SOAK_SEED
// repeats a plan.
func TestSoak(t *testing.T) {
	long, first := os.Getenv("SOAK_SIMULATED"), uint64(53) // its hour has storms, an outage and a restart of the daemon
	if long != "" {
		first = uint64(wallTime().UnixNano())
	}
	p := plan{
		seed: seed(t, first), simulated: 6 * time.Hour, crowd: 40, birth: time.Minute,
		operate: 2 * time.Minute, strike: 5 * time.Minute, audits: 1, sandboxes: 250, faults: 100,
	}
	if raced {
		p.simulated, p.sandboxes, p.faults = time.Hour, 30, 5
	}
	if long != "" {
		d, err := time.ParseDuration(long)
		must(t, err)
		days := max(1, int(d/(24*time.Hour)))
		p = plan{
			seed: p.seed, simulated: d, crowd: 30, birth: 108 * time.Second,
			operate: 6 * time.Minute, strike: 24 * time.Minute, audits: days, sandboxes: 5000 * days / 7, faults: 75 * days,
		}
		debug.SetGCPercent(400) // there is memory, and little time
		other := p
		other.seed++
		t.Run("other", func(t *testing.T) { t.Parallel(); run(t, other) })
		t.Run("one", func(t *testing.T) { t.Parallel(); run(t, p) })
		return
	}
	run(t, p)
}

func run(t *testing.T, p plan) {
	began := wallTime()
	synctest.Test(t, func(t *testing.T) { soak(t, p, began) })
}

// seed of a plan, which SOAK_SEED says, or else is s.
func seed(t *testing.T, s uint64) uint64 {
	if set := os.Getenv("SOAK_SEED"); set != "" {
		var err error
		s, err = strconv.ParseUint(set, 10, 64)
		must(t, err)
	}
	fmt.Printf("soak: SOAK_SEED=%d plans the same again\n", s)
	return s
}

// soak lives through a plan.
func soak(t *testing.T, p plan, began time.Time) {
	h := newHost(t, p.seed)
	u := newUsers(h, p.seed, p.crowd)
	c := newChaos(u, p.seed)
	s := &summary{plan: p, u: u, c: c, began: time.Now(), wall: began}
	h.start()
	defer func() { h.end() }()
	u.image("golden", disk("golden.qcow2"))
	for n := range p.audits {
		s.liveUntil(time.Duration(n+1) * p.simulated / time.Duration(p.audits))
		u.heal()
		c.calm()
		time.Sleep(bound)
		report(u, fmt.Sprintf("after %v", time.Since(s.began).Round(time.Minute)), auditOf(u))
		s.look()
		if t.Failed() {
			break
		}
	}
	u.leave()
	time.Sleep(bound)
	s.end()
}

// liveUntil lets users and chaos go about until some time after the beginning.
func (s *summary) liveUntil(end time.Duration) {
	random := rand.New(rand.NewPCG(s.plan.seed, uint64(end)))
	next := func(mean time.Duration) time.Time {
		return time.Now().Add(time.Duration(random.ExpFloat64() * float64(mean)))
	}
	birth, operate, strike := next(s.plan.birth), next(s.plan.operate), next(s.plan.strike)
	for time.Since(s.began) < end {
		at := slices.MinFunc([]time.Time{birth, operate, strike}, time.Time.Compare)
		time.Sleep(time.Until(at))
		switch {
		case at.Equal(birth):
			s.u.create()
			birth = next(s.plan.birth)
		case at.Equal(operate):
			s.u.operate()
			operate = next(s.plan.operate)
		default:
			s.c.strike()
			strike = next(s.plan.strike)
		}
		s.c.tick()
	}
}

// heal changes the specs of sandboxes that stall because of a terminal error that was
// not true: nothing else makes them tried again.
func (u *users) heal() {
	for _, key := range u.sandboxes {
		if !u.weather.lied(u.uids[key.Name]) {
			continue
		}
		sbx := &v1.Sandbox{}
		if err := u.client.Get(context.Background(), key, sbx); err != nil {
			continue
		}
		before := sbx.DeepCopy()
		sbx.Spec.CPUs = sbx.Spec.CPUs%4 + 1
		u.try("heal", u.client.Patch(context.Background(), sbx, client.MergeFrom(before)))
	}
}

// leave deletes everything.
func (u *users) leave() {
	ctx := context.Background()
	must(u.t, u.client.DeleteAllOf(ctx, &v1.SandboxSnapshot{}, client.InNamespace("default")))
	must(u.t, u.client.DeleteAllOf(ctx, &v1.Sandbox{}, client.InNamespace("default")))
	must(u.t, u.client.DeleteAllOf(ctx, &v1.GoldenImage{}))
	u.sandboxes, u.snapshots, u.images, u.uids = nil, nil, nil, map[string]types.UID{}
}

// summary is what a soak has seen.
type summary struct {
	plan        plan
	u           *users
	c           *chaos
	began, wall time.Time
	store       int64
	crowd       int
}

// look notes what there is now.
func (s *summary) look() {
	var list v1.SandboxList
	must(s.u.t, s.u.client.List(context.Background(), &list))
	s.crowd = max(s.crowd, len(list.Items))
	s.store = max(s.store, s.u.storeSize())
}

// end demands that nothing is left, and prints the summary.
func (s *summary) end() {
	t, h := s.u.t, s.u.host
	report(s.u, "at the end", auditOf(s.u))
	var left []string
	for _, line := range h.world.Inventory() {
		if !strings.Contains(line, "somebody else") {
			left = append(left, line)
		}
	}
	if len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
	for _, list := range []client.ObjectList{&v1.SandboxList{}, &v1.SandboxSnapshotList{}, &v1.GoldenImageList{}} {
		must(t, h.client.List(context.Background(), list))
		if n := lengthOf(list); n > 0 {
			t.Errorf("%d objects are left: %T", n, list)
		}
	}
	if got := len(h.world.Inventory()) - len(left); got != len(s.c.foreign) {
		t.Errorf("%d machines of others are left of %d", got, len(s.c.foreign))
	}
	if n := h.weather.total(); n < s.plan.faults || s.u.made < s.plan.sandboxes {
		t.Errorf("only %d faults and %d sandboxes", n, s.u.made)
	}
	s.print()
}

func lengthOf(list client.ObjectList) int {
	switch list := list.(type) {
	case *v1.SandboxList:
		return len(list.Items)
	case *v1.SandboxSnapshotList:
		return len(list.Items)
	case *v1.GoldenImageList:
		return len(list.Items)
	}
	return 0
}

func (s *summary) print() {
	w := s.u.weather
	row := func(what string, value any) { fmt.Printf("soak: %-28s %v\n", what, value) }
	row("seed", s.plan.seed)
	row("simulated time", time.Since(s.began).Round(time.Minute))
	row("real time", wallTime().Sub(s.wall).Round(100*time.Millisecond))
	row("sandboxes made and deleted", s.u.made)
	row("most at an audit", s.crowd)
	row("provider calls", w.calls)
	row("failed calls, worst minute", fmt.Sprintf("%d of at most %d, about one thing", w.worst, worstMinute))
	row("largest store", fmt.Sprintf("%d KiB", s.store>>10))
	row("daemon restarts", s.c.restarts)
	row("faults", w.total())
	for _, table := range []map[string]int{w.faults, s.u.operation} {
		fmt.Println("soak: --")
		for _, k := range slices.SortedFunc(maps.Keys(table), func(a, b string) int { return cmp.Compare(table[b], table[a]) }) {
			row("  "+k, table[k])
		}
	}
}
