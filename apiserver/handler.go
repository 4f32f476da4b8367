package apiserver

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Handler serves the API. Users of requests are taken from the connection by
// Serve; behind another server they are system:anonymous.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(raw http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: raw, compressible: mayCompress(r)}
		defer w.end()
		defer s.recoverPanic(w, r)
		if err := s.handle(w, r); err != nil {
			s.fail(w, r, err)
		}
		w.finish()
	})
}

// handle finds out who asks and whether he may, records it, and does it.
func (s *Server) handle(w *response, r *http.Request) error { return s.handleBy(w, r, s.route) }

// handleBy does it by a route of somebody else's.
func (s *Server) handleBy(w *response, r *http.Request, route func(http.ResponseWriter, *http.Request) error) error {
	r, done, err := s.identify(w, r)
	defer done()
	if err != nil {
		return err // strangers leave no trace in the audit log: they would fill it
	}
	a := actionOf(r)
	as, denied := s.impersonate(r)
	r, t := s.beginAudit(w, as, a)
	w.trail = t
	if denied == nil {
		denied = s.authorize(r.Context(), UserFrom(r.Context()), a)
	}
	if denied != nil {
		w.denied = true
		return denied
	}
	if err := t.ready(); err != nil {
		return err
	}
	t.begun(a)
	return route(w, r)
}

// fail answers with an error, if nothing else was answered yet.
func (s *Server) fail(w *response, r *http.Request, err error) {
	status := statusOf(err)
	if status.Code == http.StatusInternalServerError {
		s.log.Error(err, "A request failed", "method", r.Method, "path", r.URL.Path)
	}
	if w.begun {
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
	writeStatus(w, status)
}

// recoverPanic turns a panic into an internal error.
func (s *Server) recoverPanic(w *response, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	s.log.Error(fmt.Errorf("panic: %v", cause), "A request panicked", "method", r.Method, "path", r.URL.Path, "stack", string(debug.Stack()))
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	writeStatus(w, statusOf(apierrors.NewInternalError(errors.New("the request made the server panic; its log tells where"))))
}

// route finds what serves a path.
func (s *Server) route(w http.ResponseWriter, r *http.Request) error {
	segments, ok := splitPath(r.URL)
	if !ok {
		return pathNotFound()
	}
	switch segments[0] {
	case "api", "apis":
		groupVersion := 2
		if segments[0] == "apis" {
			groupVersion = 3
		}
		if len(segments) <= groupVersion {
			return s.serveDiscovery(w, r, segments)
		}
		return s.serveResource(w, r, groupVersionOf(segments), segments[groupVersion:])
	case "openapi":
		if len(segments) >= 2 && (segments[1] == "v2" || segments[1] == "v3") {
			return s.serveOpenAPI(w, r, segments[1], strings.Join(segments[2:], "/"))
		}
	case "version":
		if len(segments) == 1 {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				return methodNotAllowed(r.Method, r.URL.Path)
			}
			return writeTyped(w, mediaJSON, servedVersion(s.version))
		}
	case "healthz", "livez", "readyz":
		return s.serveHealth(w, r, segments)
	case "":
		if len(segments) == 1 {
			return s.serveRoot(w, r)
		}
	}
	if e, ok := s.endpoints[segments[0]]; ok {
		return serveEndpoint(w, r, e)
	}
	return pathNotFound()
}

// splitPath splits a path into its decoded segments. A slash at the end is
// ignored.
func splitPath(u *url.URL) ([]string, bool) {
	escaped := strings.Trim(u.EscapedPath(), "/")
	segments := strings.Split(escaped, "/")
	for i, segment := range segments {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			return nil, false
		}
		segments[i] = decoded
	}
	return segments, true
}

