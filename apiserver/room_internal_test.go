package apiserver

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestRoom: requests from elsewhere that there is no room for are told so in the words of
// Kubernetes, also those made as somebody else, and those at the socket never.
func TestRoom(t *testing.T) {
	s := &Server{bodies: newShares(20, 10), watches: newShareOfEach(2)}
	from := func(far bool, user, impersonator string) context.Context {
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), userKey, User{Name: user}))
		cancel() // it does not wait
		if far {
			ctx = context.WithValue(ctx, remoteKey, (*visitor)(nil))
		}
		if impersonator != "" {
			ctx = context.WithValue(ctx, impersonatorKey, User{Name: impersonator})
		}
		return ctx
	}
	ask := func(ctx context.Context, length int) (*response, error) {
		w := &response{ResponseWriter: httptest.NewRecorder()}
		return w, s.roomForBody(w, httptest.NewRequest("POST", "/", strings.NewReader(strings.Repeat("x", length))).WithContext(ctx))
	}
	first, err := ask(from(true, "alice", ""), 9)
	if err != nil {
		t.Fatal(err)
	}
	for name, ctx := range map[string]context.Context{"himself": from(true, "alice", ""), "as somebody else": from(true, "carol", "alice")} {
		_, err := ask(ctx, 2)
		if seconds, again := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !again || seconds != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, ctx := range map[string]context.Context{"another": from(true, "bob", ""), "the socket": from(false, "alice", "")} {
		if _, err := ask(ctx, 8); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	first.end()
	if _, err := ask(from(true, "alice", ""), 10); err != nil {
		t.Errorf("after the first was answered: %v", err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	var ends []func()
	for range 2 {
		done, err := s.roomForWatch(r.WithContext(from(true, "alice", "")))
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, done)
	}
	if _, err := s.roomForWatch(r.WithContext(from(true, "alice", ""))); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), `user "alice" has 2 watches`) {
		t.Errorf("one watch more: %v", err)
	}
	for name, ctx := range map[string]context.Context{"another": from(true, "bob", ""), "the socket": from(false, "alice", "")} {
		if _, err := s.roomForWatch(r.WithContext(ctx)); err != nil {
			t.Errorf("a watch of %s: %v", name, err)
		}
	}
	ends[0]()
	if _, err := s.roomForWatch(r.WithContext(from(true, "alice", ""))); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}
