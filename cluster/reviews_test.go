package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// account answers questions about the daemon's account, which has some roles.
type account []authorizationv1.ResourceRule

// accountWith has the roles that the project prints, without some.
func accountWith(t *testing.T, without ...string) account {
	t.Helper()
	var a account
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(RBAC), 4096)
	for {
		var role rbacv1.ClusterRole // a Role has the same fields, and other kinds no rules
		if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
			return append(a, authorizationv1.ResourceRule{ // everybody's
				Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"},
			})
		} else if err != nil {
			t.Fatal(err)
		}
		for _, r := range role.Rules {
			if !slices.Contains(without, role.Name) {
				a = append(a, authorizationv1.ResourceRule{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
			}
		}
	}
}

func (a account) may(q *authorizationv1.ResourceAttributes) bool {
	has := func(all []string, one string) bool { return slices.Contains(all, one) || slices.Contains(all, "*") }
	resource := q.Resource
	if q.Subresource != "" {
		resource += "/" + q.Subresource
	}
	return slices.ContainsFunc(a, func(r authorizationv1.ResourceRule) bool {
		return has(r.Verbs, q.Verb) && has(r.APIGroups, q.Group) && has(r.Resources, resource) &&
			(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, q.Name))
	})
}

func (a account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	object, err := readReview(w, r)
	if err != nil {
		answer(w, err)
		return
	}
	switch review := object.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		q := review.Spec.ResourceAttributes
		review.Status.Allowed = q == nil || a.may(q)
	case *authorizationv1.SelfSubjectRulesReview:
		review.Status.ResourceRules = a
	}
	write(w, http.StatusCreated, object)
}

// gate is a socket in front of an API server with an account: it serves exec of
// Sandboxes and of Pods, which show them, and metrics.
func gate(t *testing.T, a http.Handler) http.Handler {
	t.Helper()
	upstream := httptest.NewServer(a)
	t.Cleanup(upstream.Close)
	proxy, err := Proxy(&rest.Config{Host: upstream.URL, QPS: -1}, Local{
		Subresource: func(of schema.GroupResource, name, method string) (schema.GroupResource, bool) {
			known := of.Resource == "pods" && of.Group == "" || of.Resource == "sandboxes" && of.Group == group
			return schema.GroupResource{Group: group, Resource: "sandboxes"}, known && name == "exec" && method != http.MethodDelete
		},
		Path: func(path string) bool { return path == "/metrics" },
	}, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return proxy
}

// ask asks in JSON, or as kubectl does.
func ask[T runtime.Object](t *testing.T, socket http.Handler, path string, question T, protobuf bool) T {
	t.Helper()
	media := runtime.ContentTypeJSON
	if protobuf {
		media = runtime.ContentTypeProtobuf
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), media)
	var body bytes.Buffer
	if err := scheme.Codecs.EncoderForVersion(info.Serializer, authorizationv1.SchemeGroupVersion).Encode(question, &body); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, path, &body)
	r.Header.Set("Content-Type", media)
	socket.ServeHTTP(w, r)
	var answered T
	if err := json.Unmarshal(w.Body.Bytes(), &answered); err != nil || w.Code != http.StatusCreated || answered.GetObjectKind().GroupVersionKind().Kind == "" {
		t.Fatalf("answered %d %s: %v", w.Code, w.Body, err)
	}
	return answered
}

