package apiserver

import (
	"context"
	"testing"
	"time"
)

// TestShares: nobody takes more than his share, all together not more than there is,
// and who waits gets what is given back.
func TestShares(t *testing.T) {
	s := newShares(10, 6)
	ctx := t.Context()
	for _, step := range []struct {
		user string
		n    int64
		ok   bool
	}{{"alice", 6, true}, {"alice", 1, false}, {"bob", 5, false}, {"bob", 4, true}, {"carol", 1, false}} {
		if got := s.take(ctx, step.user, step.n, 0); got != step.ok {
			t.Errorf("%s takes %d: %v", step.user, step.n, got)
		}
	}
	got := make(chan bool)
	go func() { got <- s.take(ctx, "carol", 3, time.Minute) }()
	s.give("bob", 1) // too little
	s.give("alice", 2)
	if !<-got {
		t.Error("who waited got nothing of what was given back")
	}
	if s.take(ctx, "alice", 3, time.Millisecond) {
		t.Error("patience makes room")
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if s.take(gone, "alice", 3, time.Minute) {
		t.Error("who has gone gets something")
	}
	s.give("alice", 4)
	s.give("bob", 3)
	s.give("carol", 3)
	if s.taken != 0 || len(s.by) != 0 {
		t.Errorf("%d are taken, by %v", s.taken, s.by)
	}
}
