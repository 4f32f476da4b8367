package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	authorization "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

// Local is what the socket serves by itself, whatever rights there are in the cluster.
// What is nil serves nothing.
type Local struct {
	// Subresource names the kind whose object must be readable for a subresource that
	// this host serves by a method; false for others.
	Subresource func(of schema.GroupResource, name, method string) (parent schema.GroupResource, ok bool)
	// Path tells whether this host serves a path.
	Path func(path string) bool
}

// reviewer tells the socket's users what they may do. The cluster would tell what the
// daemon may, which is more and less: it may read Secrets, and patch, and does so for
// nobody; and it has no right to reach into machines, which it does by itself.
//
//	question ─▶ served here?  ─ yes ─▶ may the daemon read the object?
//	               │ no
//	            passed on?    ─ no ──▶ no
//	               │ yes
//	            may the daemon? and, to write, may it create?
type reviewer struct {
	client authorization.AuthorizationV1Interface
	local  Local
}

func newReviewer(config *rest.Config, local Local) (*reviewer, error) {
	if local.Subresource == nil {
		local.Subresource = func(of schema.GroupResource, _, _ string) (schema.GroupResource, bool) { return of, false }
	}
	if local.Path == nil {
		local.Path = func(string) bool { return false }
	}
	client, err := authorization.NewForConfig(config)
	return &reviewer{client: client, local: local}, err
}

const (
	accessReviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	rulesReviews  = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
	// maxReview is longer than any question that somebody asks.
	maxReview = 64 << 10
)

// answers tells whether a request is a question that the reviewer answers.
func (v *reviewer) answers(method, path string) bool {
	return method == http.MethodPost && (path == accessReviews || path == rulesReviews)
}

func (v *reviewer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	object, err := readReview(w, r)
	if err == nil {
		switch review := object.(type) {
		case *authorizationv1.SelfSubjectAccessReview:
			err = v.access(r.Context(), review)
		case *authorizationv1.SelfSubjectRulesReview:
			err = v.rules(r.Context(), review)
		default:
			err = apierrors.NewBadRequest(fmt.Sprintf("the body is a %s, not a question about one's rights", object.GetObjectKind().GroupVersionKind().Kind))
		}
	}
	var status apierrors.APIStatus
	switch {
	case err == nil:
		write(w, http.StatusCreated, object)
	case errors.As(err, &status):
		answer(w, err)
	default:
		answer(w, apierrors.NewServiceUnavailable(fmt.Sprintf("the Kubernetes API server does not tell what this host's daemon may: %v: try again once it does", err)))
	}
}

// readReview reads a question in JSON, YAML or protobuf.
func readReview(w http.ResponseWriter, r *http.Request) (runtime.Object, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body cannot be read: %v", err))
	}
	object, kind, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body is not an object of %s: %v", authorizationv1.SchemeGroupVersion, err))
	}
	object.GetObjectKind().SetGroupVersionKind(*kind)
	return object, nil
}

// access answers whether one thing may be done.
func (v *reviewer) access(ctx context.Context, review *authorizationv1.SelfSubjectAccessReview) error {
	spec := review.Spec
	if (spec.ResourceAttributes == nil) == (spec.NonResourceAttributes == nil) {
		return apierrors.NewBadRequest("exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
	review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "this host's daemon serves it"}
	var questions []authorizationv1.SelfSubjectAccessReviewSpec
	if a := spec.ResourceAttributes; a != nil {
		attributes, err := v.questions(*a)
		if err != nil {
			review.Status = authorizationv1.SubjectAccessReviewStatus{Reason: err.Error()}
			return nil
		}
		for i := range attributes {
			questions = append(questions, authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes[i]})
		}
	} else if a := spec.NonResourceAttributes; !v.local.Path(a.Path) {
		if err := passes(strings.ToUpper(a.Verb), &url.URL{Path: a.Path}); err != nil {
			review.Status = authorizationv1.SubjectAccessReviewStatus{Reason: err.Error()}
			return nil
		}
		questions = append(questions, spec)
	}
	for _, q := range questions {
		answered, err := v.client.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: q}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if review.Status = answered.Status; !answered.Status.Allowed {
			return nil
		}
	}
	return nil
}

// methods are how what a verb means is asked for.
var methods = map[string]string{
	"get": http.MethodGet, "list": http.MethodGet, "watch": http.MethodGet, "create": http.MethodPost, "update": http.MethodPut,
	"patch": http.MethodPatch, "delete": http.MethodDelete, "deletecollection": http.MethodDelete,
}

