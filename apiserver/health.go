package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// healthCheck is one thing that health depends on.
type healthCheck struct {
	name string
	// ready: it counts for /readyz only. A server that is not ready is not to be
	// restarted for that.
	ready bool
	check func() error
}

func (s *Server) healthChecks() []healthCheck {
	return []healthCheck{
		{name: "ping", check: func() error { return nil }},
		{name: "store", ready: true, check: func() error {
			if s.store.Revision() == 0 {
				return errors.New("the store is not ready")
			}
			return nil
		}},
	}
}

// serveHealth answers /healthz, /livez and /readyz, and one check below them. As
// in Kubernetes, ?verbose tells of every check and ?exclude=NAME leaves one out.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request, segments []string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed(r.Method, r.URL.Path)
	}
	query := r.URL.Query()
	endpoint, excluded := segments[0], query["exclude"]
	known, failed := len(segments) == 1, false
	var report strings.Builder
	for _, c := range s.healthChecks() {
		if c.ready && endpoint != "readyz" || len(segments) > 1 && (len(segments) > 2 || segments[1] != c.name) {
			continue
		}
		known = true
		if slices.Contains(excluded, c.name) {
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.check(); err != nil {
			failed = true
			fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", c.name)
	}
	if !known {
		return pathNotFound()
	}
	const text = "text/plain; charset=utf-8"
	switch {
	case failed && !query.Has("verbose"):
		return apierrors.NewServiceUnavailable(endpoint + " check failed: " + strings.TrimSpace(report.String()))
	case failed:
		fmt.Fprintf(&report, "%s check failed\n", endpoint)
		writeBody(w, http.StatusServiceUnavailable, text, []byte(report.String()))
	case query.Has("verbose"):
		fmt.Fprintf(&report, "%s check passed\n", endpoint)
		writeBody(w, http.StatusOK, text, []byte(report.String()))
	default:
		writeBody(w, http.StatusOK, text, []byte("ok"))
	}
	return nil
}

// serveRoot answers / with the paths that are served.
func (s *Server) serveRoot(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed(r.Method, r.URL.Path)
	}
	paths := []string{"/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"}
	for _, gv := range s.registry.groupVersions() {
		root := rootPath(gv)
		if paths = append(paths, root); gv.Group != "" {
			paths = append(paths, "/apis/"+gv.Group)
		}
	}
	for name := range s.endpoints {
		paths = append(paths, "/"+name)
	}
	sort.Strings(paths)
	return writeTyped(w, mediaJSON, metav1.RootPaths{Paths: slices.Compact(paths)})
}
