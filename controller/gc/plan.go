package gc

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Subject is a resource of one provider, or of another place.
type Subject struct {
	Provider v1.ProviderName
	Kind     providers.ResourceKind
	ID       string
}

// Item is a resource together with the provider, or other place, that listed it.
type Item struct {
	Provider v1.ProviderName
	Resource providers.Resource
}

// Subject of the item.
func (i Item) Subject() Subject {
	return Subject{Provider: i.Provider, Kind: i.Resource.Kind, ID: i.Resource.ID}
}

// Verdict says what is to be done with an item.
type Verdict string

// The verdicts.
const (
	// Keep: an object that it belongs to exists.
	Keep Verdict = "Keep"
	// Suspect: no object, but not for long enough.
	Suspect Verdict = "Suspect"
	// Remove: no object for the whole grace period.
	Remove Verdict = "Remove"
	// Report: not surely ours; left alone.
	Report Verdict = "Report"
)

// Decision is what to do with one item, and why.
type Decision struct {
	Item    Item
	Verdict Verdict
	// Since is when it was first seen without an object; zero for Keep and
	// Report.
	Since time.Time
}

// Reason says why, in words for people.
func (d Decision) Reason(now time.Time, grace time.Duration) string {
	owners := d.Item.Resource.Owners
	without := "nothing refers to it"
	switch {
	case len(owners) == 1:
		without = fmt.Sprintf("its object %s is gone", owners[0])
	case len(owners) > 1:
		without = fmt.Sprintf("its %d objects are gone", len(owners))
	}
	switch d.Verdict {
	case Keep:
		return "an object that it belongs to exists"
	case Report:
		return "it is not surely of this daemon, and never touched: remove it by hand if nobody needs it"
	case Remove:
		return fmt.Sprintf("%s, seen so for %v", without, now.Sub(d.Since).Round(time.Second))
	default:
		left := max(grace-now.Sub(d.Since), 0).Round(time.Second)
		return fmt.Sprintf("%s: removed if that is still so in %v", without, left)
	}
}

// Sightings remembers since when things have been seen without an object.
type Sightings map[Subject]time.Time

// Plan decides about every item of an inventory that was taken before the live
// objects were listed. It returns the decisions in the inventory's order and
// the sightings for the next plan; its arguments are left alone. A thing is
// removed at its second sighting at the earliest, and not before it has been
// without an object for the grace period.
func Plan(inventory []Item, live map[types.UID]bool, seen Sightings, now time.Time, grace time.Duration) ([]Decision, Sightings) {
	decisions := make([]Decision, 0, len(inventory))
	next := make(Sightings)
	for _, item := range inventory {
		d := decide(item, live, seen, now, grace)
		if !d.Since.IsZero() {
			next[item.Subject()] = d.Since
		}
		decisions = append(decisions, d)
	}
	return decisions, next
}

func decide(item Item, live map[types.UID]bool, seen Sightings, now time.Time, grace time.Duration) Decision {
	for _, owner := range item.Resource.Owners {
		if live[owner] {
			return Decision{Item: item, Verdict: Keep}
		}
	}
	if item.Resource.Ownership != providers.Ours {
		return Decision{Item: item, Verdict: Report}
	}
	since, before := seen[item.Subject()]
	if !before {
		return Decision{Item: item, Verdict: Suspect, Since: now}
	}
	if now.Sub(since) < grace {
		return Decision{Item: item, Verdict: Suspect, Since: since}
	}
	return Decision{Item: item, Verdict: Remove, Since: since}
}
