package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestGarbageOfRoles: roles and bindings go like everything else, in whichever
// way they are deleted, although those who delete have none of their rules.
func TestGarbageOfRoles(t *testing.T) {
	h := newHost(t)
	c := clientset(t, h.server.LoopbackConfig())
	rules := []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}}
	bob := []rbacv1.Subject{{Kind: "User", Name: "bob"}}
	ref := func(kind string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: "big"}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	owned := func(uid types.UID, kind string) metav1.ObjectMeta {
		blocks := true
		return metav1.ObjectMeta{Name: "big", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind, Name: "big", UID: uid, BlockOwnerDeletion: &blocks},
		}}
	}
	gone := func(what string, get func() error) {
		t.Helper()
		eventually(t, what+" is gone", func() bool { return apierrors.IsNotFound(get()) })
	}
	options := func(p metav1.DeletionPropagation) metav1.DeleteOptions {
		return metav1.DeleteOptions{PropagationPolicy: &p}
	}
	roles, bindings := c.RbacV1().ClusterRoles(), c.RbacV1().ClusterRoleBindings()
	getRole := func() error { _, err := roles.Get(t.Context(), "big", metav1.GetOptions{}); return err }
	getBinding := func() error { _, err := bindings.Get(t.Context(), "big", metav1.GetOptions{}); return err }

	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		role, err := roles.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Rules: rules}, metav1.CreateOptions{})
		must(err)
		_, err = bindings.Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: owned(role.UID, "ClusterRole"), RoleRef: ref("ClusterRole"), Subjects: bob}, metav1.CreateOptions{})
		must(err)
		must(roles.Delete(t.Context(), "big", options(policy)))
		gone("the role", getRole)
		if policy == metav1.DeletePropagationOrphan {
			got, err := bindings.Get(t.Context(), "big", metav1.GetOptions{})
			if err != nil || len(got.OwnerReferences) > 0 {
				t.Errorf("the orphan is %v, %v", got, err)
			}
			must(bindings.Delete(t.Context(), "big", options(policy)))
		}
		gone("the binding", getBinding)
	}

	_, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	must(err)
	role, err := c.RbacV1().Roles("team").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "big", Finalizers: []string{"example.com/held"}}, Rules: rules}, metav1.CreateOptions{})
	must(err)
	_, err = c.RbacV1().RoleBindings("team").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: owned(role.UID, "Role"), RoleRef: ref("Role"), Subjects: bob}, metav1.CreateOptions{})
	must(err)
	must(c.RbacV1().Roles("team").Delete(t.Context(), "big", options(metav1.DeletePropagationForeground)))
	must(c.CoreV1().Namespaces().Delete(t.Context(), "team", metav1.DeleteOptions{}))
	// Who may not give the role may let it go, and do nothing else to it.
	h.bind("lead", "admin", "")
	lead := clientset(t, h.token("lead")).RbacV1().Roles("team")
	if _, err := lead.Patch(t.Context(), "big", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"},"finalizers":null}}`), metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a change of a role with more than one has: %v", err)
	}
	if _, err := lead.Patch(t.Context(), "big", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("to let a role go: %v", err)
	}
	gone("the namespace", func() error {
		_, err := c.CoreV1().Namespaces().Get(t.Context(), "team", metav1.GetOptions{})
		return err
	})
}
