package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/apiserver/rbac"
	"sandboxd.dev/sandboxd/store"
)

// bootstrapRoles stores the roles that every server has. Those that were changed
// become again as they are to be, unless they say that they are people's own.
func (s *Server) bootstrapRoles(ctx context.Context) error {
	for _, role := range rbac.ClusterRoles() {
		if err := s.bootstrapRole(ctx, "clusterroles", &role, "rules"); err != nil {
			return fmt.Errorf("ClusterRole %s: %w", role.Name, err)
		}
	}
	for _, binding := range rbac.ClusterRoleBindings() {
		if err := s.bootstrapRole(ctx, "clusterrolebindings", &binding, "subjects"); err != nil {
			return fmt.Errorf("ClusterRoleBinding %s: %w", binding.Name, err)
		}
	}
	return nil
}

// bootstrapRole stores one, of which field is to be kept.
func (s *Server) bootstrapRole(ctx context.Context, plural string, object any, field string) error {
	tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: tree}
	unstructured.RemoveNestedField(tree, "metadata", "creationTimestamp")
	r := s.registry.find(schema.GroupResource{Group: rbacv1.GroupName, Resource: plural})
	raw, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", nil)
	if err != nil {
		return err
	}
	rq := &request{Request: raw, resource: r, name: u.GetName(), user: loopbackUser}
	_, err = s.store.Get(ctx, rq.key())
	if errors.Is(err, store.ErrNotFound) {
		_, _, err = s.insert(rq, u, options{}, "sandboxd")
		return err
	}
	if err != nil {
		return err
	}
	_, _, err = s.modify(rq, options{}, func(old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		changed := old.DeepCopy()
		if old.GetAnnotations()[rbac.AutoUpdate] != "false" {
			changed.Object[field] = runtime.DeepCopyJSONValue(tree[field])
		}
		return changed, nil
	}, "sandboxd")
	return err
}
