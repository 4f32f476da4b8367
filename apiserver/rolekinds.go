package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	names "k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sandboxd.dev/sandboxd/apiserver/rbac"
)

// roleStrategies are what the RBAC kinds do beyond their schemas.
func roleStrategies() map[string]strategy {
	kind := func(goType func() any, s strategy) strategy {
		s.goType, s.checkName = goType, roleName
		s.unconditional, s.ungenerated = true, true
		return s
	}
	return map[string]strategy{
		rolesKey:               kind(func() any { return &rbacv1.Role{} }, strategy{check: checkRules(false)}),
		clusterRolesKey:        kind(func() any { return &rbacv1.ClusterRole{} }, strategy{check: checkRules(true)}),
		roleBindingsKey:        kind(func() any { return &rbacv1.RoleBinding{} }, strategy{prepare: prepareBinding, check: checkBinding(true), tableColumns: bindingColumns()}),
		clusterRoleBindingsKey: kind(func() any { return &rbacv1.ClusterRoleBinding{} }, strategy{prepare: prepareBinding, check: checkBinding(false), tableColumns: bindingColumns()}),
	}
}

// roleName is the rule for names of roles and bindings: they fit into a path.
func roleName(name string, prefix bool) []string {
	if prefix {
		return names.IsPathSegmentPrefix(name)
	}
	return names.IsPathSegmentName(name)
}

// typed reads an object into a typed one.
func typed[T any](u *unstructured.Unstructured) (*T, error) {
	raw, err := json.Marshal(u.Object)
	if err != nil {
		return nil, err
	}
	object := new(T)
	return object, json.Unmarshal(raw, object)
}

// checkRules validates the rules of roles as Kubernetes does.
func checkRules(cluster bool) func(obj, old *unstructured.Unstructured) field.ErrorList {
	return func(obj, _ *unstructured.Unstructured) field.ErrorList {
		role, err := typed[rbacv1.ClusterRole](obj) // the rules of both are the same
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		var errs field.ErrorList
		for i, rule := range role.Rules {
			path := field.NewPath("rules").Index(i)
			if len(rule.Verbs) == 0 {
				errs = append(errs, field.Required(path.Child("verbs"), "must contain at least one value"))
			}
			if len(rule.NonResourceURLs) > 0 {
				if !cluster {
					errs = append(errs, field.Invalid(path.Child("nonResourceURLs"), rule.NonResourceURLs, "a Role cannot allow paths: they are in no namespace"))
				}
				if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
					errs = append(errs, field.Invalid(path.Child("nonResourceURLs"), rule.NonResourceURLs, "a rule is for resources or for paths, not for both"))
				}
				continue
			}
			if len(rule.APIGroups) == 0 {
				errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
			}
			if len(rule.Resources) == 0 {
				errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
			}
		}
		return errs
	}
}

// prepareBinding fills in the groups that people leave out.
func prepareBinding(obj, _ map[string]any) {
	fill := func(m map[string]any) {
		if group, _ := m["apiGroup"].(string); group == "" && m["kind"] != rbacv1.ServiceAccountKind {
			m["apiGroup"] = rbacv1.GroupName
		}
	}
	if ref, ok := obj["roleRef"].(map[string]any); ok {
		fill(ref)
	}
	subjects, _ := obj["subjects"].([]any)
	for _, s := range subjects {
		if subject, ok := s.(map[string]any); ok {
			fill(subject)
		}
	}
}

// checkBinding validates bindings.
func checkBinding(inNamespace bool) func(obj, old *unstructured.Unstructured) field.ErrorList {
	kinds := []string{"ClusterRole"}
	if inNamespace {
		kinds = []string{"ClusterRole", "Role"}
	}
	return func(obj, old *unstructured.Unstructured) field.ErrorList {
		binding, err := typed[rbacv1.RoleBinding](obj)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		ref := field.NewPath("roleRef")
		var errs field.ErrorList
		if binding.RoleRef.APIGroup != rbacv1.GroupName {
			errs = append(errs, field.NotSupported(ref.Child("apiGroup"), binding.RoleRef.APIGroup, []string{rbacv1.GroupName}))
		}
		if !slices.Contains(kinds, binding.RoleRef.Kind) {
			errs = append(errs, field.NotSupported(ref.Child("kind"), binding.RoleRef.Kind, kinds))
		}
		if problems := roleName(binding.RoleRef.Name, false); binding.RoleRef.Name == "" || len(problems) > 0 {
			errs = append(errs, field.Invalid(ref.Child("name"), binding.RoleRef.Name, "must be the name of a role"))
		}
		for i, s := range binding.Subjects {
			errs = append(errs, checkRoleSubject(s, inNamespace, field.NewPath("subjects").Index(i))...)
		}
		if old == nil {
			return errs
		}
		before, err := typed[rbacv1.RoleBinding](old)
		if err == nil && before.RoleRef != binding.RoleRef {
			errs = append(errs, field.Invalid(ref, binding.RoleRef, "cannot change roleRef"))
		}
		return errs
	}
}

