package controller

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/intercept"
)

const (
	// announceAfter is how long a hypervisor may be away, as when it is restarted,
	// before all its objects are told of it.
	announceAfter = 3 * time.Second
	// A hypervisor that is away is asked for a sign of life after the first of these
	// times, and ever more rarely, up to the second.
	firstProbe, lastProbe = time.Second, 5 * time.Second
	// probeLimit bounds one such question.
	probeLimit = time.Minute
)

// outages makes one outage of it when a hypervisor does not answer, instead of one
// failure of each of its objects:
//
//	call ──▶ ErrDown ──▶ gate closed: calls fail at once, all with the same words
//	                        │  one probe after 1 s, 2 s, 4 s, 5 s …
//	                        │  after 3 s: all objects are looked at once, and say so
//	                        ▼
//	         a probe answers, or the provider's EventResync
//	                        ▼
//	         gate open: all objects are looked at, with no backoff left
//
// In between its objects wait. They are looked at again after the resync only, which
// tries nothing and logs nothing as long as the gate is closed.
type outages struct {
	ctx    context.Context
	clock  clock.PassiveClock
	log    logr.Logger
	wake   func(context.Context, v1.ProviderName, why) // everything of a provider
	resync time.Duration
	probes sync.WaitGroup
	// gates do not change once guard has returned.
	gates map[v1.ProviderName]*gate
}

// gate stands before one provider.
type gate struct {
	providers.Provider
	outages *outages

	mu sync.Mutex
	// down is what every call fails with; nil while the gate is open.
	down  *providers.Error
	since time.Time
	// over is closed at the end of the outage.
	over chan struct{}
}

// guard puts gates before all providers of a set.
func (o *outages) guard(set *providers.Set) *providers.Set {
	var all []providers.Provider
	for _, p := range set.All() {
		g := &gate{Provider: p, outages: o}
		o.gates[p.Name()] = g
		all = append(all, &gated{intercept.Wrap(p, g.hook), g})
	}
	return providers.NewSet(set.Resolve(""), all...)
}

// Down tells which providers do not answer, and since when.
func (c *Controllers) Down() map[v1.ProviderName]time.Time {
	down := map[v1.ProviderName]time.Time{}
	for name, g := range c.outages.gates {
		g.mu.Lock()
		down[name] = time.Time{}
		if g.down != nil {
			down[name] = g.since
		}
		g.mu.Unlock()
	}
	return down
}

// down tells whether a provider does not answer.
func (o *outages) down(name v1.ProviderName) bool {
	g := o.gates[name]
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.down != nil
}

// hook is the gate's place around each call.
func (g *gate) hook(_ context.Context, at intercept.Point) error {
	switch {
	case at.When == intercept.Before:
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.down != nil {
			return g.down
		}
		return nil
	case errors.Is(at.Err, providers.ErrDown):
		return g.lost(at.Err)
	default:
		return nil
	}
}

// lost closes the gate, if it is open, and returns what is said of the outage.
func (g *gate) lost(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down != nil {
		return g.down
	}
	o := g.outages
	over := make(chan struct{})
	g.since, g.over = o.clock.Now(), over
	g.down = providers.Errorf(providers.ErrDown, "provider "+string(g.Name()), "it has not answered since %s: %w",
		g.since.UTC().Format(time.RFC3339), err)
	o.log.Info("provider does not answer: its objects wait until it does", "provider", g.Name(), "error", err.Error())
	o.probes.Go(func() { g.probe(over) })
	return g.down
}

// probe asks for signs of life until there is one, or the outage is over.
func (g *gate) probe(over <-chan struct{}) {
	o := g.outages
	ctx, cancel := context.WithCancel(o.ctx)
	defer cancel()
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstProbe), backoff.WithMaxInterval(lastProbe),
		backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
	next, announce := time.NewTimer(pause.NextBackOff()), time.NewTimer(announceAfter)
	defer next.Stop()
	defer announce.Stop()
	answers := make(chan error, 1)
	asking, due := false, false
	ask := func() {
		asking = true
		o.probes.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeLimit)
			defer cancel()
			_, err := g.Probe(ctx)
			answers <- err
		})
	}
	for {
		select {
		case <-over:
			return
		case <-ctx.Done():
			return
		case <-announce.C:
			if due = true; !asking {
				ask() // it may be back by now
				continue
			}
			o.wake(ctx, g.Name(), happened)
			due = false
		case <-next.C:
			if !asking {
				ask()
			}
		case err := <-answers:
			if err == nil && g.back() {
				o.wake(o.ctx, g.Name(), anew)
				return
			}
			if due {
				o.wake(ctx, g.Name(), happened)
				due = false
			}
			asking = false
			next.Reset(pause.NextBackOff())
		}
	}
}

// back opens the gate, and tells whether it was closed.
func (g *gate) back() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down == nil {
		return false
	}
	g.outages.log.Info("provider answers again", "provider", g.Name(), "after", g.outages.clock.Now().Sub(g.since).Round(time.Second).String())
	g.down = nil
	close(g.over)
	return true
}

// gated is a provider behind its gate.
type gated struct {
	providers.Provider
	gate *gate
}

// Events opens the gate when the provider answers again, before anybody is told.
func (g *gated) Events(ctx context.Context) <-chan providers.Event {
	out := make(chan providers.Event)
	go func() {
		defer close(out)
		for e := range g.gate.Events(ctx) {
			if e.Type == providers.EventResync {
				g.gate.back()
			}
			select {
			case out <- e:
			case <-ctx.Done(): // the provider closes its channel
			}
		}
	}()
	return out
}

// waiting makes a wait of it when a reconciliation failed because its provider does
// not answer: whoever notices that it does wakes everything of it. What a job says of
// an outage that is over is a failure as any other: nobody is going to be woken.
func (o *outages) waiting(r reconcile.Reconciler) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		result, err := r.Reconcile(ctx, req)
		if errors.Is(err, providers.ErrDown) && o.lasts(err) {
			return reconcile.Result{RequeueAfter: o.resync/2 + rand.N(o.resync/2+1)}, nil
		}
		return result, err
	})
}

// lasts tells whether an error speaks of an outage that is not over.
func (o *outages) lasts(err error) bool {
	for _, g := range o.gates {
		g.mu.Lock()
		down := g.down
		g.mu.Unlock()
		if down != nil && errors.Is(err, down) { // that very one, and none before it
			return true
		}
	}
	return false
}
