package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Endpoint is a path that belongs to no object and that something else than the
// API server serves, such as /metrics.
type Endpoint struct {
	// Path is one element below the root, such as "metrics". What lies below it is
	// the endpoint's too.
	Path string
	// Methods that Handler serves; others are answered with 405.
	Methods []string
	// Handler serves a request. It may take as long as it likes; the context of the
	// request ends when the client goes away or, with ErrStopping as its cause,
	// when the server stops.
	Handler http.Handler
}

// taken are the paths that the server itself serves.
var taken = []string{"", "api", "apis", "openapi", "version", "healthz", "livez", "readyz"}

func indexEndpoints(all []Endpoint) (map[string]Endpoint, error) {
	index := map[string]Endpoint{}
	for _, e := range all {
		if _, twice := index[e.Path]; twice || slices.Contains(taken, e.Path) || strings.Contains(e.Path, "/") || e.Handler == nil {
			return nil, fmt.Errorf("endpoint %q needs a path of its own and a handler", e.Path)
		}
		index[e.Path] = e
	}
	return index, nil
}

// serveEndpoint hands a request over to an endpoint.
func serveEndpoint(w http.ResponseWriter, r *http.Request, e Endpoint) error {
	if !slices.Contains(e.Methods, r.Method) {
		return methodNotAllowed(r.Method, r.URL.Path)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	go endWhenDraining(ctx, cancel)
	// Not every writer has deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	e.Handler.ServeHTTP(w, r.WithContext(ctx))
	return nil
}
