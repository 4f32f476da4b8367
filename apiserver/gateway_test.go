package apiserver_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
)

// TestGateway: what is on the host is served here, all else elsewhere, and a subresource
// only of an object that the other server has.
func TestGateway(t *testing.T) {
	var notReady error
	handler := func(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
		_, _ = io.WriteString(w, "exec in "+parent.GetNamespace()+"/"+parent.GetName())
	}
	g, err := apiserver.NewGateway(apiserver.GatewayOptions{
		Version: version.Info{GitVersion: "v1.2.3"}, Ready: func() error { return notReady },
		Parent: func(_ context.Context, gr schema.GroupResource, namespace, name string) (*unstructured.Unstructured, error) {
			switch name {
			case "gone":
				return nil, apierrors.NewNotFound(gr, name)
			case "down":
				return nil, errors.New("connection refused")
			}
			u := &unstructured.Unstructured{Object: map[string]any{}}
			u.SetName(name)
			u.SetNamespace(namespace)
			return u, nil
		},
		Upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "upstream "+r.Method+" "+r.URL.Path)
		}),
		Subresources: []apiserver.Subresource{
			{Resource: v1.Resource("sandboxes"), Name: "exec", Methods: []string{http.MethodGet}, Stream: true, Handler: handler},
			{Resource: schema.GroupResource{Resource: "pods"}, Name: "exec", Methods: []string{http.MethodGet}, Stream: true, Handler: handler},
			{Resource: v1.Resource("sandboxes"), Name: "broken", Methods: []string{http.MethodGet}, Handler: func(http.ResponseWriter, *http.Request, *unstructured.Unstructured) { panic("broken") }},
		},
		Endpoints: []apiserver.Endpoint{{Path: "metrics", Methods: []string{http.MethodGet}, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "figures")
		})}},
	})
	if err != nil {
		t.Fatal(err)
	}
	const sandboxes = "/apis/sandboxd.dev/v1/namespaces/ns/sandboxes/"
	for request, want := range map[string]struct {
		code int
		body string
	}{
		"GET " + sandboxes + "web/exec":                         {200, "exec in ns/web"},
		"GET /api/v1/namespaces/ns/pods/web/exec":               {200, "exec in ns/web"},
		"GET /api/v1/namespaces/ns/pods/web":                    {200, "upstream"},
		"GET /api":                                              {200, "upstream"},
		"POST " + sandboxes + "web/exec":                        {405, "not supported"},
		"GET " + sandboxes + "gone/exec":                        {404, `"gone\" not found`},
		"GET " + sandboxes + "down/exec":                        {503, "does not answer: connection refused"},
		"GET " + sandboxes + "web/broken":                       {500, "panic"},
		"GET " + sandboxes + "web/exec?a=%zz":                   {400, "query cannot be parsed"},
		"GET " + sandboxes + "web":                              {200, "upstream GET " + sandboxes + "web"},
		"PATCH " + sandboxes + "web/status":                     {200, "upstream PATCH " + sandboxes + "web/status"},
		"GET /apis/other.dev/v1/namespaces/ns/sandboxes/w/exec": {200, "upstream"},
		"GET /metrics":                                          {200, "figures"},
		"GET /version":                                          {200, "v1.2.3"},
		"GET /healthz":                                          {200, "ok"},
		"GET /readyz":                                           {503, "another host is before it"},
		"GET /api/v1/namespaces":                                {200, "upstream GET /api/v1/namespaces"},
	} {
		notReady = errors.New("another host is before it")
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.body) {
			t.Errorf("%s: %d %s, want %d %q", request, w.Code, w.Body, want.code, want.body)
		}
	}
	for _, header := range []string{"Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-Reason"} {
		for _, path := range []string{sandboxes + "web", sandboxes + "web/exec", "/metrics"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header.Set(header, "alice")
			w := httptest.NewRecorder()
			g.Handler().ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), header+" is not supported on this socket") {
				t.Errorf("%s with %s: %d %s", path, header, w.Code, w.Body)
			}
		}
	}
	notReady = nil
	w := httptest.NewRecorder()
	g.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusOK {
		t.Errorf("ready: %d", w.Code)
	}
}