// questions are what the daemon must be allowed so that the socket's users may do
// something. An error says why they may not, whatever the daemon may.
func (v *reviewer) questions(a authorizationv1.ResourceAttributes) ([]authorizationv1.ResourceAttributes, error) {
	method, ok := methods[a.Verb]
	if !ok {
		return nil, forbidden(fmt.Sprintf("the verb %q is for nobody at this host's socket", a.Verb))
	}
	if parent, ok := v.local.Subresource(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Subresource, method); ok {
		return []authorizationv1.ResourceAttributes{{Verb: "get", Group: parent.Group, Version: "v1", Resource: parent.Resource, Namespace: a.Namespace, Name: a.Name}}, nil
	}
	asked := &url.URL{Path: pathOf(a)}
	if err := passes(method, asked); err != nil {
		return nil, err
	}
	if method == http.MethodGet || !below(asked.Path, "/apis/"+group) {
		return []authorizationv1.ResourceAttributes{a}, nil
	}
	namespace, resource, ok := written(asked.Path)
	if !ok {
		return nil, notWritten(method, asked.Path)
	}
	return []authorizationv1.ResourceAttributes{a, {Verb: "create", Group: group, Version: "v1", Resource: resource, Namespace: namespace}}, nil
}

// nowhere are the kinds of what is offered that are in no namespace, although one may
// be asked about.
var nowhere = []string{"namespaces", "goldenimages", "customresourcedefinitions", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}

// pathOf is where what somebody wants to do something to would be.
func pathOf(a authorizationv1.ResourceAttributes) string {
	p := "/api/v1"
	if a.Group != "" {
		p = "/apis/" + a.Group + "/v1"
	}
	if a.Namespace != "" && !slices.Contains(nowhere, a.Resource) {
		p += "/namespaces/" + a.Namespace
	}
	for _, segment := range []string{a.Resource, a.Name, a.Subresource} {
		if segment != "" {
			p += "/" + segment
		}
	}
	return p
}

// looked are the verbs of who looks at something.
var looked = []string{"get", "list", "watch"}

// offered is what the socket passes on to the cluster at all.
var offered = []authorizationv1.ResourceRule{
	{APIGroups: []string{group}, Resources: kinds, Verbs: append(slices.Clone(looked), "create", "update", "patch", "delete", "deletecollection")},
	{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: looked},
	{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: looked},
	{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: looked},
	{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}, Verbs: []string{"create"}},
	{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}, Verbs: []string{"create"}},
}

// rules answers what may be done in a namespace: what the daemon may, of what is
// offered.
func (v *reviewer) rules(ctx context.Context, review *authorizationv1.SelfSubjectRulesReview) error {
	answered, err := v.client.SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: review.Spec}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	review.Status = answered.Status
	review.Status.ResourceRules = shown(answered.Status.ResourceRules)
	review.Status.Incomplete = true
	review.Status.EvaluationError = strings.TrimPrefix(review.Status.EvaluationError+"; what is inside the machines of this host (exec, logs, files, disks) is not listed: who may look at a sandbox may use it", "; ")
	return nil
}

// shown are the rules of the daemon as far as they are for the socket's users.
func shown(rules []authorizationv1.ResourceRule) []authorizationv1.ResourceRule {
	all := []authorizationv1.ResourceRule{}
	for _, o := range offered {
		for _, group := range o.APIGroups {
			for _, resource := range o.Resources {
				all = append(all, ofKind(rules, group, resource, o.Verbs)...)
			}
		}
	}
	return all
}

// ofKind are the rules about one kind, with those of some verbs that they have. What is
// written needs the right to create, of all objects.
func ofKind(rules []authorizationv1.ResourceRule, of, resource string, verbs []string) []authorizationv1.ResourceRule {
	has := func(all []string, one string) bool { return slices.Contains(all, one) || slices.Contains(all, "*") }
	about := func(r authorizationv1.ResourceRule) bool { return has(r.APIGroups, of) && has(r.Resources, resource) }
	creates := slices.ContainsFunc(rules, func(r authorizationv1.ResourceRule) bool {
		return about(r) && has(r.Verbs, "create") && len(r.ResourceNames) == 0
	})
	var kept []authorizationv1.ResourceRule
	for _, r := range rules {
		if !about(r) {
			continue
		}
		one := authorizationv1.ResourceRule{APIGroups: []string{of}, Resources: []string{resource}, ResourceNames: r.ResourceNames}
		for _, verb := range verbs {
			if has(r.Verbs, verb) && (creates || slices.Contains(looked, verb)) {
				one.Verbs = append(one.Verbs, verb)
			}
		}
		if len(one.Verbs) > 0 {
			kept = append(kept, one)
		}
	}
	return kept
}
