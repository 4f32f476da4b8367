package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"sandboxd.dev/sandboxd/apiserver/rbac"
	"sandboxd.dev/sandboxd/store"
)

const (
	// headerTimeout bounds how long a client may take to send its headers.
	headerTimeout = 10 * time.Second
	// writeTimeout bounds how long a client may take to receive a response
	// that is not a stream.
	writeTimeout = 2 * time.Minute
	// idleTimeout ends connections that are kept open but not used.
	idleTimeout = 3 * time.Minute
	// maxHeader is the most bytes of headers that are read. A selector in a
	// URL may be long.
	maxHeader = 64 << 10
	// maxStreams is how many requests one HTTP/2 connection may have at a time:
	// a client of many watches shares one.
	maxStreams = 1000
	// drainTimeout is how long requests may go on after the server was told to
	// stop.
	drainTimeout = 10 * time.Second
	// defaultEventTTL is how long events are kept, as in Kubernetes.
	defaultEventTTL = time.Hour
)

// Options say what a Server serves.
type Options struct {
	// Store holds the objects. The server does not close it.
	Store store.Store
	// CRDs holds the CustomResourceDefinitions to serve, in files *.yaml.
	CRDs fs.FS
	// Admission hooks, asked in order.
	Admission []Admission
	// Finalizers that objects are created with, by kind. A controller's
	// finalizer must be there before it does anything; here it costs no write.
	Finalizers map[schema.GroupResource]string
	// Subresources that others serve.
	Subresources []Subresource
	// Endpoints that belong to no object.
	Endpoints []Endpoint
	// Authenticator tells who makes requests on the listeners of ServeTLS; nil
	// means that nobody is known there.
	Authenticator Authenticator
	// RBAC: users may do what the RBAC objects of the API allow them. Otherwise,
	// and without an Authorizer, they may do everything.
	RBAC bool
	// Authorizer decides in the place of the RBAC objects.
	Authorizer Authorizer
	// Audit says what of it is recorded.
	Audit Audit
	// Version is served at /version.
	Version version.Info
	// Logger gets what nobody else is told of. The zero Logger is silent.
	Logger logr.Logger
	// Clock tells the time of creations and deletions; nil means the real one.
	Clock clock.Clock
	// Connections is how many there may be at a time; 0 means as many as the limit of
	// open files allows for.
	Connections int
	// EventTTL is how long an event is kept after its last write; 0 means one
	// hour.
	EventTTL time.Duration
}

// Server serves the Kubernetes API. Its methods may be called concurrently.
type Server struct {
	store         store.Store
	log           logr.Logger
	clock         clock.Clock
	version       version.Info
	registry      *registry
	codecs        *codecs
	admission     []Admission
	finalizers    map[schema.GroupResource]string
	authenticator Authenticator
	authorizer    Authorizer // nil: everything is allowed
	refusals      refusals
	audit         Audit
	subresources  map[schema.GroupResource][]Subresource
	endpoints     map[string]Endpoint
	openAPI       func() (*openAPI, error)
	namespaces    *namespaces
	garbage       *garbage
	events        *sweeper
	crowd         *crowd
	bodies        *shares // bytes
	watches       *shares

	pipe    *pipeListener
	stop    context.CancelFunc
	running sync.WaitGroup
}

// New compiles the definitions, makes sure that the default namespace and the
// definitions are in the store, and starts to look after namespaces and events.
// The context is for the start only; Close ends the server.
func New(ctx context.Context, o Options) (*Server, error) {
	if o.Store == nil || o.CRDs == nil {
		return nil, errors.New("the API server needs a store and definitions")
	}
	resources, definitions, err := loadResources(o.CRDs)
	if err != nil {
		return nil, fmt.Errorf("the definitions cannot be served: %w", err)
	}
	if err := trackOwners(resources, kindModels(storedOnly(resources))); err != nil {
		return nil, fmt.Errorf("the definitions cannot be served: %w", err)
	}
	s := &Server{
		store: o.Store, log: o.Logger, clock: o.Clock, version: o.Version,
		admission: o.Admission, finalizers: o.Finalizers, pipe: newPipeListener(),
		authenticator: o.Authenticator, authorizer: o.Authorizer, audit: o.Audit,
		bodies: newShares(maxBodies, maxBodies/2), watches: newShareOfEach(maxWatches),
	}
	if o.Connections == 0 {
		o.Connections = connectionLimit()
	}
	s.crowd = newCrowd(o.Connections, s.log)
	if o.RBAC && o.Authorizer == nil {
		roles := rbac.New(newRoleReader(o.Store))
		s.authorizer = rbacAuthorizer{roles}
		s.admission = append([]Admission{escalation{roles, s.authorizer}}, s.admission...)
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	if s.registry, err = newRegistry(resources); err != nil {
		return nil, err
	}
	if s.codecs, err = newCodecs(); err != nil {
		return nil, err
	}
	if s.subresources, err = indexSubresources(s.registry, o.Subresources); err != nil {
		return nil, err
	}
	if s.endpoints, err = indexEndpoints(o.Endpoints); err != nil {
		return nil, err
	}
	s.openAPI = sync.OnceValues(func() (*openAPI, error) { return newOpenAPI(s.registry, s.version.GitVersion) })
	s.namespaces = newNamespaces(s)
	s.garbage = newGarbage(s)
	if o.EventTTL == 0 {
		o.EventTTL = defaultEventTTL
	}
	s.events = newSweeper(s, o.EventTTL)
	if err := s.bootstrap(ctx, definitions); err != nil {
		return nil, fmt.Errorf("the store cannot be prepared: %w", err)
	}
	s.start()
	return s, nil
}

// start runs what goes on in the background until Close.
func (s *Server) start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.namespaces.run(ctx) })
	s.running.Go(func() { s.garbage.run(ctx) })
	s.running.Go(func() { s.events.run(ctx) })
	s.running.Go(func() {
		if err := s.Serve(ctx, s.pipe); err != nil {
			s.log.Error(err, "The in-process connection failed")
		}
	})
}

