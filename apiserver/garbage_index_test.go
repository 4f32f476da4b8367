package apiserver

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/store"
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
	send("POST", secrets, "application/json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","finalizers":["example.com/held"],
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

// TestIndexRecalls: an object that was made anew, before it was told that the one
// before it went, stays in the index.
func TestIndexRecalls(t *testing.T) {
	s := uncollected(t)
	key := store.Key{Resource: "secrets", Namespace: "default", Name: "a"}
	value := []byte(`{"metadata":{"name":"a","ownerReferences":[{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","name":"x","uid":"1"}]}}`)
	if _, err := s.store.Put(t.Context(), key, value, 0); err != nil {
		t.Fatal(err)
	}
	s.garbage.wrote(key, value)
	s.garbage.removed(t.Context(), store.Entry{Key: key, Value: value})
	if got := s.garbage.dependentsOf("1"); len(got) != 1 {
		t.Errorf("the dependents are %v", got)
	}
}
