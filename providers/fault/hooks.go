package fault

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"sandboxd.dev/sandboxd/providers"
)

// Death ends a caller at one of its points, as kill -9 would: from there on no
// call of it returns before its context has ended, and none reaches the
// provider. A test counts the points of an undisturbed run and then dies at
// each of them:
//
//	count := fault.NewDeath(0)
//	run(fault.Wrap(p, count.Hook))
//	for n := int64(1); n <= count.Points(); n++ {
//		death := fault.NewDeath(n)
//		go run(ctx, fault.Wrap(p, death.Hook))
//		<-death.Died() // or the end of the run, if it has fewer points this time
//		cancel()
//		run(p) // a new process
//	}
type Death struct {
	at     int64
	points atomic.Int64
	once   sync.Once
	died   chan struct{}
}

// NewDeath dies at the n-th point, counted from 1; never if n is 0.
func NewDeath(n int64) *Death { return &Death{at: n, died: make(chan struct{})} }

// Points is the number of points that were passed or died at.
func (d *Death) Points() int64 { return d.points.Load() }

// Died is closed at the death.
func (d *Death) Died() <-chan struct{} { return d.died }

// Hook is the Hook of this death.
func (d *Death) Hook(ctx context.Context, _ Point) error {
	n := d.points.Add(1)
	if d.at == 0 || n < d.at {
		return nil
	}
	d.once.Do(func() { close(d.died) })
	<-ctx.Done()
	return ctx.Err()
}

// Flaky returns a hook that fails one point in every n on average: before a
// call, or after it, when nothing is known of the outcome. kinds are the kinds
// of errors that it chooses from. The same seed fails the same points of a
// caller that makes one call at a time.
func Flaky(seed uint64, n int, kinds ...error) Hook {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	return func(_ context.Context, at Point) error {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(n) != 0 {
			return nil
		}
		kind := kinds[random.IntN(len(kinds))]
		return providers.Errorf(kind, at.Verb+" "+at.ID, "a fault was injected %s the call", at.When)
	}
}
