package daemon

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	rbacv1 "k8s.io/api/rbac/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/apiserver/rbac"
	"sandboxd.dev/sandboxd/controller/usage"
	"sandboxd.dev/sandboxd/guest/access"
	"sandboxd.dev/sandboxd/store/bolt"
)

// asked is an Authorizer and an Auditor that keeps what it is asked and told.
type asked struct {
	mu    sync.Mutex
	verbs []string
	lines int
}

func (a *asked) Authorize(_ context.Context, _ apiserver.User, action apiserver.Action) (bool, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verbs = append(a.verbs, action.Verb)
	return true, "", nil
}

func (a *asked) Rules(context.Context, apiserver.User, string) ([]rbacv1.PolicyRule, error) {
	return nil, nil
}
func (a *asked) Ready() error { return nil }

func (a *asked) Record([]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines++
}

// TestReachingInIsKnown: of each subresource that the daemon serves it is known
// whether reading it is recorded, whether it needs more than the right to read, and
// whether users of a namespace may use it. A new one gets a row here.
func TestReachingInIsKnown(t *testing.T) {
	const nobody = "" // of the roles that are given for namespaces
	type how struct {
		recorded bool   // it hands out what is inside of a guest or an image
		connects bool   // the right to get is not enough
		role     string // the least that may get it
	}
	want := map[string]how{
		"sandboxes/exec":        {true, true, rbac.RoleUser},
		"sandboxes/attach":      {true, true, rbac.RoleUser},
		"sandboxes/portforward": {true, true, rbac.RoleUser},
		"sandboxes/files":       {true, false, rbac.RoleUser},
		"sandboxes/archive":     {true, false, rbac.RoleUser},
		"sandboxes/diskdiff":    {true, false, rbac.RoleUser},
		"sandboxes/diskarchive": {true, false, rbac.RoleUser},
		"sandboxes/log":         {false, false, rbac.RoleReadOnly},
		"pods/exec":             {true, true, rbac.RoleUser},
		"pods/attach":           {true, true, rbac.RoleUser},
		"pods/portforward":      {true, true, rbac.RoleUser},
		"pods/log":              {false, false, rbac.RoleReadOnly},
		"goldenimages/disk":     {true, false, nobody},
		"goldenimages/log":      {false, false, rbac.RoleReadOnly},
	}
	o := Options{}
	o.Config.DataDir = t.TempDir()
	images, err := imageSubresources(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	served := append(images, subresources(nil, &imageUsers{}, nil, &access.Disks{}, nil, usage.New(nil), logr.Discard())...)
	store, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	seen := &asked{}
	server, err := apiserver.New(t.Context(), apiserver.Options{
		Store: store, CRDs: v1.CRDs, Subresources: served, Authorizer: seen, Audit: apiserver.Audit{Log: seen},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	for _, sub := range served {
		name := sub.Resource.Resource + "/" + sub.Name
		w, ok := want[name]
		delete(want, name)
		if !ok {
			t.Errorf("%s is served, and nobody has said what reading it means: see carriers and connectors of package apiserver, and the roles of package rbac", name)
			continue
		}
		path := "/apis/" + sub.Resource.Group + "/v1/namespaces/ns/" + sub.Resource.Resource + "/one/" + sub.Name
		if sub.Resource.Group == "" {
			path = "/api" + strings.TrimPrefix(path, "/apis/")
		}
		if sub.Resource.Resource == "goldenimages" {
			path = strings.Replace(path, "/namespaces/ns", "", 1)
		}
		*seen = asked{}
		server.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
		got := how{recorded: seen.lines > 0, connects: slices.Contains(seen.verbs, "create"), role: leastRole(sub)}
		if got != w {
			t.Errorf("%s: %+v, want %+v", name, got, w)
		}
	}
	for name := range want {
		t.Errorf("%s is not served any more", name)
	}
}

// leastRole is the role of those that are given for namespaces that allows the
// least, and to get the subresource.
func leastRole(sub apiserver.Subresource) string {
	for _, name := range []string{rbac.RoleReadOnly, rbac.RoleUser} {
		for _, role := range rbac.ClusterRoles() {
			if role.Name == name && slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
				return slices.Contains(r.APIGroups, sub.Resource.Group) && slices.Contains(r.Verbs, "get") &&
					slices.Contains(r.Resources, sub.Resource.Resource+"/"+sub.Name)
			}) {
				return name
			}
		}
	}
	return ""
}
