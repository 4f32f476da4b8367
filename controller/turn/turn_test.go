package turn_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"sandboxd.dev/sandboxd/controller/turn"
)

func TestOneAtATime(t *testing.T) {
	turns := turn.New()
	release, ok := turns.Try("a")
	if !ok {
		t.Fatal("nobody has the turn, and it cannot be taken")
	}
	if _, ok := turns.Try("a"); ok {
		t.Fatal("two have the turn")
	}
	other, ok := turns.Try("b")
	if !ok {
		t.Fatal("a turn on one machine keeps others from another")
	}
	other()
	release()
	if release, ok = turns.Try("a"); !ok {
		t.Fatal("the turn was not given back")
	}
	release()
}

func TestTakeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := turn.New()
		release, err := turns.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		inside, most, done := 0, 0, 0
		for range 5 {
			go func() {
				release, err := turns.Take(context.Background(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				most, done = max(most, inside), done+1
				inside--
				mu.Unlock()
				release()
			}()
		}
		synctest.Wait()
		if done != 0 {
			t.Fatalf("%d did not wait", done)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := turns.Take(ctx, "a")
			ended <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a wait that was cancelled: %v", err)
		}
		release()
		synctest.Wait()
		if done != 5 || most != 1 {
			t.Errorf("%d had their turn, want 5; %d at a time", done, most)
		}
	})
}
