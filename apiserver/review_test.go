package apiserver_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"sandboxd.dev/sandboxd/apiserver"
)

func secretNamed(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// TestReviews: the answers of access reviews are what requests then meet, in
// every form that clients ask in.
func TestReviews(t *testing.T) {
	h := newHost(t)
	h.bind("alice", "sandboxd:user", "default")
	alice, root := clientset(t, h.token("alice")), clientset(t, h.server.LoopbackConfig())
	for _, c := range []struct {
		verb, resource, sub, namespace string
		allowed                        bool
	}{
		{"create", "secrets", "", "default", true},
		{"create", "secrets", "", "other", false},
		{"list", "secrets", "", "", false},
		{"create", "pods", "exec", "default", true},
		{"get", "nodes", "", "", false},
	} {
		attributes := &authorizationv1.ResourceAttributes{Verb: c.verb, Resource: c.resource, Subresource: c.sub, Namespace: c.namespace, Version: "v1"}
		self, err := alice.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(),
			&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}, metav1.CreateOptions{})
		if err != nil || self.Status.Allowed != c.allowed || self.Status.Allowed != (self.Status.Reason != "") {
			t.Errorf("%+v: the answer is %+v, %v", c, self.Status, err)
		}
		other, err := root.AuthorizationV1().SubjectAccessReviews().Create(t.Context(),
			&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "alice", ResourceAttributes: attributes}}, metav1.CreateOptions{})
		if err != nil || other.Status.Allowed != c.allowed {
			t.Errorf("%+v: the answer to another is %+v, %v", c, other.Status, err)
		}
		if c.namespace == "" {
			continue
		}
		local, err := root.AuthorizationV1().LocalSubjectAccessReviews(c.namespace).Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace}, Spec: authorizationv1.SubjectAccessReviewSpec{User: "alice", ResourceAttributes: attributes},
		}, metav1.CreateOptions{})
		if err != nil || local.Status.Allowed != c.allowed {
			t.Errorf("%+v: the answer in the namespace is %+v, %v", c, local.Status, err)
		}
	}
	if _, err := alice.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("anybody may ask about others: %v", err)
	}
	rules, err := alice.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || rules.Status.Incomplete || len(rules.Status.NonResourceRules) == 0 || !slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
		return slices.Contains(r.Resources, "pods/exec") && slices.Contains(r.Verbs, "create")
	}) {
		t.Errorf("the rules are %+v, %v", rules.Status, err)
	}
	who, err := alice.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "alice" || !slices.Equal(who.Status.UserInfo.Groups, []string{"system:authenticated"}) {
		t.Errorf("it is %+v, %v", who.Status, err)
	}
	if lines := h.audit.take(); len(lines) != 0 {
		t.Errorf("questions are in the audit log: %v", lines)
	}
}

func TestTokenReview(t *testing.T) {
	h := newHost(t)
	root := clientset(t, h.server.LoopbackConfig())
	config := h.token("alice", "team")
	for token, valid := range map[string]bool{config.BearerToken: true, config.BearerToken + "x": false} {
		review, err := root.AuthenticationV1().TokenReviews().Create(t.Context(),
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil || review.Status.Authenticated != valid || valid != (review.Status.User.Username == "alice") || review.Spec.Token != "" {
			t.Errorf("a token that is valid %v: %+v, %v", valid, review, err)
		}
	}
}

// TestReviewForms: questions come as JSON, YAML and protobuf.
func TestReviewForms(t *testing.T) {
	h := newHost(t)
	review := &authorizationv1.SelfSubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"},
		Spec:     authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/api", Verb: "get"}},
	}
	asJSON, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	var asProtobuf bytes.Buffer
	if err := protobuf.NewSerializer(clientscheme.Scheme, clientscheme.Scheme).Encode(review, &asProtobuf); err != nil {
		t.Fatal(err)
	}
	config := h.token("x")
	for media, body := range map[string]string{
		"application/json": string(asJSON), "application/yaml": string(asYAML), "application/vnd.kubernetes.protobuf": asProtobuf.String(),
	} {
		code, answer := ask(t, config, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body, "Content-Type", media)
		var got authorizationv1.SelfSubjectAccessReview
		if err := json.Unmarshal([]byte(answer), &got); err != nil || code != 201 || !got.Status.Allowed {
			t.Errorf("%s: %d %s", media, code, answer)
		}
	}
	for _, bad := range []string{
		`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview"}`,
		`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{},"nonResourceAttributes":{}}}`,
	} {
		if code, answer := ask(t, config, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", bad); code != 422 {
			t.Errorf("%s: %d %s", bad, code, answer)
		}
	}
	for _, method := range []string{"GET", "DELETE", "PUT"} {
		if code, answer := ask(t, h.bound("admin", "cluster-admin"), method, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", nil); code != 405 {
			t.Errorf("%s: %d %s", method, code, answer)
		}
	}
}

