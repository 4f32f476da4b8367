package gc_test

import (
	"maps"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/gc"
	"sandboxd.dev/sandboxd/providers"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func thing(id string, ownership providers.Ownership, owners ...types.UID) gc.Item {
	return gc.Item{Provider: v1.ProviderKVM, Resource: providers.Resource{
		Kind: providers.ResourceDisk, ID: id, Owners: owners, Ownership: ownership,
	}}
}

func TestPlan(t *testing.T) {
	live := map[types.UID]bool{"alive": true}
	long, short := gc.Sightings{}, gc.Sightings{}
	for _, id := range []string{"a"} {
		long[thing(id, "").Subject()] = t0.Add(-time.Hour)
		short[thing(id, "").Subject()] = t0.Add(-time.Second)
	}
	tests := []struct {
		name  string
		item  gc.Item
		seen  gc.Sightings
		want  gc.Verdict
		since time.Time
	}{
		{"its object lives", thing("a", providers.Ours, "alive"), long, gc.Keep, time.Time{}},
		{"one of its objects lives", thing("a", providers.Ours, "dead", "alive"), long, gc.Keep, time.Time{}},
		{"seen for the first time", thing("a", providers.Ours, "dead"), nil, gc.Suspect, t0},
		{"seen a second time, too soon", thing("a", providers.Ours, "dead"), short, gc.Suspect, t0.Add(-time.Second)},
		{"seen a second time, after the grace", thing("a", providers.Ours, "dead"), long, gc.Remove, t0.Add(-time.Hour)},
		{"nothing refers to it", thing("a", providers.Ours), long, gc.Remove, t0.Add(-time.Hour)},
		{"not surely ours", thing("a", providers.Ambiguous, "dead"), long, gc.Report, time.Time{}},
		{"not surely ours, no owner", thing("a", providers.Ambiguous), nil, gc.Report, time.Time{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, next := gc.Plan([]gc.Item{tt.item}, live, tt.seen, t0, time.Minute)
			if got[0].Verdict != tt.want || !got[0].Since.Equal(tt.since) {
				t.Errorf("got %s since %v, want %s since %v", got[0].Verdict, got[0].Since, tt.want, tt.since)
			}
			if since, ok := next[tt.item.Subject()]; ok != !tt.since.IsZero() || !since.Equal(tt.since) {
				t.Errorf("remembered %v (%v), want %v", since, ok, tt.since)
			}
		})
	}
}

// TestPlanNeverHastens plays random histories: things and their objects come
// and go between sweeps. Whatever is removed must have been ours and without a
// live owner at every sweep of at least the grace period, two at least.
func TestPlanNeverHastens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const grace = 10 * time.Second
		ids := []string{"a", "b", "c"}
		orphanSince := map[string]time.Time{} // as an independent observer sees it
		orphanSweeps := map[string]int{}
		seen := gc.Sightings{}
		now := t0
		for range rapid.IntRange(1, 30).Draw(t, "sweeps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 15).Draw(t, "pause")) * time.Second)
			live := map[types.UID]bool{}
			var inventory []gc.Item
			for _, id := range ids {
				exists := rapid.Float64Range(0, 1).Draw(t, "exists") < 0.9
				alive := rapid.Float64Range(0, 1).Draw(t, "alive") < 0.3
				live[types.UID(id)] = alive
				if exists {
					inventory = append(inventory, thing(id, providers.Ours, types.UID(id)))
				}
				if !exists || alive {
					delete(orphanSince, id)
					delete(orphanSweeps, id)
					continue
				}
				if _, ok := orphanSince[id]; !ok {
					orphanSince[id] = now
				}
				orphanSweeps[id]++
			}
			before := maps.Clone(seen)
			decisions, next := gc.Plan(inventory, live, seen, now, grace)
			if !maps.Equal(before, seen) {
				t.Fatal("Plan changed its argument")
			}
			for _, d := range decisions {
				id := d.Item.Resource.ID
				due := orphanSweeps[id] >= 2 && now.Sub(orphanSince[id]) >= grace
				if (d.Verdict == gc.Remove) != due {
					t.Fatalf("%s: %s, but orphan for %v in %d sweeps", id, d.Verdict, now.Sub(orphanSince[id]), orphanSweeps[id])
				}
			}
			seen = next
		}
	})
}
