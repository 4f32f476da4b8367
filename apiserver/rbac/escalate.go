package rbac

import (
	"context"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Missing are the rules that a subject does not have himself in a namespace, or
// everywhere when it is empty. Nobody may give what he has not.
func (a *Authorizer) Missing(ctx context.Context, s Subject, namespace string, wanted []rbacv1.PolicyRule) ([]rbacv1.PolicyRule, error) {
	own, err := a.Rules(ctx, s, namespace)
	covered, missing := validation.Covers(own, wanted)
	if covered {
		return nil, nil
	}
	return missing, err
}

// Words tell of rules, for people, on one line.
func Words(rules []rbacv1.PolicyRule) string {
	var words []string
	for _, r := range rules {
		var on string
		if len(r.NonResourceURLs) > 0 {
			on = "paths " + strings.Join(r.NonResourceURLs, ",")
		} else {
			on = fmt.Sprintf("%s of group %q", strings.Join(r.Resources, ","), strings.Join(r.APIGroups, ","))
		}
		if len(r.ResourceNames) > 0 {
			on += " named " + strings.Join(r.ResourceNames, ",")
		}
		words = append(words, strings.Join(r.Verbs, ",")+" "+on)
	}
	const most = 5
	if len(words) > most {
		words = append(words[:most], fmt.Sprintf("and %d more", len(words)-most))
	}
	return strings.Join(words, "; ")
}
