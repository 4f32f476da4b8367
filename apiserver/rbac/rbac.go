// Package rbac decides what users may do, from RBAC objects of the API.
//
//	user, groups ◀── subjects ── ClusterRoleBinding ── roleRef ──▶ ClusterRole ── rules   everywhere
//	     ◀────────── subjects ── RoleBinding ───────── roleRef ──▶ Role, ClusterRole      in its namespace
//
// Nothing is allowed unless a rule allows it, and no rule forbids anything. The
// objects are read at each question, so a granted or withdrawn right counts for
// the next request.
package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Masters is the group whose members may do everything, whatever the objects
// say: with it nobody locks himself out.
const Masters = "system:masters"

// Subject is who asks.
type Subject struct {
	Name   string
	Groups []string
}

// Request is what is to be done: something to a resource or, when Resource is
// empty, to a path.
type Request struct {
	Verb        string
	Group       string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Path        string
}

// Reader reads the objects. Those returned are shared: read only. A role that
// does not exist is nil, and no error.
type Reader interface {
	ClusterRole(ctx context.Context, name string) (*rbacv1.ClusterRole, error)
	Role(ctx context.Context, namespace, name string) (*rbacv1.Role, error)
	ClusterRoleBindings(ctx context.Context) ([]*rbacv1.ClusterRoleBinding, error)
	RoleBindings(ctx context.Context, namespace string) ([]*rbacv1.RoleBinding, error)
}

// Authorizer answers questions. It has no state.
type Authorizer struct{ reader Reader }

// New makes an Authorizer.
func New(r Reader) *Authorizer { return &Authorizer{r} }

// Authorize tells whether a subject may do something, and why; what kept it from
// finding out is an error, which does not mean that it may not: what was found
// before counts.
func (a *Authorizer) Authorize(ctx context.Context, s Subject, r Request) (allowed bool, reason string, err error) {
	if slices.Contains(s.Groups, Masters) {
		return true, "", nil
	}
	err = a.visit(ctx, s, r.Namespace, func(why func() string, rules []rbacv1.PolicyRule) bool {
		if slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool { return Allows(rule, r) }) {
			allowed, reason = true, why()
		}
		return !allowed
	})
	if allowed {
		return true, reason, nil
	}
	return false, "", err
}

// Rules are what a subject may do in a namespace, or everywhere when it is
// empty. With an error they may be not all.
func (a *Authorizer) Rules(ctx context.Context, s Subject, namespace string) ([]rbacv1.PolicyRule, error) {
	var all []rbacv1.PolicyRule
	if slices.Contains(s.Groups, Masters) {
		all = append(all, Everything()...)
	}
	err := a.visit(ctx, s, namespace, func(_ func() string, rules []rbacv1.PolicyRule) bool {
		all = append(all, rules...)
		return true
	})
	return all, err
}

// Everything is what the masters may do.
func Everything() []rbacv1.PolicyRule {
	star := []string{rbacv1.ResourceAll}
	return []rbacv1.PolicyRule{{Verbs: star, APIGroups: star, Resources: star}, {Verbs: star, NonResourceURLs: star}}
}

// RulesOf are the rules of the role that a binding in a namespace refers to;
// empty means none. found tells whether there is such a role.
func (a *Authorizer) RulesOf(ctx context.Context, ref rbacv1.RoleRef, namespace string) (rules []rbacv1.PolicyRule, found bool, err error) {
	switch ref.Kind {
	case "ClusterRole":
		role, err := a.reader.ClusterRole(ctx, ref.Name)
		if err != nil || role == nil {
			return nil, false, err
		}
		return role.Rules, true, nil
	case "Role":
		if namespace == "" {
			return nil, false, nil
		}
		role, err := a.reader.Role(ctx, namespace, ref.Name)
		if err != nil || role == nil {
			return nil, false, err
		}
		return role.Rules, true, nil
	}
	return nil, false, nil
}

// visit shows the rules that apply to a subject in a namespace, until seen
// returns false. It goes on behind what cannot be read.
func (a *Authorizer) visit(ctx context.Context, s Subject, namespace string, seen func(why func() string, rules []rbacv1.PolicyRule) bool) error {
	var problems []error
	show := func(kind, binding string, ref rbacv1.RoleRef, subjects []rbacv1.Subject, in string) bool {
		i := slices.IndexFunc(subjects, func(subject rbacv1.Subject) bool { return Matches(subject, s, in) })
		if i < 0 {
			return true
		}
		rules, _, err := a.RulesOf(ctx, ref, in)
		if err != nil {
			problems = append(problems, err)
			return true
		}
		return seen(func() string {
			return fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s %q", kind, binding, ref.Kind, ref.Name, subjects[i].Kind, subjects[i].Name)
		}, rules)
	}
	bindings, err := a.reader.ClusterRoleBindings(ctx)
	if err != nil {
		problems = append(problems, err)
	}
	for _, b := range bindings {
		if !show("ClusterRoleBinding", b.Name, b.RoleRef, b.Subjects, "") {
			return nil
		}
	}
	if namespace == "" {
		return errors.Join(problems...)
	}
	inside, err := a.reader.RoleBindings(ctx, namespace)
	if err != nil {
		problems = append(problems, err)
	}
	for _, b := range inside {
		if !show("RoleBinding", b.Name+"/"+b.Namespace, b.RoleRef, b.Subjects, namespace) {
			return nil
		}
	}
	return errors.Join(problems...)
}

// Matches tells whether somebody is a subject of a binding in a namespace.
func Matches(subject rbacv1.Subject, s Subject, namespace string) bool {
	switch subject.Kind {
	case rbacv1.UserKind:
		return subject.Name == s.Name
	case rbacv1.GroupKind:
		return slices.Contains(s.Groups, subject.Name)
	case rbacv1.ServiceAccountKind:
		if subject.Namespace != "" {
			namespace = subject.Namespace
		}
		return namespace != "" && s.Name == "system:serviceaccount:"+namespace+":"+subject.Name
	}
	return false
}

// Allows tells whether a rule allows a request.
func Allows(rule rbacv1.PolicyRule, r Request) bool {
	if !has(rule.Verbs, r.Verb) {
		return false
	}
	if r.Resource == "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return matchesPath(pattern, r.Path) })
	}
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	return has(rule.APIGroups, r.Group) &&
		(has(rule.Resources, resource) || r.Subresource != "" && slices.Contains(rule.Resources, "*/"+r.Subresource)) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, r.Name))
}

func has(list []string, wanted string) bool {
	return slices.Contains(list, rbacv1.ResourceAll) || slices.Contains(list, wanted)
}

// matchesPath knows a star at the end of a pattern.
func matchesPath(pattern, path string) bool {
	if prefix, star := strings.CutSuffix(pattern, "*"); star {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
