package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// GatewayOptions say what a Gateway serves.
type GatewayOptions struct {
	// Parent reads the object that a subresource belongs to, from the API server
	// that keeps it. Errors are Status errors; others count as that server's being
	// out of reach.
	Parent func(ctx context.Context, resource schema.GroupResource, namespace, name string) (*unstructured.Unstructured, error)
	// Upstream serves every other request.
	Upstream http.Handler
	// Ready tells why requests cannot be served; nil when they can.
	Ready func() error
	// Subresources, Endpoints, Version and Audit are as those of Options. What of it is
	// served upstream is recorded here too: there, the daemon asks.
	Subresources []Subresource
	Endpoints    []Endpoint
	Version      version.Info
	Audit        Audit
	// Logger gets what nobody else is told of.
	Logger logr.Logger
}

// Gateway serves what is on this host where another API server keeps the objects:
// subresources and endpoints. All else is the other's.
//
//	/apis/GROUP/v1/namespaces/NS/RESOURCE/NAME/SUB       ── Parent ──▶ Subresource
//	/ENDPOINT, /version, /healthz, /livez, /readyz                    this process
//	everything else                                                   Upstream
type Gateway struct {
	o            GatewayOptions
	subresources map[schema.GroupResource][]Subresource
	endpoints    map[string]Endpoint
	server       *Server // for what it does around a request, and nothing of what it serves
}

// NewGateway makes a Gateway.
func NewGateway(o GatewayOptions) (*Gateway, error) {
	g := &Gateway{
		o: o, subresources: map[schema.GroupResource][]Subresource{},
		server: &Server{log: o.Logger, audit: o.Audit, crowd: newCrowd(connectionLimit(), o.Logger)},
	}
	for _, sub := range o.Subresources {
		g.subresources[sub.Resource] = append(g.subresources[sub.Resource], sub)
	}
	var err error
	g.endpoints, err = indexEndpoints(o.Endpoints)
	return g, err
}

// Serve answers the connections of a listener as Server.Serve does.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	l = entrance{l, g.server.crowd, false}
	return serveConnections(ctx, l, g.Handler(), g.server.crowd, g.o.Logger, func(server *http.Server) error { return server.Serve(l) })
}

// Handler serves requests.
func (g *Gateway) Handler() http.Handler {
	return http.HandlerFunc(func(raw http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: raw}
		defer w.end()
		defer g.server.recoverPanic(w, r)
		err := asNobodyElse(r)
		if err == nil {
			err = g.server.handleBy(w, r, g.route)
		}
		if err != nil {
			g.server.fail(w, r, err)
		}
		w.finish()
	})
}

// asNobodyElse refuses a request that is to be made as somebody else: the daemon asks
// the other API server as itself, so it would be done with other rights than it is
// recorded with.
func asNobodyElse(r *http.Request) error {
	for header := range r.Header {
		if strings.HasPrefix(header, "Impersonate-") {
			return apierrors.NewBadRequest(header + " is not supported on this socket: a Kubernetes API server keeps the objects, and the daemon asks it as itself: use --as with a kubeconfig of that cluster")
		}
	}
	return nil
}

func (g *Gateway) route(w http.ResponseWriter, r *http.Request) error {
	segments, ok := splitPath(r.URL)
	if !ok {
		return pathNotFound()
	}
	if len(segments) == 1 {
		switch segments[0] {
		case "version":
			return writeTyped(w, mediaJSON, g.o.Version)
		case "healthz", "livez":
			writeBody(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok"))
			return nil
		case "readyz":
			return g.serveReady(w)
		}
	}
	if e, ok := g.endpoints[segments[0]]; ok {
		return serveEndpoint(w, r, e)
	}
	if t, sub, ok := g.find(segments); ok {
		return g.serveSubresource(w, r, t, sub)
	}
	// Watches, logs and uploads last as long as they like.
	return serveEndpoint(w, r, Endpoint{Methods: []string{r.Method}, Handler: g.o.Upstream})
}

func (g *Gateway) serveReady(w http.ResponseWriter) error {
	if err := g.o.Ready(); err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	writeBody(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok"))
	return nil
}

// find tells whether a path is that of a subresource of this host.
func (g *Gateway) find(segments []string) (target, Subresource, bool) {
	gv := groupVersionOf(segments)
	behind := 2
	if gv.Group != "" {
		behind = 3
	}
	if gv.Version != "v1" {
		return target{}, Subresource{}, false
	}
	t, ok := parseTarget(gv, segments[behind:])
	if !ok || t.subresource == "" {
		return target{}, Subresource{}, false
	}
	for _, sub := range g.subresources[schema.GroupResource{Group: t.gv.Group, Resource: t.resource}] {
		if sub.Name == t.subresource {
			return t, sub, true
		}
	}
	return target{}, Subresource{}, false
}

func (g *Gateway) serveSubresource(w http.ResponseWriter, r *http.Request, t target, sub Subresource) error {
	if !slices.Contains(sub.Methods, r.Method) {
		return methodNotAllowed(r.Method, r.URL.Path)
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("the query cannot be parsed: %v", err))
	}
	parent, err := g.o.Parent(r.Context(), sub.Resource, t.namespace, t.name)
	if err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return err
		}
		return apierrors.NewServiceUnavailable(fmt.Sprintf("%s %q cannot be looked up: the Kubernetes API server does not answer: %v: try again once it does", sub.Resource, t.name, err))
	}
	handOver(w, r, sub, parent)
	return nil
}
