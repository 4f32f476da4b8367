package cluster

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
)

func TestWhatIsPassedOn(t *testing.T) {
	for request, want := range map[string]bool{
		"GET /apis/sandboxd.dev/v1/namespaces/default/sandboxes":       true,
		"PATCH /apis/sandboxd.dev/v1/namespaces/default/sandboxes/web": true,
		"DELETE /apis/sandboxd.dev/v1/goldenimages/tiny":               true,
		"GET /api":                              true,
		"GET /apis":                             true,
		"GET /apis/apps/v1":                     true,
		"GET /openapi/v3/apis/apps/v1":          true,
		"GET /api/v1/namespaces":                true,
		"GET /api/v1/namespaces/default":        true,
		"GET /api/v1/namespaces/default/events": true,
		"GET /apis/events.k8s.io/v1/namespaces/default/events":               true,
		"POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews":        true,
		"POST /apis/authorization.k8s.io/v1/subjectaccessreviews":            false,
		"POST /api/v1/namespaces":                                            false,
		"DELETE /api/v1/namespaces/default":                                  false,
		"GET /api/v1/secrets":                                                false,
		"GET /api/v1/namespaces/default/secrets":                             false,
		"GET /api/v1/namespaces/default/secrets/x":                           false,
		"GET /api/v1/namespaces/default/events/../secrets/x":                 false,
		"GET /apis/sandboxd.dev/../../api/v1/secrets":                        false,
		"GET /apis/sandboxd.dev/%2e%2e/%2e%2e/api/v1/secrets":                false,
		"GET /apis/sandboxd.dev/..%2f..%2fapi%2fv1%2fsecrets":                false,
		"GET //api/v1/secrets":                                               false,
		"GET /apis/sandboxd.development/v1/x/y":                              false,
		"GET /apis/coordination.k8s.io/v1/namespaces/sandboxd-system/leases": false,
		"POST /api/v1/namespaces/sandboxd-system/serviceaccounts/x/token":    false,
		"POST /api/v1/namespaces/default/events":                             false,
		"GET /api/v1/nodes":                                                  false,
		"GET /api/v1/namespaces/default/pods/x/exec":                         false,
		"GET /apis/apps/v1/deployments":                                      false,
		"GET /":                                                              false,
		"GET /metrics":                                                       false,
		"PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/x":    false,
		"POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings":        false,
		"GET /api/v1/watch/secrets":                                          false,
		"GET /api/v1/namespaces/default/events/x/secrets":                    true, // which there is not
	} {
		method, raw, _ := strings.Cut(request, " ")
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := passes(method, u); (err == nil) != want {
			t.Errorf("%s: passed on: %v, want %v", request, err == nil, want)
		}
	}
}

// TestProxyAsksAsItself: nobody at the socket can be somebody else in the cluster.
func TestProxyAsksAsItself(t *testing.T) {
	var got http.Header
	var path string
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, path = r.Header.Clone(), r.URL.RequestURI()
		_, _ = io.WriteString(w, "answer")
	}))
	defer upstream.Close()
	proxy, err := Proxy(&rest.Config{Host: upstream.URL, BearerToken: "daemons"}, Local{}, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/apis/sandboxd.dev/v1/sandboxes?watch=true&labelSelector=a%3Db", nil)
	for name, value := range map[string]string{
		"Authorization": "Bearer mine", "Impersonate-User": "admin", "impersonate-group": "system:masters",
		"Impersonate-Extra-Scopes": "x", "X-Remote-User": "admin", "X-Remote-Group": "system:masters", "Cookie": "c",
		"Accept": "application/json",
	} {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, r)
	if w.Code != http.StatusOK || w.Body.String() != "answer" || path != "/apis/sandboxd.dev/v1/sandboxes?watch=true&labelSelector=a%3Db" {
		t.Errorf("%d %q for %q", w.Code, w.Body, path)
	}
	if got.Get("Authorization") != "Bearer daemons" || got.Get("Accept") != "application/json" {
		t.Errorf("headers %v", got)
	}
	for name := range got {
		if name != "Authorization" && identifies(name) {
			t.Errorf("%s was passed on", name)
		}
	}
	upstream.Close()
	w = httptest.NewRecorder()
	proxy.ServeHTTP(w, r.Clone(t.Context()))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), `"kind":"Status"`) || !strings.Contains(w.Body.String(), "does not answer") {
		t.Errorf("without a server: %d %s", w.Code, w.Body)
	}
}
