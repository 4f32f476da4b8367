package rbac_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/apiserver/rbac"
)

// objects are a Reader.
type objects struct {
	clusterRoles    map[string]*rbacv1.ClusterRole
	roles           map[string]*rbacv1.Role
	clusterBindings []*rbacv1.ClusterRoleBinding
	bindings        map[string][]*rbacv1.RoleBinding
	broken          error
}

func (o *objects) ClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	return o.clusterRoles[name], o.broken
}

func (o *objects) Role(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	return o.roles[namespace+"/"+name], o.broken
}

func (o *objects) ClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	return o.clusterBindings, nil
}

func (o *objects) RoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	return o.bindings[namespace], nil
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func user(name string) []rbacv1.Subject { return []rbacv1.Subject{{Kind: "User", Name: name}} }

// world has the roles of every server, and who has them.
func world() *objects {
	o := &objects{clusterRoles: map[string]*rbacv1.ClusterRole{}, roles: map[string]*rbacv1.Role{}, bindings: map[string][]*rbacv1.RoleBinding{}}
	for _, r := range rbac.ClusterRoles() {
		o.clusterRoles[r.Name] = &r
	}
	for _, b := range rbac.ClusterRoleBindings() {
		o.clusterBindings = append(o.clusterBindings, &b)
	}
	everywhere := func(name, role string) {
		o.clusterBindings = append(o.clusterBindings, &rbacv1.ClusterRoleBinding{RoleRef: ref("ClusterRole", role), Subjects: user(name)})
	}
	in := func(namespace, kind, role string, subjects ...rbacv1.Subject) {
		o.bindings[namespace] = append(o.bindings[namespace], &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: namespace}, RoleRef: ref(kind, role), Subjects: subjects,
		})
	}
	everywhere("admin", rbac.RoleAdmin)
	everywhere("reader", rbac.RoleReadOnly)
	everywhere("alice", rbac.RoleCatalog)
	in("a", "ClusterRole", rbac.RoleUser, user("alice")...)
	in("a", "ClusterRole", "admin", user("lead")...)
	in("a", "Role", "one", rbacv1.Subject{Kind: "Group", Name: "team"}, rbacv1.Subject{Kind: "ServiceAccount", Name: "robot"})
	in("a", "Role", "gone", user("alice")...)
	o.roles["a/one"] = &rbacv1.Role{Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{"sandboxd.dev"}, Resources: []string{"sandboxes", "*/log"}, ResourceNames: []string{"x"}},
	}}
	return o
}

const sandboxd = "sandboxd.dev"

