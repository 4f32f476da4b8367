package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/apiserver/rbac"
)

// Action is what a request asks to do, as Kubernetes names it: something to a
// resource or, when Resource is empty, to a path.
type Action struct {
	Verb        string
	Group       string
	Version     string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Path        string
}

// Authorizer decides what users may do. It is asked before anything else is done
// for a request, and may be asked several times for one.
type Authorizer interface {
	// Authorize tells whether a user may do something, and why. An error means that
	// it could not be found out; the request is refused then.
	Authorize(ctx context.Context, u User, a Action) (allowed bool, reason string, err error)
	// Rules are what a user may do in a namespace. With an error they may be not
	// all.
	Rules(ctx context.Context, u User, namespace string) ([]rbacv1.PolicyRule, error)
}

// connectors are subresources that reach into something. Reaching in by GET, as
// WebSocket clients must, needs the right to create too: who may only get
// things must not.
var connectors = []string{"exec", "attach", "portforward", "proxy"}

// actionOf reads a request. It does not say whether there is such a thing.
func actionOf(r *http.Request) Action {
	a := Action{Verb: strings.ToLower(r.Method), Path: r.URL.Path}
	segments, ok := splitPath(r.URL)
	if !ok {
		return a
	}
	groupVersion := 0
	switch segments[0] {
	case "api":
		groupVersion = 2
	case "apis":
		groupVersion = 3
	}
	if groupVersion == 0 || len(segments) <= groupVersion {
		return a
	}
	t, ok := parseTarget(groupVersionOf(segments), segments[groupVersion:])
	if !ok {
		return a
	}
	a = Action{
		Group: t.gv.Group, Version: t.gv.Version, Resource: t.resource, Subresource: t.subresource,
		Namespace: t.namespace, Name: t.name, Path: r.URL.Path,
	}
	if a.Group == "" && a.Resource == "namespaces" {
		a.Namespace = a.Name // what is done to a namespace is done in it
	}
	a.setVerb(r)
	return a
}

func (a *Action) setVerb(r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		a.Verb = "create"
	case http.MethodPut:
		a.Verb = "update"
	case http.MethodPatch:
		a.Verb = "patch"
	case http.MethodDelete:
		a.Verb = "delete"
		if a.Name == "" {
			a.Verb = "deletecollection"
		}
	case http.MethodGet, http.MethodHead:
		a.Verb = "get"
		if a.Name == "" {
			a.Verb = "list"
		}
	default:
		a.Verb = strings.ToLower(r.Method)
	}
	if a.Name != "" || a.Verb != "list" && a.Verb != "deletecollection" {
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return // refused later, whoever asks
	}
	if watching, err := queryBool(query, "watch"); err == nil && watching && a.Verb == "list" {
		a.Verb = "watch"
	}
	// A rule for one name allows to list and watch that alone.
	if selector, err := fields.ParseSelector(query.Get("fieldSelector")); err == nil {
		if name, ok := selector.RequiresExactMatch("metadata.name"); ok {
			a.Name = name
		}
	}
}

// mutates tells whether the action may change something.
func (a Action) mutates() bool {
	return !slices.Contains([]string{"get", "list", "watch", "head", "options"}, a.Verb)
}

// connects tells whether the action reaches into something.
func (a Action) connects() bool {
	return a.Resource != "" && slices.Contains(connectors, a.Subresource)
}

// authorize refuses what a user may not do.
func (s *Server) authorize(ctx context.Context, u User, a Action) error {
	if s.authorizer == nil {
		return nil
	}
	if err := s.require(ctx, u, a); err != nil {
		return err
	}
	if a.connects() && a.Verb == "get" {
		a.Verb = "create"
		return s.require(ctx, u, a)
	}
	return nil
}

func (s *Server) require(ctx context.Context, u User, a Action) error {
	allowed, _, err := s.authorizer.Authorize(ctx, u, a)
	if allowed {
		return nil
	}
	if err != nil {
		s.log.Error(err, "It could not be found out what a user may do", "user", u.Name)
	}
	return forbidden(u, a)
}

// forbidden is the answer to what a user may not do, in Kubernetes' words.
func forbidden(u User, a Action) error {
	who := fmt.Sprintf("User %q cannot %s ", u.Name, a.Verb)
	if a.Resource == "" {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("%spath %q", who, a.Path))
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name,
		fmt.Errorf("%sresource %q in API group %q %s", who, resource, a.Group, where))
}

// rbacAuthorizer asks the RBAC objects in the store.
type rbacAuthorizer struct{ *rbac.Authorizer }

func subjectOf(u User) rbac.Subject { return rbac.Subject{Name: u.Name, Groups: u.Groups} }

// Authorize implements Authorizer.
func (r rbacAuthorizer) Authorize(ctx context.Context, u User, a Action) (bool, string, error) {
	return r.Authorizer.Authorize(ctx, subjectOf(u), rbac.Request{
		Verb: a.Verb, Group: a.Group, Resource: a.Resource, Subresource: a.Subresource,
		Namespace: a.Namespace, Name: a.Name, Path: a.Path,
	})
}

// Rules implements Authorizer.
func (r rbacAuthorizer) Rules(ctx context.Context, u User, namespace string) ([]rbacv1.PolicyRule, error) {
	return r.Authorizer.Rules(ctx, subjectOf(u), namespace)
}

// rulesOf are what a user may do in a namespace.
func (s *Server) rulesOf(ctx context.Context, u User, namespace string) ([]rbacv1.PolicyRule, error) {
	if s.authorizer == nil {
		return rbac.Everything(), nil
	}
	return s.authorizer.Rules(ctx, u, namespace)
}
