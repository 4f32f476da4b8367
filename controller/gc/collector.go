package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/census"
	"sandboxd.dev/sandboxd/providers"
)

// Options of a Collector.
type Options struct {
	// Objects are read from the API server itself, not from a cache: an object
	// that a stale cache does not have yet would lose its machine.
	Objects   *census.Reader
	Providers *providers.Set
	// Places are swept besides the providers.
	Places []Place
	// Verify tells, given the resource versions of the lists of objects in their order,
	// why they cannot be relied on; nothing is decided then. A nil Verify relies on
	// them.
	Verify func(ctx context.Context, revisions ...string) error
	// Interval between sweeps.
	Interval time.Duration
	// Grace is how long a thing must have been without an object.
	Grace  time.Duration
	Logger logr.Logger
	// Clock tells the time and ticks; nil means the real one.
	Clock clock.WithTicker
}

// Place is where things of objects lie. Every provider is one.
type Place interface {
	// Name of it, unlike those of all others.
	Name() v1.ProviderName
	providers.Inventory
}

// Collector sweeps regularly. Its methods may be called concurrently; sweeps wait
// for each other.
type Collector struct {
	o        Options
	mu       sync.Mutex
	seen     Sightings
	reported map[Subject]bool
	counts   atomic.Pointer[map[Count]int]
}

// Count is a class of things that the last sweep decided about.
type Count struct {
	Provider v1.ProviderName
	Kind     providers.ResourceKind
	Verdict  Verdict
}

// New makes a Collector.
func New(o Options) *Collector {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Collector{o: o, seen: Sightings{}, reported: map[Subject]bool{}}
}

// Start sweeps until the context ends.
func (c *Collector) Start(ctx context.Context) error {
	ticker := c.o.Clock.NewTicker(c.o.Interval)
	defer ticker.Stop()
	for {
		if _, err := c.Sweep(ctx); err != nil && ctx.Err() == nil {
			c.o.Logger.Error(err, "garbage collection did not finish; it is tried again at the next sweep")
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return nil
		}
	}
}

// Sweep takes one inventory, removes what is due and returns the decisions. An
// error of one provider or thing does not keep it from the others.
func (c *Collector) Sweep(ctx context.Context) ([]Decision, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	decisions, seen, errs := c.plan(ctx)
	if seen == nil {
		return nil, errors.Join(errs...)
	}
	c.seen = seen
	c.count(decisions)
	for _, d := range decisions {
		if err := c.carryOut(ctx, d); err != nil {
			errs = append(errs, err)
		}
	}
	return decisions, errors.Join(errs...)
}

// Preview takes one inventory and returns what the next sweep would decide if it
// began now. It changes and remembers nothing. With an error, the decisions are
// those about what could be listed.
func (c *Collector) Preview(ctx context.Context) ([]Decision, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	decisions, _, errs := c.plan(ctx)
	return decisions, errors.Join(errs...)
}

// Grace is how long a thing must have been without an object.
func (c *Collector) Grace() time.Duration { return c.o.Grace }

// Counts tells how many things of each class the last sweep found.
func (c *Collector) Counts() map[Count]int {
	if counts := c.counts.Load(); counts != nil {
		return *counts
	}
	return nil
}

func (c *Collector) count(decisions []Decision) {
	counts := map[Count]int{}
	for _, d := range decisions {
		counts[Count{d.Item.Provider, d.Item.Resource.Kind, d.Verdict}]++
	}
	c.counts.Store(&counts)
}

// plan decides about everything that there is. No sightings are returned when
// nothing could be decided.
func (c *Collector) plan(ctx context.Context) ([]Decision, Sightings, []error) {
	inventory, unlisted, errs := c.inventory(ctx)
	live, err := c.liveObjects(ctx)
	if err != nil {
		return nil, nil, append(errs, err)
	}
	decisions, seen := Plan(inventory, live, c.seen, c.o.Clock.Now(), c.o.Grace)
	for subject, since := range c.seen {
		if slices.Contains(unlisted, subject.Provider) {
			seen[subject] = since // not looked at this time: neither seen nor gone
		}
	}
	return decisions, seen, errs
}

// places are the providers and what there is besides.
func (c *Collector) places() (all []Place) {
	for _, p := range c.o.Providers.All() {
		all = append(all, p)
	}
	return append(all, c.o.Places...)
}

// place finds the one that has listed something.
func (c *Collector) place(name v1.ProviderName) (Place, error) {
	for _, p := range c.o.Places {
		if p.Name() == name {
			return p, nil
		}
	}
	return c.o.Providers.Get(name)
}

// inventory lists what all places have, and names those that did not answer.
func (c *Collector) inventory(ctx context.Context) (items []Item, unlisted []v1.ProviderName, errs []error) {
	for _, p := range c.places() {
		resources, err := p.ListResources(ctx)
		if err != nil {
			unlisted = append(unlisted, p.Name())
			errs = append(errs, fmt.Errorf("inventory of %s: %w", p.Name(), err))
			continue
		}
		for _, r := range resources {
			items = append(items, Item{Provider: p.Name(), Resource: r})
		}
	}
	return items, unlisted, errs
}

// identity is what is read of an object.
type identity struct {
	Metadata struct {
		UID types.UID `json:"uid"`
	} `json:"metadata"`
}

// liveObjects lists the UIDs of all objects that things may belong to. Only
// their metadata is asked for.
func (c *Collector) liveObjects(ctx context.Context) (map[types.UID]bool, error) {
	live := make(map[types.UID]bool)
	var revisions []string
	for _, resource := range []string{"sandboxes", "goldenimages", "sandboxsnapshots"} {
		revision, err := census.EachMetadata(ctx, c.o.Objects, resource, func(o *identity) { live[o.Metadata.UID] = true })
		if err != nil {
			return nil, err
		}
		revisions = append(revisions, revision)
	}
	if c.o.Verify != nil {
		if err := c.o.Verify(ctx, revisions...); err != nil {
			return nil, err
		}
	}
	return live, nil
}

func (c *Collector) carryOut(ctx context.Context, d Decision) error {
	subject := d.Item.Subject()
	log := c.o.Logger.WithValues("provider", subject.Provider, "kind", subject.Kind,
		"resource", d.Item.Resource.Description)
	switch d.Verdict {
	case Report:
		if !c.reported[subject] {
			c.reported[subject] = true
			log.Info("left alone: it is not surely of this daemon")
		}
		return nil
	case Remove:
		p, err := c.place(subject.Provider)
		if err != nil {
			return err
		}
		err = p.RemoveResource(ctx, d.Item.Resource)
		switch {
		case err == nil:
			log.Info("collected: its object is gone", "since", d.Since)
		case errors.Is(err, providers.ErrNotFound):
		case errors.Is(err, providers.ErrBusy):
			log.V(1).Info("still in use; tried again at the next sweep")
		default:
			return fmt.Errorf("collect %s %s: %w", subject.Kind, d.Item.Resource.Description, err)
		}
		return nil
	default:
		return nil
	}
}
