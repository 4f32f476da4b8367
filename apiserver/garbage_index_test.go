package apiserver

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/store/bolt"
)

// uncollected is a server whose collector keeps its index and does nothing.
func uncollected(t *testing.T) *Server {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	s, err := New(t.Context(), Options{Store: st, CRDs: v1.CRDs})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (g *garbage) indexed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.dependents)
}

// TestIndexForgets: what is gone is not remembered, however it went.
func TestIndexForgets(t *testing.T) {
	s := uncollected(t)
	send := func(method, path, media, body string, code int) {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", media)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != code {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	const secrets = "/api/v1/namespaces/default/secrets"
	send("POST", secrets, "application/json", `{"metadata":{"name":"a","finalizers":["example.com/held"],
		"ownerReferences":[{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","name":"x","uid":"1"}]}}`, 201)
	send("DELETE", secrets+"/a", "application/json", `{}`, 200)
	if s.garbage.indexed() != 1 {
		t.Fatal("the dependent is not in the index")
	}
	send("PATCH", secrets+"/a", "application/merge-patch+json", `{"metadata":{"finalizers":null}}`, 200)
	if s.garbage.indexed() != 0 {
		t.Error("a dependent that is gone is still in the index")
	}
}
