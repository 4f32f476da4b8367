package cluster

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// rights is an API server where the daemon's controllers may write everything, as their
// role says, and which lets the daemon create in one namespace only.
type rights struct {
	// createIn is that namespace; "*" stands for all, and "!" has nobody told.
	createIn string
	// wrote are the requests that the cluster got besides questions about rights.
	wrote []string
}

func (s *rights) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
		s.wrote = append(s.wrote, r.Method+" "+r.URL.Path)
		return
	}
	if s.createIn == "!" {
		answer(w, apierrors.NewForbidden(authorizationv1.Resource("selfsubjectaccessreviews"), "", nil))
		return
	}
	review := &authorizationv1.SelfSubjectAccessReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		answer(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	a := review.Spec.ResourceAttributes
	review.Status.Allowed = a.Verb != "create" || a.Group == group && (s.createIn == "*" || s.createIn == a.Namespace && a.Namespace != "")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(review)
}

// TestWritesOfTheSocket: what the controllers may do is not for the socket's users, who
// write where the daemon may create, and never a status.
func TestWritesOfTheSocket(t *testing.T) {
	const all = "/apis/sandboxd.dev/v1/"
	for name, c := range map[string]struct {
		createIn, request string
		passed            bool
	}{
		"looking":                       {"", "GET " + all + "namespaces/a/sandboxes/web", true},
		"looking at a status":           {"", "GET " + all + "namespaces/a/sandboxes/web/status", true},
		"looking, nobody is told":       {"!", "HEAD " + all + "sandboxes", true},
		"create":                        {"", "POST " + all + "namespaces/a/sandboxes", false},
		"delete":                        {"", "DELETE " + all + "namespaces/a/sandboxes/web", false},
		"delete all":                    {"", "DELETE " + all + "namespaces/a/sandboxes", false},
		"stop":                          {"", "PATCH " + all + "namespaces/a/sandboxes/web", false},
		"update":                        {"", "PUT " + all + "namespaces/a/sandboxes/web", false},
		"patch an image":                {"", "PATCH " + all + "goldenimages/tiny", false},
		"delete a snapshot":             {"", "DELETE " + all + "namespaces/a/sandboxsnapshots/s/", false},
		"another method":                {"", "FETCH " + all + "namespaces/a/sandboxes/web", false},
		"nobody is told":                {"!", "DELETE " + all + "namespaces/a/sandboxes/web", false},
		"bound, delete":                 {"*", "DELETE " + all + "namespaces/a/sandboxes/web", true},
		"bound, stop":                   {"*", "PATCH " + all + "namespaces/a/sandboxes/web", true},
		"bound, an image":               {"*", "POST " + all + "goldenimages", true},
		"bound, status":                 {"*", "PATCH " + all + "namespaces/a/sandboxes/web/status", false},
		"bound, status of an image":     {"*", "PUT " + all + "goldenimages/tiny/status", false},
		"bound, status with a slash":    {"*", "PATCH " + all + "namespaces/a/sandboxes/web/status/", false},
		"bound, another kind":           {"*", "POST " + all + "namespaces/a/others", false},
		"bound, the group":              {"*", "DELETE /apis/sandboxd.dev", false},
		"bound, the version":            {"*", "DELETE " + strings.TrimSuffix(all, "/"), false},
		"bound, a watch":                {"*", "DELETE " + all + "watch/namespaces/a/sandboxes/web", false},
		"bound in the namespace":        {"a", "PATCH " + all + "namespaces/a/sandboxes/web", true},
		"bound in another namespace":    {"b", "PATCH " + all + "namespaces/a/sandboxes/web", false},
		"bound in a namespace, image":   {"a", "DELETE " + all + "goldenimages/tiny", false},
		"bound, in a namespace's guise": {"namespaces", "PATCH " + all + "namespaces/a/sandboxes/web", false},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := &rights{createIn: c.createIn}
			server := httptest.NewServer(cluster)
			defer server.Close()
			proxy, err := Proxy(&rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, Local{}, logr.Discard())
			if err != nil {
				t.Fatal(err)
			}
			method, path, _ := strings.Cut(c.request, " ")
			w := httptest.NewRecorder()
			proxy.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if passed := len(cluster.wrote) == 1 && cluster.wrote[0] == c.request; passed != c.passed {
				t.Errorf("passed on: %v: %d %s, the cluster got %q", passed, w.Code, w.Body, cluster.wrote)
			}
			if !c.passed && (w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"reason":"Forbidden"`)) {
				t.Errorf("refused with %d %s", w.Code, w.Body)
			}
		})
	}
}

// TestWritesWithoutAnAnswer: a cluster that does not answer has nothing written.
func TestWritesWithoutAnAnswer(t *testing.T) {
	server := httptest.NewServer(&rights{})
	proxy, err := Proxy(&rest.Config{Host: server.URL}, Local{}, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, "/apis/sandboxd.dev/v1/goldenimages/tiny", nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "try again") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
