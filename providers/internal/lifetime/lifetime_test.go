package lifetime_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"sandboxd.dev/sandboxd/providers/internal/lifetime"
)

// TestLifetime ends one while many begin something: whatever began has ended once
// Wait returns, and nothing begins any more.
func TestLifetime(t *testing.T) {
	for range 200 {
		l := lifetime.New()
		var begun, ended atomic.Int64
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for l.Go(func() { ended.Add(1); <-l.Context().Done() }) {
					begun.Add(1)
					if begun.Load() > 20 {
						return
					}
				}
			})
		}
		l.End()
		l.End()
		l.Wait()
		seen := ended.Load()
		callers.Wait()
		if b := begun.Load(); b != seen || ended.Load() != seen {
			t.Fatalf("%d began, %d had ended after Wait, %d now", b, seen, ended.Load())
		}
		if !l.Over() || l.Go(func() { t.Error("begun after the end") }) {
			t.Error("it is not over")
		}
	}
}