// serveResource serves a request for objects.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion, segments []string) error {
	t, ok := parseTarget(gv, segments)
	if !ok {
		return pathNotFound()
	}
	res := s.registry.byResource[gv.WithResource(t.resource)]
	if res == nil || (t.namespace != "" && !res.namespaced) {
		return pathNotFound()
	}
	if res.namespaced && t.namespace == "" && t.name != "" {
		return pathNotFound() // a name alone does not say which
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("the query cannot be parsed: %v", err))
	}
	rq := &request{
		Request: r, resource: res, namespace: t.namespace, name: t.name, subresource: t.subresource,
		query: query, user: UserFrom(r.Context()),
	}
	var serve func(http.ResponseWriter, *request) error
	switch {
	case t.subresource == "", t.subresource == "status" && res.status:
		serve = s.serveVerb
	case t.subresource == "scale" && res.scale != nil:
		serve = s.serveScale
	case t.subresource == "finalize" && res.finalize != nil:
		serve = s.serveFinalize
	default:
		for _, sub := range s.subresources[res.groupResource()] {
			if sub.Name == t.subresource {
				return s.serveSubresource(w, rq, sub)
			}
		}
		return pathNotFound()
	}
	if rq.accept, err = negotiate(r.Header.Get("Accept")); err != nil {
		return err
	}
	if err := checkTableOptions(rq); err != nil {
		return err
	}
	return serve(w, rq)
}

// serveVerb finds out what a request wants done, and does it.
func (s *Server) serveVerb(w http.ResponseWriter, rq *request) error {
	watching, err := queryBool(rq.query, "watch")
	if err != nil {
		return err
	}
	one := rq.name != ""
	var verb string
	var serve func(http.ResponseWriter, *request) error
	switch {
	case rq.Method == http.MethodGet && one:
		verb, serve = "get", s.get
	case rq.Method == http.MethodGet && watching:
		verb, serve = "watch", s.watch
	case rq.Method == http.MethodGet:
		verb, serve = "list", s.list
	case rq.Method == http.MethodPost && !one && (rq.namespace != "" || !rq.resource.namespaced):
		verb, serve = "create", s.create
	case rq.Method == http.MethodPut && one:
		verb, serve = "update", s.update
	case rq.Method == http.MethodPatch && one:
		verb, serve = "patch", s.patch
	case rq.Method == http.MethodDelete && one && rq.subresource == "":
		verb, serve = "delete", s.delete
	case rq.Method == http.MethodDelete && !one && (rq.namespace != "" || !rq.resource.namespaced):
		verb, serve = "deletecollection", s.deleteCollection
	}
	if serve != nil && !rq.resource.allows(verb) && rq.resource.readOnly != "" {
		return notWritable(rq.resource.readOnly)
	}
	if serve == nil || !rq.resource.allows(verb) {
		return methodNotAllowed(rq.Method, rq.URL.Path)
	}
	return serve(w, rq)
}

// writeTyped sends a value of a discovery type.
func writeTyped(w http.ResponseWriter, media string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	writeBody(w, http.StatusOK, media, append(raw, '\n'))
	return nil
}

// response remembers whether an answer was begun. It can stream and be taken
// over like the one it wraps.
type response struct {
	http.ResponseWriter
	begun        bool
	compressible bool         // the client takes packed answers and gains by them
	packer       *gzip.Writer // of an answer that is packed
	estimate     int          // of the length of an answer that does not tell it; 0: none
	// trail is the request's audit record, and denied that it was refused to its
	// user.
	trail  *trail
	denied bool
	code   int
	after  []func() // to be done when it is answered
}

// end records the answer, and gives back what the request took.
func (w *response) end() {
	if w.code == 0 { // nothing was sent, or nothing was said of it
		w.code = http.StatusOK
	}
	w.trail.end(w.code, w.denied)
	for _, f := range w.after {
		f()
	}
}

func (w *response) WriteHeader(code int) {
	if !w.begun {
		w.compress(code)
	}
	w.begun = true
	if w.code == 0 || w.code == http.StatusContinue {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(b []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.packer != nil {
		return w.packer.Write(b)
	}
	return w.ResponseWriter.Write(b)
}

// Flush sends what is buffered.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError sends what is buffered and tells whether that worked.
func (w *response) FlushError() error {
	w.begun = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack takes the connection over.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.begun = true
	w.code = http.StatusSwitchingProtocols
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap gives http.ResponseController the writer with its deadlines.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