// TestWhatTheSocketMay: who asks at the socket what he may is told what he may there,
// and not what the daemon may in the cluster.
func TestWhatTheSocketMay(t *testing.T) {
	all, looking := gate(t, accountWith(t)), gate(t, accountWith(t, "sandboxd-socket"))
	for _, c := range []struct {
		verb, group, resource, name string
		all, looking                bool
	}{
		{"get", group, "sandboxes", "web", true, true},
		{"list", group, "goldenimages", "", true, true},
		{"watch", group, "sandboxsnapshots", "", true, true},
		{"create", group, "sandboxes", "", true, false},
		{"patch", group, "sandboxes", "web", true, false}, // which its controllers may
		{"delete", group, "sandboxes", "web", true, false},
		{"deletecollection", group, "sandboxes", "", true, false},
		{"patch", group, "sandboxes/status", "web", false, false},
		{"get", group, "sandboxes/status", "web", false, false}, // which the daemon may not
		{"delete", group, "others", "x", false, false},
		{"create", group, "sandboxes/exec", "web", true, true}, // which the daemon may not in the cluster
		{"get", "", "pods/exec", "web", true, true},
		{"delete", group, "sandboxes/exec", "web", false, false},
		{"get", "", "pods", "web", false, false},
		{"get", "", "secrets", "x", false, false}, // which it may, for passwords
		{"get", "", "namespaces", "default", true, false},
		{"delete", "", "namespaces", "default", false, false},
		{"list", "", "events", "", true, false},
		{"watch", "events.k8s.io", "events", "", true, false},
		{"create", "events.k8s.io", "events", "", false, false}, // which its recorder may
		{"update", "coordination.k8s.io", "leases", "sandboxd", false, false},
		{"get", "apiextensions.k8s.io", "customresourcedefinitions", "sandboxes.sandboxd.dev", true, true},
		{"list", "apiextensions.k8s.io", "customresourcedefinitions", "", false, false},
		{"create", "authorization.k8s.io", "selfsubjectaccessreviews", "", true, true},
		{"impersonate", "", "users", "admin", false, false},
		{"*", "*", "*", "", false, false},
		{"get", "*", "*", "", false, false},
		{"get", group, "sandboxes", "../../../secrets", false, false},
	} {
		resource, sub, _ := strings.Cut(c.resource, "/")
		for _, protobuf := range []bool{false, true} {
			question := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: c.verb, Group: c.group, Resource: resource, Subresource: sub, Name: c.name, Namespace: "default",
			}}}
			for name, of := range map[string]struct {
				socket http.Handler
				want   bool
			}{"all roles": {all, c.all}, "no role for the socket": {looking, c.looking}} {
				got := ask(t, of.socket, accessReviews, question, protobuf)
				if got.Status.Allowed != of.want || got.Spec.ResourceAttributes.Verb != c.verb {
					t.Errorf("%+v with %s: %+v", c, name, got.Status)
				}
			}
		}
	}
	for path, want := range map[string]bool{"/metrics": true, "/api": true, "/apis/apps": true, "/logs": false, "/api/v1/secrets": false} {
		question := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: path},
		}}
		if got := ask(t, all, accessReviews, question, false); got.Status.Allowed != want {
			t.Errorf("get %s: %+v", path, got.Status)
		}
	}
}

// TestRulesOfTheSocket: the list of rights has what single questions have.
func TestRulesOfTheSocket(t *testing.T) {
	for name, a := range map[string]account{
		"all": accountWith(t), "looking": accountWith(t, "sandboxd-socket"), "nothing": nil,
		"everything": {{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}},
	} {
		socket := gate(t, a)
		got := ask(t, socket, rulesReviews, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, true)
		if !got.Status.Incomplete || !strings.Contains(got.Status.EvaluationError, "not listed") {
			t.Errorf("%s: %+v", name, got.Status)
		}
		listed := account(got.Status.ResourceRules)
		for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate"} {
			for _, of := range []string{
				"sandboxes." + group, "goldenimages." + group, "sandboxsnapshots." + group, "events.", "events.events.k8s.io", "secrets.", "namespaces.",
				"leases.coordination.k8s.io", "pods.", "customresourcedefinitions.apiextensions.k8s.io", "selfsubjectrulesreviews.authorization.k8s.io",
			} {
				resource, apiGroup, _ := strings.Cut(of, ".")
				q := &authorizationv1.ResourceAttributes{Verb: verb, Group: apiGroup, Resource: resource, Namespace: "default"}
				single := ask(t, socket, accessReviews, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: q}}, false)
				if listed.may(q) != single.Status.Allowed {
					t.Errorf("%s: %s %s is listed: %v, and when asked for alone: %v (%s)", name, verb, of, listed.may(q), single.Status.Allowed, single.Status.Reason)
				}
			}
		}
	}
}

// TestBadQuestions are refused, and an API server that does not answer is named.
func TestBadQuestions(t *testing.T) {
	post := func(socket http.Handler, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		socket.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
		return w
	}
	socket := gate(t, accountWith(t))
	for _, body := range []string{
		"", "{}", "x", `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview"}`, "k8s\x00\xff",
		`{"apiVersion":"v1","kind":"Secret"}`, `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview"}`, strings.Repeat(" ", maxReview+1),
	} {
		if w := post(socket, accessReviews, body); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"reason":"BadRequest"`) {
			t.Errorf("%.60q is answered %d %s", body, w.Code, w.Body)
		}
	}
	away := gate(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	question := `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","group":"sandboxd.dev","resource":"sandboxes"}}}`
	if w := post(away, accessReviews, question); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "try again") {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}
