// Package job runs long work outside of reconcilers.
//
// A reconciler must not wait. It asks a Runner for the job of a key again and
// again; the first call starts it, the others tell how it stands:
//
//	Ensure ──▶ Running ──▶ … ──▶ Done (result or error, kept until Forget)
//	                │
//	                └── Cancel: its context ends; gone once the work returned
//
// When a job ends the runner calls Notify with its key, so that the reconciler
// is run again.
package job

import (
	"context"
	"sync"

	"github.com/go-logr/logr"
)

// State of a job.
type State[P, R any] struct {
	// Done tells whether the work has returned; Result and Err are then set.
	Done bool
	// Progress as last reported.
	Progress P
	Result   R
	Err      error
}

// Func is the work. It must return soon after its context ends.
type Func[P, R any] func(ctx context.Context, report func(P)) (R, error)

// Runner runs at most one job per key and a bounded number at a time. It is
// safe for concurrent use.
type Runner[K comparable, P, R any] struct {
	ctx    context.Context
	notify func(K)
	slots  chan struct{}

	mu   sync.Mutex
	jobs map[K]*entry[P, R]
	wg   sync.WaitGroup
}

type entry[P, R any] struct {
	cancel context.CancelFunc
	state  State[P, R]
}

// NewRunner makes a Runner whose jobs end with ctx. At most parallel jobs run
// at a time; others wait their turn. notify is called, from the job's
// goroutine, after each job that was not cancelled has ended.
func NewRunner[K comparable, P, R any](ctx context.Context, parallel int, notify func(K)) *Runner[K, P, R] {
	return &Runner[K, P, R]{
		ctx:    ctx,
		notify: notify,
		slots:  make(chan struct{}, parallel),
		jobs:   make(map[K]*entry[P, R]),
	}
}

// Ensure starts the job of a key unless it runs or has ended already, and
// returns its state.
func (r *Runner[K, P, R]) Ensure(key K, work Func[P, R]) State[P, R] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.jobs[key]; ok {
		return e.state
	}
	ctx, cancel := context.WithCancel(r.ctx)
	e := &entry[P, R]{cancel: cancel}
	r.jobs[key] = e
	r.wg.Go(func() {
		defer cancel()
		r.run(ctx, key, e, work)
	})
	return e.state
}

func (r *Runner[K, P, R]) run(ctx context.Context, key K, e *entry[P, R], work Func[P, R]) {
	result, err := r.inSlot(ctx, func() (R, error) {
		return work(ctx, func(p P) {
			r.mu.Lock()
			defer r.mu.Unlock()
			e.state.Progress = p
		})
	})
	r.mu.Lock()
	if r.jobs[key] != e || ctx.Err() != nil {
		if r.jobs[key] == e {
			delete(r.jobs, key)
		}
		r.mu.Unlock()
		return
	}
	e.state.Done, e.state.Result, e.state.Err = true, result, err
	r.mu.Unlock()
	r.notify(key)
}

func (r *Runner[K, P, R]) inSlot(ctx context.Context, work func() (R, error)) (R, error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
		return work()
	case <-ctx.Done():
		var none R
		return none, ctx.Err()
	}
}

// Get tells how the job of a key stands, without starting it; false when there is
// none.
func (r *Runner[K, P, R]) Get(key K) (State[P, R], bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.jobs[key]; ok {
		return e.state, true
	}
	return State[P, R]{}, false
}

// Forget drops the result of a job that has ended, so that Ensure starts it
// anew. A running job is left alone.
func (r *Runner[K, P, R]) Forget(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.jobs[key]; ok && e.state.Done {
		delete(r.jobs, key)
	}
}

// Cancel ends every job whose key matches and drops their results. It does not
// wait; Active tells when their work has returned.
func (r *Runner[K, P, R]) Cancel(match func(K) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.jobs {
		if !match(key) {
			continue
		}
		e.cancel()
		if e.state.Done {
			delete(r.jobs, key)
		}
	}
}

// Active tells whether a job whose key matches has not returned yet.
func (r *Runner[K, P, R]) Active(match func(K) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.jobs {
		if match(key) && !e.state.Done {
			return true
		}
	}
	return false
}

// Pending tells whether a job whose key matches has not returned yet, or has a result
// that was not forgotten.
func (r *Runner[K, P, R]) Pending(match func(K) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.jobs {
		if match(key) {
			return true
		}
	}
	return false
}

// Wait returns when all work has returned. Call it after the Runner's context
// has ended.
func (r *Runner[K, P, R]) Wait() { r.wg.Wait() }

// Logged gives the context of work the logger of the reconciliation that began it, so
// that all it says names the object and that reconciliation.
func Logged(work, begunBy context.Context) context.Context {
	log, err := logr.FromContext(begunBy)
	if err != nil {
		return work
	}
	return logr.NewContext(work, log)
}
