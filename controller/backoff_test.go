package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func TestRateLimiter(t *testing.T) {
	l := newRateLimiter()
	a := reconcile.Request{NamespacedName: types.NamespacedName{Name: "a"}}
	b := reconcile.Request{NamespacedName: types.NamespacedName{Name: "b"}}
	want := initialInterval
	for i := range 100 {
		got := l.When(a)
		if got < want/2 || got > want*3/2 {
			t.Fatalf("try %d: %v, want %v ± 50 %%", i+1, got, want)
		}
		want = min(2*want, maxInterval)
	}
	if n := l.NumRequeues(a); n != 100 {
		t.Errorf("NumRequeues: got %d, want 100", n)
	}
	if got := l.When(b); got > initialInterval*3/2 {
		t.Errorf("b waits %v for the failures of a", got)
	}
	l.Forget(a)
	if n := l.NumRequeues(a); n != 0 {
		t.Errorf("NumRequeues after Forget: got %d, want 0", n)
	}
	if got := l.When(a); got > initialInterval*3/2 {
		t.Errorf("after Forget: %v, want about %v", got, initialInterval)
	}
}

// TestJitter: objects that fail together must not be tried together for ever.
func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	l := newRateLimiter()
	for i := range 100 {
		seen[l.When(reconcile.Request{NamespacedName: types.NamespacedName{Name: string(rune('a' + i))}})] = true
	}
	if len(seen) < 50 {
		t.Errorf("100 objects got only %d different delays", len(seen))
	}
}

// TestUntilTheEnd: what the end of the daemon cuts off is no error; all else is.
func TestUntilTheEnd(t *testing.T) {
	own := errors.New("own")
	for _, tc := range []struct {
		over      bool
		err, want error
	}{
		{true, fmt.Errorf("list: %w", context.Canceled), nil},
		{true, own, own},
		{false, context.Canceled, context.Canceled},
		{false, nil, nil},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if tc.over {
			cancel()
		}
		r := patiently(reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) {
			return reconcile.Result{RequeueAfter: time.Second}, tc.err
		}))
		result, err := r.Reconcile(ctx, reconcile.Request{})
		if !errors.Is(err, tc.want) || err == nil && tc.err != nil && result.RequeueAfter != 0 {
			t.Errorf("over: %v, %v: got %v, %v", tc.over, tc.err, result, err)
		}
		cancel()
	}
}

// TestUpcoming tells the next delay before it is asked for.
func TestUpcoming(t *testing.T) {
	l := newRateLimiter()
	r := reconcile.Request{NamespacedName: types.NamespacedName{Name: "x"}}
	for n := range 10 {
		told := l.Upcoming(r)
		if again := l.Upcoming(r); again != told {
			t.Errorf("told %v, and then %v", told, again)
		}
		if got := l.When(r); got != told || got > longest(n+1) {
			t.Errorf("failure %d: waits for %v, told %v, at most %v", n+1, got, told, longest(n+1))
		}
	}
	l.Forget(r)
	if got := l.Upcoming(r); got > longest(1) {
		t.Errorf("after a success: %v", got)
	}
}
