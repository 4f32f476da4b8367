package apiserver_test

import (
	"slices"
	"testing"

	"sandboxd.dev/sandboxd/store"
)

// unready is a store that has not been opened yet.
type unready struct {
	store.Store
	is bool
}

func (u *unready) Revision() int64 {
	if u.is {
		return 0
	}
	return u.Store.Revision()
}

func TestHealth(t *testing.T) {
	st := &unready{Store: openStore(t)}
	a := newAPI(t, onStore(st))
	for path, want := range map[string]string{
		"/livez": "ok", "/healthz": "ok", "/readyz": "ok", "/livez/ping": "ok", "/readyz/store": "ok",
		"/readyz?verbose":               "[+]ping ok\n[+]store ok\nreadyz check passed\n",
		"/livez?verbose":                "[+]ping ok\nlivez check passed\n",
		"/readyz?verbose&exclude=store": "[+]ping ok\n[+]store excluded: ok\nreadyz check passed\n",
	} {
		if got := a.get(path).want(200); string(got.body) != want {
			t.Errorf("%s is %q", path, got.body)
		}
	}
	a.get("/livez/store").refused(404, "NotFound")
	a.get("/readyz/ping/x").refused(404, "NotFound")
	a.do("POST", "/livez", nil).refused(405, "MethodNotAllowed")
	st.is = true
	a.get("/readyz").refused(503, "ServiceUnavailable", "store failed: the store is not ready")
	if got := a.get("/readyz?verbose").want(503); string(got.body) != "[+]ping ok\n[-]store failed: the store is not ready\nreadyz check failed\n" {
		t.Errorf("an unready server answers %q", got.body)
	}
	a.get("/readyz?exclude=store").want(200)
	a.get("/livez").want(200)
}

func TestRoot(t *testing.T) {
	a := newAPI(t)
	paths, _ := a.get("/").want(200).field("paths").([]any)
	for _, path := range []string{"/api", "/api/v1", "/apis", "/apis/sandboxd.dev", "/apis/sandboxd.dev/v1", "/openapi/v2", "/version"} {
		if !slices.Contains(paths, any(path)) {
			t.Errorf("%s is not among %v", path, paths)
		}
		a.get(path).want(200)
	}
	a.do("DELETE", "/", nil).refused(405, "MethodNotAllowed")
}
