package keylock

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestLocks(t *testing.T) {
	l := New()
	ctx := context.Background()
	var inside atomic.Int32
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			unlock, err := l.Lock(ctx, "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if inside.Add(1) != 1 {
				t.Error("two are inside")
			}
			inside.Add(-1)
		})
	}
	work.Wait()
	one, _ := l.Share(ctx, "a")
	two, _ := l.Share(ctx, "a")
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := l.Lock(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a writer among readers: %v", err)
	}
	one()
	two()
	if len(l.held) != 0 {
		t.Errorf("%d locks are kept for nobody", len(l.held))
	}
}

// TestTryLock: a name that nobody has is taken, and one that somebody has or
// shares is left alone.
func TestTryLock(t *testing.T) {
	l := New()
	unlock, ok := l.TryLock("a")
	if !ok {
		t.Fatal("nobody has it, and it is not taken")
	}
	if _, ok := l.TryLock("a"); ok {
		t.Error("it is taken twice")
	}
	waited := make(chan func(), 1)
	go func() {
		second, err := l.Lock(t.Context(), "a")
		if err != nil {
			t.Error(err)
		}
		waited <- second
	}()
	unlock()
	(<-waited)()
	shared, err := l.Share(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.TryLock("a"); ok {
		t.Error("it is taken although it is shared")
	}
	shared()
	if len(l.held) != 0 {
		t.Errorf("%d names are kept", len(l.held))
	}
}

func TestTryShare(t *testing.T) {
	l := New()
	ctx := context.Background()
	one, ok := l.TryShare("a")
	two, again := l.TryShare("a")
	if !ok || !again {
		t.Fatal("a free name cannot be shared")
	}
	if _, ok := l.TryLock("a"); ok {
		t.Error("a name that is shared is locked")
	}
	locked := make(chan func())
	go func() {
		unlock, err := l.Lock(ctx, "a")
		if err != nil {
			t.Error(err)
		}
		locked <- unlock
	}()
	one()
	two()
	unlock := <-locked
	if _, ok := l.TryShare("a"); ok {
		t.Error("a name that is locked is shared")
	}
	unlock()
	if len(l.held) != 0 {
		t.Errorf("names are kept: %v", l.held)
	}
	three, ok := l.TryShare("a")
	if !ok {
		t.Fatal("a name that was given back cannot be shared")
	}
	three()
}