func TestAuthorize(t *testing.T) {
	a := rbac.New(world())
	rq := func(verb, group, resource, namespace string) rbac.Request {
		r := rbac.Request{Verb: verb, Group: group, Namespace: namespace}
		r.Resource, r.Subresource, _ = strings.Cut(resource, "/")
		return r
	}
	named := func(r rbac.Request, name string) rbac.Request { r.Name = name; return r }
	path := func(verb, path string) rbac.Request { return rbac.Request{Verb: verb, Path: path} }
	authenticated := []string{"system:authenticated"}
	for _, c := range []struct {
		user    string
		groups  []string
		request rbac.Request
		allowed bool
	}{
		// The roles that the kubeconfig command gives.
		{"admin", nil, rq("delete", sandboxd, "goldenimages", ""), true},
		{"admin", nil, rq("create", "", "pods/exec", "a"), true},
		{"admin", nil, path("post", "/admin/users"), true},
		{"alice", nil, rq("create", sandboxd, "sandboxes", "a"), true},
		{"alice", nil, rq("watch", sandboxd, "sandboxes", "a"), true},
		{"alice", nil, rq("list", sandboxd, "sandboxes", ""), false},
		{"alice", nil, rq("get", sandboxd, "sandboxes", "b"), false},
		{"alice", nil, rq("update", sandboxd, "sandboxes/status", "a"), false},
		{"alice", nil, rq("get", sandboxd, "sandboxes/status", "a"), true},
		{"alice", nil, rq("get", sandboxd, "sandboxes/exec", "a"), true},
		{"alice", nil, rq("create", sandboxd, "sandboxes/exec", "a"), true},
		{"alice", nil, rq("create", "", "pods/exec", "a"), true},
		{"alice", nil, rq("create", "", "pods/exec", "b"), false},
		{"alice", nil, rq("get", "", "secrets", "a"), true},
		{"alice", nil, rq("get", "", "secrets", ""), false},
		{"alice", nil, rq("delete", sandboxd, "sandboxsnapshots", "a"), true},
		{"alice", nil, rq("list", sandboxd, "goldenimages", ""), true},
		{"alice", nil, rq("get", sandboxd, "goldenimages/disk", ""), false},
		{"alice", nil, rq("create", sandboxd, "goldenimages", ""), false},
		{"alice", nil, rq("list", "", "namespaces", ""), true},
		{"alice", nil, rq("delete", "", "namespaces", "a"), false},
		{"alice", nil, rq("create", rbacv1.GroupName, "rolebindings", "a"), false},
		{"alice", nil, path("get", "/admin/backup"), false},
		{"alice", nil, path("get", "/metrics"), false},
		{"reader", nil, rq("list", sandboxd, "sandboxes", ""), true},
		{"reader", nil, rq("get", sandboxd, "sandboxes/log", "a"), true},
		{"reader", nil, rq("get", "", "pods/log", "b"), true},
		{"reader", nil, rq("get", "", "secrets", "a"), false},
		{"reader", nil, rq("list", "", "secrets", ""), false},
		{"reader", nil, rq("get", sandboxd, "sandboxes/exec", "a"), false},
		{"reader", nil, rq("create", "", "pods/exec", "a"), false},
		{"reader", nil, rq("get", "", "pods/portforward", "a"), false},
		{"reader", nil, rq("get", sandboxd, "sandboxes/files", "a"), false},
		{"reader", nil, rq("get", sandboxd, "sandboxes/archive", "a"), false},
		{"reader", nil, rq("get", sandboxd, "sandboxes/diskdiff", "a"), false},
		{"reader", nil, rq("patch", sandboxd, "sandboxes", "a"), false},
		{"lead", nil, rq("create", rbacv1.GroupName, "rolebindings", "a"), true},
		{"lead", nil, rq("escalate", rbacv1.GroupName, "roles", "a"), false},
		{"lead", nil, rq("bind", rbacv1.GroupName, "clusterroles", "a"), false},
		{"lead", nil, rq("create", rbacv1.GroupName, "clusterrolebindings", ""), false},
		// Everybody who is known, and nobody else.
		{"x", authenticated, path("get", "/api"), true},
		{"x", authenticated, path("get", "/apis/sandboxd.dev/v1"), true},
		{"x", authenticated, path("get", "/apisx"), false},
		{"x", authenticated, path("post", "/api"), false},
		{"x", authenticated, rq("create", "authorization.k8s.io", "selfsubjectaccessreviews", ""), true},
		{"x", authenticated, rq("create", "authorization.k8s.io", "subjectaccessreviews", ""), false},
		{"x", nil, path("get", "/api"), false},
		{"x", []string{"system:unauthenticated"}, path("get", "/healthz"), true},
		{"x", []string{"system:masters"}, path("delete", "/anything"), true},
		// Names, groups, accounts, stars.
		{"m", []string{"team"}, named(rq("get", sandboxd, "sandboxes", "a"), "x"), true},
		{"m", []string{"team"}, named(rq("get", sandboxd, "sandboxes", "a"), "y"), false},
		{"m", []string{"team"}, rq("get", sandboxd, "sandboxes", "a"), false},
		{"m", []string{"team"}, named(rq("get", sandboxd, "sandboxes/log", "a"), "x"), true},
		{"m", []string{"team"}, named(rq("get", sandboxd, "sandboxes/exec", "a"), "x"), false},
		{"m", []string{"team"}, named(rq("get", "", "sandboxes", "a"), "x"), false},
		{"team", nil, named(rq("get", sandboxd, "sandboxes", "a"), "x"), false},
		{"system:serviceaccount:a:robot", nil, named(rq("get", sandboxd, "sandboxes", "a"), "x"), true},
		{"system:serviceaccount:b:robot", nil, named(rq("get", sandboxd, "sandboxes", "a"), "x"), false},
		{"", nil, rq("get", sandboxd, "sandboxes", "a"), false},
	} {
		allowed, reason, err := a.Authorize(t.Context(), rbac.Subject{Name: c.user, Groups: c.groups}, c.request)
		if allowed != c.allowed || err != nil {
			t.Errorf("%s %v: %+v: %v (%s), %v", c.user, c.groups, c.request, allowed, reason, err)
		}
	}
}

