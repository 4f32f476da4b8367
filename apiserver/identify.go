package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Authenticator tells who makes requests that came over TLS.
type Authenticator interface {
	// Authenticate looks at a request's headers and its connection's certificate.
	// It fails with ErrUnauthenticated when they show nobody, and with any other
	// error when what they show is not valid; clients are told neither.
	Authenticate(r *http.Request) (Login, error)
	// AuthenticateToken tells whose a bearer token is, or fails.
	AuthenticateToken(ctx context.Context, token string) (Login, error)
}

// Login is somebody who has proved who he is.
type Login struct {
	User User
	// Until is when that is over.
	Until time.Time
	// Valid ends when it is taken back before; nil means never.
	Valid context.Context
}

// ErrUnauthenticated: a request shows nobody.
var ErrUnauthenticated = errors.New("the request shows no credentials")

// Groups that everybody is in who is known, or who is not.
const (
	groupAuthenticated   = "system:authenticated"
	groupUnauthenticated = "system:unauthenticated"
	groupMasters         = "system:masters"
)

// publicPaths may be read by whoever reaches the server, as in Kubernetes.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// identify tells who makes a request, and returns the request with that in its
// context. The context ends with the credential. done must be called at the end.
func (s *Server) identify(w http.ResponseWriter, r *http.Request) (identified *http.Request, done func(), err error) {
	if _, local := r.Context().Value(userKey).(User); local || r.Context().Value(remoteKey) == nil {
		return r, func() {}, nil
	}
	login, err := s.login(r)
	if err != nil {
		// Whoever is not known keeps no connection.
		w.Header().Set("Connection", "close")
		if errors.Is(err, ErrUnauthenticated) && r.Method == http.MethodGet && slices.Contains(publicPaths, strings.TrimSuffix(r.URL.Path, "/")) {
			return r.WithContext(context.WithValue(r.Context(), userKey, anonymousUser)), func() {}, nil
		}
		if !errors.Is(err, ErrUnauthenticated) {
			s.refusals.note(s.log, r.RemoteAddr)
		}
		return r, func() {}, unauthorized()
	}
	if c, ok := r.Context().Value(remoteKey).(*visitor); ok {
		if err := c.welcome(login.User.Name); err != nil {
			w.Header().Set("Connection", "close")
			return r, func() {}, err
		}
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), userKey, login.known()))
	done = func() { cancel(nil) }
	if login.Valid != nil {
		stop := context.AfterFunc(login.Valid, func() { cancel(errRevoked) })
		done = func() { stop(); cancel(nil) }
	}
	if !login.Until.IsZero() {
		expiry := time.AfterFunc(login.Until.Sub(s.clock.Now()), func() { cancel(errRevoked) })
		before := done
		done = func() { expiry.Stop(); before() }
	}
	return r.WithContext(ctx), done, nil
}

// errRevoked is why the context of a request ends with its credential.
var errRevoked = errors.New("the credential is not valid any more")

func (s *Server) login(r *http.Request) (Login, error) {
	if s.authenticator == nil {
		return Login{}, ErrUnauthenticated
	}
	return s.authenticator.Authenticate(r)
}

// unauthorized is the answer to whoever is not known. It does not say why.
func unauthorized() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnauthorized, Reason: metav1.StatusReasonUnauthorized,
		Message: "Unauthorized", Details: &metav1.StatusDetails{},
	}}
}

// visitorOf is the connection below TLS as the door knows it; nil when no door does.
func visitorOf(t *tls.Conn) *visitor {
	v, _ := t.NetConn().(*visitor)
	return v
}

// refusals tells the log of credentials that were refused, seldom enough that
// strangers cannot fill it.
type refusals struct {
	mu     sync.Mutex
	since  int
	silent time.Time // until then
}

// refusalInterval is how seldom.
const refusalInterval = 10 * time.Second

func (f *refusals) note(log logr.Logger, from string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.since++
	now := time.Now()
	if now.Before(f.silent) {
		return
	}
	log.Info("Credentials were refused", "last", from, "count", f.since)
	f.since, f.silent = 0, now.Add(refusalInterval)
}