// bound is somebody with a role everywhere.
func (h *host) bound(user, role string) *rest.Config {
	h.t.Helper()
	name := user + strings.ToLower(h.t.Name())
	if _, err := clientset(h.t, h.server.LoopbackConfig()).RbacV1().ClusterRoleBindings().Get(h.t.Context(), name+":"+role, metav1.GetOptions{}); err != nil {
		h.bind(name, role, "")
	}
	return h.token(name)
}

// TestImpersonation: only who may acts as somebody else, and then with his
// rights and no others.
func TestImpersonation(t *testing.T) {
	h := newHost(t)
	h.bind("alice", "sandboxd:user", "default")
	admin := h.bound("admin", "cluster-admin")
	const secrets, others = "/api/v1/namespaces/default/secrets", "/api/v1/namespaces/other/secrets"
	for _, c := range []struct {
		who     *rest.Config
		path    string
		headers []string
		code    int
	}{
		{admin, secrets, []string{"Impersonate-User", "alice"}, 200},
		{admin, others, []string{"Impersonate-User", "alice"}, 403},
		{admin, others, []string{"Impersonate-User", "x", "Impersonate-Group", "system:masters"}, 200},
		{admin, others, []string{"Impersonate-User", "system:serviceaccount:default:robot"}, 403},
		{admin, secrets, []string{"Impersonate-Group", "team"}, 400},
		{admin, secrets, []string{"Impersonate-User", "alice", "Impersonate-Uid", "1"}, 400},
		{admin, secrets, []string{"Impersonate-User", "alice", "Impersonate-Extra-Scopes", "1"}, 400},
		{h.token("alice"), secrets, []string{"Impersonate-User", "bob"}, 403},
		{h.token("alice"), secrets, []string{"Impersonate-User", "alice"}, 403},
		{h.token("alice"), "/version", []string{"Impersonate-User", "x", "Impersonate-Group", "system:masters"}, 403},
	} {
		if code, body := ask(t, c.who, "GET", c.path, nil, c.headers...); code != c.code {
			t.Errorf("%s with %v: %d %s", c.path, c.headers, code, body)
		}
	}
	// Who may act as users may not take their groups.
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "actor"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"users"}, ResourceNames: []string{"alice"}},
	}}
	if _, err := clientset(t, h.server.LoopbackConfig()).RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	actor := h.bound("actor", "actor")
	for headers, want := range map[string]int{"alice": 200, "bob": 403, "alice system:masters": 403} {
		user, group, _ := strings.Cut(headers, " ")
		given := []string{"Impersonate-User", user}
		if group != "" {
			given = append(given, "Impersonate-Group", group)
		}
		if code, body := ask(t, actor, "GET", secrets, nil, given...); code != want {
			t.Errorf("as %s: %d %s", headers, code, body)
		}
	}
}

