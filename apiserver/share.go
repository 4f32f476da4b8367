package apiserver

import (
	"context"
	"math"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// shares bound what users from elsewhere take of something, all together and each:
// none of them can take what the others, or those at the socket, need.
type shares struct {
	most, each int64

	mu    sync.Mutex
	taken int64
	by    map[string]int64
	freed chan struct{} // closed, and made anew, when something is given back
}

func newShares(most, each int64) *shares {
	return &shares{most: most, each: each, by: map[string]int64{}, freed: make(chan struct{})}
}

// newShareOfEach bounds what each takes, and not all together.
func newShareOfEach(each int64) *shares { return newShares(math.MaxInt64, each) }

// take takes so much for a user, and waits for it for as long as patience. What was
// taken must be given back.
func (s *shares) take(ctx context.Context, user string, n int64, patience time.Duration) bool {
	var late <-chan time.Time
	for {
		ok, freed := s.try(user, n)
		if ok || patience <= 0 {
			return ok
		}
		if late == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-freed:
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (s *shares) try(user string, n int64) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > s.most-s.taken || n > s.each-s.by[user] {
		return false, s.freed
	}
	s.taken += n
	s.by[user] += n
	return true, nil
}

// give gives back what a user has taken.
func (s *shares) give(user string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken -= n
	if s.by[user] -= n; s.by[user] == 0 {
		delete(s.by, user)
	}
	close(s.freed)
	s.freed = make(chan struct{})
}

// tooMany is the answer to whom there is no room for; clients of Kubernetes try again
// by themselves.
func tooMany(why string) error {
	return apierrors.NewTooManyRequests(why+": try again later", 1)
}