// TestUnreadable: what cannot be read allows nothing, and hides nothing else.
func TestUnreadable(t *testing.T) {
	o := world()
	o.broken = errors.New("broken")
	a := rbac.New(o)
	r := rbac.Request{Verb: "get", Group: sandboxd, Resource: "sandboxes", Namespace: "a"}
	if allowed, _, err := a.Authorize(t.Context(), rbac.Subject{Name: "alice"}, r); allowed || err == nil {
		t.Errorf("allowed %v: %v", allowed, err)
	}
	if allowed, _, err := a.Authorize(t.Context(), rbac.Subject{Name: "x", Groups: []string{rbac.Masters}}, r); !allowed || err != nil {
		t.Errorf("the masters are locked out: %v", err)
	}
}

// TestLesserRoles: who has admin in a namespace has all of edit, and that all of
// view, so that he may give them.
func TestLesserRoles(t *testing.T) {
	o := world()
	o.bindings["a"] = append(o.bindings["a"], &rbacv1.RoleBinding{RoleRef: ref("ClusterRole", "edit"), Subjects: user("editor")})
	a := rbac.New(o)
	for _, c := range []struct {
		user, role string
		held       bool
	}{
		{"lead", "admin", true}, {"lead", "edit", true}, {"lead", "view", true}, {"lead", rbac.RoleUser, true}, {"lead", rbac.RoleReadOnly, true},
		{"lead", "cluster-admin", false},
		{"editor", "admin", false}, {"editor", "edit", true}, {"editor", "view", true},
	} {
		missing, err := a.Missing(t.Context(), rbac.Subject{Name: c.user}, "a", o.clusterRoles[c.role].Rules)
		if err != nil || (len(missing) == 0) != c.held {
			t.Errorf("%s lacks of %s: %s, %v", c.user, c.role, rbac.Words(missing), err)
		}
	}
}

func TestMissing(t *testing.T) {
	a := rbac.New(world())
	rule := func(verbs, resources string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{Verbs: strings.Split(verbs, ","), APIGroups: []string{sandboxd}, Resources: strings.Split(resources, ",")}}
	}
	for _, c := range []struct {
		user, namespace string
		wanted          []rbacv1.PolicyRule
		held            bool
	}{
		{"alice", "a", rule("get,create", "sandboxes"), true},
		{"alice", "a", rule("get,create", "sandboxes,sandboxes/exec"), true},
		{"alice", "a", rule("*", "sandboxes"), false},
		{"alice", "a", rule("get", "*"), false},
		{"alice", "b", rule("get", "sandboxes"), false},
		{"alice", "", rule("get", "sandboxes"), false},
		{"admin", "", rule("*", "*"), true},
		{"admin", "", rbac.Everything(), true},
	} {
		missing, err := a.Missing(t.Context(), rbac.Subject{Name: c.user}, c.namespace, c.wanted)
		if err != nil || (len(missing) == 0) != c.held {
			t.Errorf("%s in %q of %s: missing %s, %v", c.user, c.namespace, rbac.Words(c.wanted), rbac.Words(missing), err)
		}
	}
}