// TestEscalation: nobody gives what he has not.
func TestEscalation(t *testing.T) {
	h := newHost(t)
	h.bind("lead", "admin", "default")
	c := clientset(t, h.token("lead")).RbacV1()
	bind := func(name, kind, role string) error {
		_, err := c.RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
			Subjects:   []rbacv1.Subject{{Kind: "User", Name: "bob"}},
		}, metav1.CreateOptions{})
		return err
	}
	role := func(name, verb, resource string) error {
		_, err := c.Roles("default").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{resource}},
		}}, metav1.CreateOptions{})
		return err
	}
	for name, err := range map[string]error{
		"a role of what is had": role("ok", "get", "secrets"), "a binding to what is had": bind("ok", "ClusterRole", "sandboxd:user"), "to a role of one's own": bind("own", "Role", "ok"),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"a role of more": role("more", "get", "nodes"), "a role of all": role("all", "*", "*"),
		"a binding to more": bind("more", "ClusterRole", "cluster-admin"), "a binding to what is not there": bind("later", "Role", "later"),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := c.Roles("default").Get(t.Context(), "ok", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got.Rules[0].Resources = []string{"secrets", "nodes"}
	if _, err := c.Roles("default").Update(t.Context(), got, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is attempting to grant RBAC permissions not currently held") {
		t.Errorf("an update to more: %v", err)
	}
	binding, err := c.RoleBindings("default").Get(t.Context(), "ok", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding.RoleRef.Name = "view"
	if _, err := c.RoleBindings("default").Update(t.Context(), binding, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another roleRef: %v", err)
	}
}

// TestApplyNeedsCreate: what is applied is made by those alone who may make it.
func TestApplyNeedsCreate(t *testing.T) {
	h := newHost(t)
	root := clientset(t, h.server.LoopbackConfig())
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "patcher"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "patch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
	}}
	if _, err := root.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.bind("patcher", "patcher", "default")
	h.bind("alice", "sandboxd:user", "default")
	apply := func(user, query string) (int, string) {
		return ask(t, h.token(user), "PATCH", "/api/v1/namespaces/default/configmaps/x?fieldManager="+user+query,
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","labels":{"by":"`+user+`"}}}`, "Content-Type", applyPatch)
	}
	const refusal = `configmaps \"x\" is forbidden: User \"patcher\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\"`
	for _, query := range []string{"", "&dryRun=All"} {
		if code, body := apply("patcher", query); code != 403 || !strings.Contains(body, refusal) {
			t.Errorf("to make it: %d %s", code, body)
		}
	}
	if _, err := root.CoreV1().ConfigMaps("default").Get(t.Context(), "x", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("there is one: %v", err)
	}
	if code, body := apply("alice", ""); code != 201 {
		t.Errorf("who may make it: %d %s", code, body)
	}
	if code, body := apply("patcher", "&force=true"); code != 200 {
		t.Errorf("to change it: %d %s", code, body)
	}
}

// TestRolesComeBack: what every server has is as it is to be after a restart,
// unless people say that it is theirs.
func TestRolesComeBack(t *testing.T) {
	st := openStore(t)
	s := newServer(t, func(o *apiserver.Options) { o.Store = st })
	c := clientset(t, s.LoopbackConfig()).RbacV1().ClusterRoles()
	for _, name := range []string{"sandboxd:user", "edit"} {
		role, err := c.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		role.Rules = nil
		if name == "edit" {
			role.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
		}
		if _, err := c.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Delete(t.Context(), "view", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = newServer(t, func(o *apiserver.Options) { o.Store = st })
	c = clientset(t, s.LoopbackConfig()).RbacV1().ClusterRoles()
	for name, whole := range map[string]bool{"sandboxd:user": true, "edit": false, "view": true} {
		if role, err := c.Get(t.Context(), name, metav1.GetOptions{}); err != nil || (len(role.Rules) > 0) != whole {
			t.Errorf("%s has %d rules: %v", name, len(role.Rules), err)
		}
	}
}