// Close ends the background work and in-process connections, and waits for
// both. It does not end Serve, whose own context does.
func (s *Server) Close() error {
	s.stop()
	s.running.Wait()
	return nil
}

// LoopbackConfig is a client configuration that reaches the server inside this
// process, as the user system:sandboxd. It has no rate limit.
func (s *Server) LoopbackConfig() *rest.Config {
	return &rest.Config{
		Host:               "http://sandboxd",
		Dial:               s.pipe.dial,
		UserAgent:          "sandboxd",
		DisableCompression: true,
		QPS:                -1,
		ContentConfig: rest.ContentConfig{
			ContentType:        mediaJSON,
			AcceptContentTypes: mediaJSON,
		},
	}
}

// Serve answers the connections of a listener until the context ends, and
// closes the listener. Streams end at once then, other requests may finish.
// Whoever can connect may do everything, so the listener must admit only those
// who may: a unix socket is guarded by its file mode.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if l != net.Listener(s.pipe) { // the daemon itself is never too many
		l = entrance{l, s.crowd, false}
	}
	return s.serve(ctx, l, func(server *http.Server) error { return server.Serve(l) })
}

// ServeTLS answers the connections of a TCP listener as Serve does, over TLS.
// Only who the Authenticator knows is answered, but for a few public paths.
// HTTP/2 is spoken where the client can; upgrades need HTTP/1.1.
func (s *Server) ServeTLS(ctx context.Context, l net.Listener, config *tls.Config) error {
	d := newDoor(entrance{l, s.crowd, true}, s.crowd.remote/2)
	return s.serve(ctx, d, func(server *http.Server) error {
		server.TLSConfig = config.Clone()
		server.HTTP2 = &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReadFrameSize: 64 << 10,
			SendPingTimeout: keepAlive, PingTimeout: keepAlive / 2, WriteByteTimeout: writeTimeout,
		}
		return server.ServeTLS(d, "", "")
	})
}

func (s *Server) serve(ctx context.Context, l net.Listener, run func(*http.Server) error) error {
	return serveConnections(ctx, l, s.Handler(), s.crowd, s.log, run)
}

// serveConnections has a handler answer the connections of a listener, which run
// accepts, until the context ends.
func serveConnections(ctx context.Context, l net.Listener, handler http.Handler, c *crowd, logger logr.Logger, run func(*http.Server) error) error {
	stopping := make(chan struct{})
	base, abandon := context.WithCancel(context.WithValue(context.Background(), drainingKey, (<-chan struct{})(stopping)))
	defer abandon()
	server := &http.Server{
		ConnState:         c.state,
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout, // of TLS handshakes, too
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(connectionLog{logger}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok { // whoever comes by TLS has to show who he is
				return context.WithValue(ctx, remoteKey, visitorOf(t))
			}
			return context.WithValue(ctx, userKey, peer(c))
		},
	}
	failed := make(chan error, 1)
	go func() { failed <- run(server) }()
	select {
	case err := <-failed:
		return fmt.Errorf("%s: connections cannot be accepted: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	close(stopping)
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err := server.Shutdown(drain)
	abandon() // taken-over connections, and requests that did not finish
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if ended := <-failed; err == nil && !errors.Is(ended, http.ErrServerClosed) {
		err = ended
	}
	return err
}

// connectionLog hands what net/http says about connections to a logger.
type connectionLog struct{ log logr.Logger }

func (c connectionLog) Write(line []byte) (int, error) {
	c.log.V(1).Info("A connection failed", "reason", strings.TrimSpace(string(line)))
	return len(line), nil
}
