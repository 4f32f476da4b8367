package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

const (
	// maxBodies is how many bytes of bodies there may be at a time of requests from
	// elsewhere, until they are answered: what is made of a body takes several times
	// its size.
	maxBodies = 64 << 20
	// bodyPatience is how long a request waits for room for its body.
	bodyPatience = 10 * time.Second
	// maxWatches is how many watches a user may have from elsewhere.
	maxWatches = 2000
)

// remoteUser is who really makes a request from elsewhere; false for those at the
// socket and the daemon itself.
func remoteUser(ctx context.Context) (string, bool) {
	if ctx.Value(remoteKey) == nil {
		return "", false
	}
	if impersonator, acting := impersonatorFrom(ctx); acting {
		return impersonator.Name, true
	}
	return UserFrom(ctx).Name, true
}

// roomForBody waits until there is room for a request's body, which it has until it was
// answered.
func (s *Server) roomForBody(w http.ResponseWriter, r *http.Request) error {
	user, remote := remoteUser(r.Context())
	if !remote || r.ContentLength == 0 {
		return nil
	}
	n := r.ContentLength
	if n < 0 {
		n = maxBody // it is not said
	}
	if !s.bodies.take(r.Context(), user, n, bodyPatience) {
		return tooMany("there are too many requests with large bodies under way")
	}
	after(w, func() { s.bodies.give(user, n) })
	return nil
}

// roomForWatch counts a watch until its end.
func (s *Server) roomForWatch(r *http.Request) (done func(), err error) {
	user, remote := remoteUser(r.Context())
	if !remote {
		return func() {}, nil
	}
	if !s.watches.take(r.Context(), user, 1, 0) {
		return nil, tooMany(fmt.Sprintf("user %q has %d watches, which is the most", user, s.watches.each))
	}
	return func() { s.watches.give(user, 1) }, nil
}

// after has something done when a request is answered.
func after(w http.ResponseWriter, f func()) {
	if response, ok := w.(*response); ok {
		response.after = append(response.after, f)
		return
	}
	f() // nobody else answers
}
