package crash_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/store"
)

// neighbour is one of two daemons on a simulated host, each with a store of its own.
type neighbour struct {
	*life
	sim *simulated
}

// belongings describes all that a daemon has on the host, in detail.
func (n *neighbour) belongings(t *testing.T) []string {
	t.Helper()
	p := fake.New(n.sim.world, v1.ProviderKVM, n.sim.instance)
	all, err := p.ListResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range all {
		lines = append(lines, fmt.Sprintf("%+v", r))
		if m, err := p.GetMachine(t.Context(), r.Owners[0]); err == nil {
			b, _ := json.Marshal(m)
			lines = append(lines, string(b))
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// TestNeighbours: two daemons with two stores on one host, whose objects have the
// same names, leave each other's things alone while both collect garbage, one of them
// works and dies, and its successor goes on.
func TestNeighbours(t *testing.T) {
	first, err := simulate(t.TempDir())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	second, err := simulate(t.TempDir())
	must(err)
	second.world = first.world
	first.before, second.before = []string{}, []string{} // no other neighbours are met
	var both []*neighbour
	for _, h := range []*simulated{first, second} {
		l := &life{host: h, journal: newJournal(), death: newDeath(point{}), lag: 2 * time.Millisecond}
		// Without the hook of a death, which the world has one of.
		shared := h.land
		shared.shared = func(s store.Store) store.Store { return &mortal{s, l.death, l.journal} }
		l.plane, err = shared.start(l.death)
		must(err)
		n := &neighbour{life: l, sim: h}
		both = append(both, n)
		t.Cleanup(func() { _ = n.plane.end() })
		for _, d := range []deed{
			{create(goldenImage("golden")), isReady("golden")},
			{create(sandbox("box", natted(8080))), marked("box", "kept")},
			{create(newSnapshot("snap", "box", true)), all(isReady("snap"), isReady("box"))},
		} {
			must(l.do(t.Context(), d))
		}
	}
	quiet, busy := both[0], both[1]
	if quiet.sim.instance == busy.sim.instance {
		t.Fatal("the two have one instance ID")
	}
	var before []string
	must(quiet.eventually(t.Context(), func(stage) error {
		was := before
		if before = quiet.belongings(t); !slices.Equal(was, before) {
			return fmt.Errorf("not at rest: %q", before)
		}
		return nil
	}))
	for round := range 3 {
		for _, d := range []deed{
			{create(sandbox("other", natted(8080))), isReady("other")},
			{remove(newSnapshot("snap", "box", true)), gone(newSnapshot("snap", "box", true))},
			{remove(sandbox("box")), gone(sandbox("box"))},
			{remove(sandbox("other")), gone(sandbox("other"))},
		} {
			must(busy.do(t.Context(), d))
		}
		// What it leaves when it dies in between is garbage of its own.
		must(busy.sim.world.AddForeign(planted, string(busy.sim.instance)))
		must(busy.plane.end())
		busy.death = newDeath(point{})
		busy.plane, err = func() (*plane, error) {
			l := busy.sim.land
			l.shared = func(s store.Store) store.Store { return &mortal{s, busy.death, busy.journal} }
			return l.start(busy.death)
		}()
		must(err)
		must(busy.eventually(t.Context(), func(stage) error {
			if left := strings.Join(busy.sim.world.Inventory(), "\n"); strings.Contains(left, string(planted)) {
				return fmt.Errorf("its own garbage is not collected: %s", left)
			}
			return nil
		}))
		if now := quiet.belongings(t); !slices.Equal(now, before) {
			t.Errorf("round %d: of the other daemon there was\n%q\nthere is\n%q", round, before, now)
		}
		must(busy.do(t.Context(), deed{create(sandbox("box", natted(8080))), isReady("box")}))
		must(busy.do(t.Context(), deed{create(newSnapshot("snap", "box", false)), all(isReady("snap"), isReady("box"))}))
	}
	if got, err := quiet.sim.read(t.Context(), ownUID(t, quiet), markPath); err != nil || got != "kept" {
		t.Errorf("the disk of the other daemon's sandbox has %q, %v", got, err)
	}
}

func ownUID(t *testing.T, n *neighbour) (id types.UID) {
	t.Helper()
	box, err := stage{t.Context(), n.plane.client, n.sim}.sandbox("box")
	if err != nil {
		t.Fatal(err)
	}
	return box.UID
}