func checkRoleSubject(s rbacv1.Subject, inNamespace bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	group := rbacv1.GroupName
	switch s.Kind {
	case rbacv1.UserKind, rbacv1.GroupKind:
	case rbacv1.ServiceAccountKind:
		group = ""
		if s.Namespace == "" && !inNamespace {
			errs = append(errs, field.Required(path.Child("namespace"), ""))
		}
	default:
		return append(errs, field.NotSupported(path.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	if s.APIGroup != group {
		errs = append(errs, field.NotSupported(path.Child("apiGroup"), s.APIGroup, []string{group}))
	}
	return errs
}

func bindingColumns() []column {
	subjects := func(name, kind string) column {
		return column{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: name, Type: "string", Priority: 1, Description: "Who the role is given to."},
			cell: func(obj map[string]any, _ time.Time) any {
				var names []string
				all, _ := obj["subjects"].([]any)
				for _, s := range all {
					if subject, ok := s.(map[string]any); ok && subject["kind"] == kind {
						names = append(names, fmt.Sprint(subject["name"]))
					}
				}
				return strings.Join(names, ", ")
			},
		}
	}
	return []column{
		nameColumn(),
		{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: "Role", Type: "string", Description: "The role that is given."},
			cell: func(obj map[string]any, _ time.Time) any {
				ref, _ := obj["roleRef"].(map[string]any)
				return fmt.Sprintf("%v/%v", ref["kind"], ref["name"])
			},
		},
		ageColumn(),
		subjects("Users", rbacv1.UserKind), subjects("Groups", rbacv1.GroupKind), subjects("ServiceAccounts", rbacv1.ServiceAccountKind),
	}
}

// escalation keeps users from giving what they do not have: a role must not
// allow, and a binding not give, more than its writer may do himself, unless he
// has the verb escalate on the role, or bind on the role that is given. It is an
// Admission.
type escalation struct {
	rules      *rbac.Authorizer
	authorizer Authorizer
}

// Admit implements Admission.
func (e escalation) Admit(ctx context.Context, a Attributes) error {
	if a.Resource.Group != rbacv1.GroupName || a.Object == nil || slices.Contains(a.User.Groups, rbac.Masters) || onlyReleases(a) {
		return nil
	}
	var wanted []rbacv1.PolicyRule
	exempt := Action{Verb: "escalate", Group: rbacv1.GroupName, Version: "v1", Resource: a.Resource.Resource, Namespace: a.Namespace, Name: a.Name}
	switch a.Resource.Resource {
	case "roles", "clusterroles":
		role, err := typed[rbacv1.ClusterRole](a.Object)
		if err != nil {
			return err
		}
		wanted = role.Rules
	case "rolebindings", "clusterrolebindings":
		binding, err := typed[rbacv1.RoleBinding](a.Object)
		if err != nil {
			return err
		}
		exempt.Verb, exempt.Resource, exempt.Name = "bind", "roles", binding.RoleRef.Name
		if binding.RoleRef.Kind == "ClusterRole" {
			exempt.Resource = "clusterroles"
		}
		rules, found, err := e.rules.RulesOf(ctx, binding.RoleRef, a.Namespace)
		if err != nil {
			return err
		}
		wanted = rules
		if !found { // whoever makes it later decides what was given
			return e.unless(ctx, a, exempt, fmt.Errorf("%s %q does not exist, and nobody may give an unknown role: make it first", binding.RoleRef.Kind, binding.RoleRef.Name))
		}
	default:
		return nil
	}
	missing, err := e.rules.Missing(ctx, subjectOf(a.User), a.Namespace, wanted)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	return e.unless(ctx, a, exempt, fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held: %s",
		a.User.Name, a.User.Groups, rbac.Words(missing)))
}

// onlyReleases tells whether an update changes nothing but what holds the object
// back and who owns it. That gives nobody anything, and must not keep an object
// from going.
func onlyReleases(a Attributes) bool {
	if a.OldObject == nil {
		return false
	}
	rest := func(u *unstructured.Unstructured) map[string]any {
		meta := maps.Clone(metadataOf(u.Object))
		for _, name := range []string{"finalizers", "ownerReferences", "managedFields", "resourceVersion"} {
			delete(meta, name)
		}
		tree := maps.Clone(u.Object)
		tree["metadata"] = meta
		return tree
	}
	return reflect.DeepEqual(rest(a.Object), rest(a.OldObject))
}

// unless refuses for a reason, if the user is not exempt.
func (e escalation) unless(ctx context.Context, a Attributes, exempt Action, reason error) error {
	allowed, _, err := e.authorizer.Authorize(ctx, a.User, exempt)
	if allowed || err != nil {
		return err
	}
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, reason)
}
