package cluster

import (
	"io"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// TestRolesAreNarrow: no role of the daemon names everything of something, or what
// would let it give itself more. That each rule is needed and all together are enough
// is shown on a real API server (test/kubeapiserver).
func TestRolesAreNarrow(t *testing.T) {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(RBAC), 4096)
	roles := 0
	for {
		var role rbacv1.ClusterRole // a Role has the same fields
		if err := decoder.Decode(&role); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if role.Kind != "ClusterRole" && role.Kind != "Role" {
			continue
		}
		roles++
		for _, rule := range role.Rules {
			all := slices.Concat(rule.APIGroups, rule.Resources, rule.ResourceNames, rule.Verbs)
			if slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, "*") }) || len(rule.NonResourceURLs) > 0 {
				t.Errorf("role %s: a rule is for everything: %v", role.Name, rule)
			}
			for _, verb := range []string{"impersonate", "bind", "escalate", "approve", "sign"} {
				if slices.Contains(rule.Verbs, verb) {
					t.Errorf("role %s lets the daemon %s", role.Name, verb)
				}
			}
			if slices.Contains(rule.APIGroups, rbacv1.GroupName) {
				t.Errorf("role %s is about roles: %v", role.Name, rule)
			}
			if slices.Contains(rule.Resources, "secrets") && !slices.Equal(rule.Verbs, []string{"get"}) {
				t.Errorf("role %s does more with Secrets than to get one by its name: %v", role.Name, rule.Verbs)
			}
		}
	}
	if roles != 4 {
		t.Errorf("%d roles were looked at", roles)
	}
}
