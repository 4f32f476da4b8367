package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Subresource is an endpoint below an object that something else than the API
// server serves, such as sandboxes/NAME/exec.
type Subresource struct {
	// Resource that it belongs to.
	Resource schema.GroupResource
	// Name is the last element of the path.
	Name string
	// Methods that Handler serves, such as GET and POST; others are answered
	// with 405.
	Methods []string
	// Stream: it may go on for as long as the client likes. Its requests end at
	// once when the server stops; those of others may finish.
	Stream bool
	// Handler serves a request once the parent object was found. It owns the
	// response and may take over the connection. The parent is its own, and of a
	// view, such as a Pod, the object that is shown. The
	// request's context ends when the client goes away or, with ErrStopping as
	// its cause, when the server stops; UserFrom tells who asks.
	Handler func(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured)
}

// verbs are the verbs that discovery shows for the methods.
func (sub Subresource) verbs() []string {
	names := map[string]string{
		http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update",
		http.MethodPatch: "patch", http.MethodDelete: "delete",
	}
	var verbs []string
	for _, method := range sub.Methods {
		if verb, ok := names[method]; ok && !slices.Contains(verbs, verb) {
			verbs = append(verbs, verb)
		}
	}
	slices.Sort(verbs)
	return verbs
}

// indexSubresources checks the subresources against the resources and sorts
// them.
func indexSubresources(g *registry, all []Subresource) (map[schema.GroupResource][]Subresource, error) {
	index := map[schema.GroupResource][]Subresource{}
	for _, sub := range all {
		if g.find(sub.Resource) == nil {
			return nil, fmt.Errorf("subresource %s belongs to %s, which is not served", sub.Name, sub.Resource)
		}
		if sub.Name == "" || sub.Name == "status" || strings.Contains(sub.Name, "/") || sub.Handler == nil {
			return nil, fmt.Errorf("subresource %q of %s needs a name of its own and a handler", sub.Name, sub.Resource)
		}
		index[sub.Resource] = append(index[sub.Resource], sub)
	}
	return index, nil
}

// serveSubresource hands a request over to a subresource.
func (s *Server) serveSubresource(w http.ResponseWriter, rq *request, sub Subresource) error {
	if !slices.Contains(sub.Methods, rq.Method) {
		return methodNotAllowed(rq.Method, rq.URL.Path)
	}
	entry, err := s.store.Get(rq.Context(), rq.key())
	if err != nil {
		return storeError(err, rq.resource.groupResource(), rq.name)
	}
	parent, err := decodeStored(entry.Value, entry.Revision)
	if err != nil {
		return fmt.Errorf("%s: %w", entry.Key, err)
	}
	handOver(w, rq.Request, sub, parent)
	return nil
}

// handOver has a subresource serve a request.
func handOver(w http.ResponseWriter, r *http.Request, sub Subresource, parent *unstructured.Unstructured) {
	if sub.Stream {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		go endWhenDraining(ctx, cancel)
		r = r.WithContext(ctx)
	}
	// It may take as long as it likes. Not every writer has deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	sub.Handler(w, r, parent)
}

// ErrStopping is why a stream's context ends when the server stops.
var ErrStopping = errors.New("the daemon is stopping")

func endWhenDraining(ctx context.Context, cancel context.CancelCauseFunc) {
	select {
	case <-draining(ctx):
		cancel(ErrStopping)
	case <-ctx.Done():
	}
}
