package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"sandboxd.dev/sandboxd/apiserver/rbac"
	"sandboxd.dev/sandboxd/client"
)

// labelGranted marks the bindings that the kubeconfig command made. They are
// replaced and removed with the role that they give.
const labelGranted = "sandboxd.dev/granted-role"

// maxNamespaces bounds the namespaces of one role.
const maxNamespaces = 256

// grantPlan is what a role needs: bindings everywhere and in namespaces.
type grantPlan struct {
	cluster    []rbacv1.ClusterRoleBinding
	namespaced []rbacv1.RoleBinding
}

// planGrant tells which bindings a wish needs. It changes nothing.
func planGrant(wish client.UserWish) (grantPlan, error) {
	var plan grantPlan
	if wish.Role == "" {
		if len(wish.Namespaces) > 0 {
			return plan, apierrors.NewBadRequest("namespaces are where a role is for: name a role too")
		}
		return plan, nil
	}
	roles := map[string]string{client.RoleAdmin: rbac.RoleAdmin, client.RoleUser: rbac.RoleUser, client.RoleReadOnly: rbac.RoleReadOnly}
	role, ok := roles[wish.Role]
	if !ok {
		return plan, apierrors.NewBadRequest(fmt.Sprintf("role %q is not one of admin, user and read-only", wish.Role))
	}
	namespaces := slices.Clone(wish.Namespaces)
	if wish.Role == client.RoleUser && len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceDefault}
	}
	slices.Sort(namespaces)
	namespaces = slices.Compact(namespaces)
	if len(namespaces) > maxNamespaces {
		return plan, apierrors.NewBadRequest(fmt.Sprintf("%d namespaces are more than %d: bind a ClusterRole by hand", len(namespaces), maxNamespaces))
	}
	for _, namespace := range namespaces {
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			return plan, apierrors.NewBadRequest(fmt.Sprintf("namespace %q: %s", namespace, problems[0]))
		}
		plan.namespaced = append(plan.namespaced, rbacv1.RoleBinding{
			ObjectMeta: grantedMeta(wish, role, namespace), RoleRef: clusterRole(role), Subjects: subjectsOf(wish.User),
		})
	}
	everywhere := role
	if len(namespaces) > 0 {
		everywhere = rbac.RoleCatalog
	}
	plan.cluster = append(plan.cluster, rbacv1.ClusterRoleBinding{
		ObjectMeta: grantedMeta(wish, everywhere, ""), RoleRef: clusterRole(everywhere), Subjects: subjectsOf(wish.User),
	})
	return plan, nil
}

func clusterRole(name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
}

func subjectsOf(user string) []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
}

// grantedMeta names a binding after its role, so that one of another role can be made
// beside it, and after its user, or a hash of the name where that cannot be one.
func grantedMeta(wish client.UserWish, role, namespace string) metav1.ObjectMeta {
	name := wish.User
	if len(content.IsPathSegmentName(name)) > 0 {
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:16])
	}
	return metav1.ObjectMeta{
		Name: "sandboxd:granted:" + strings.TrimPrefix(role, "sandboxd:") + ":" + name, Namespace: namespace, Labels: map[string]string{labelGranted: wish.Role},
	}
}

// granter writes bindings, as the daemon itself.
type granter struct{ client crclient.Client }

func newGranter(config *rest.Config) (*granter, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(rbacv1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	c, err := crclient.New(config, crclient.Options{Scheme: scheme})
	return &granter{c}, err
}

// apply makes the bindings of a plan those of a user, and removes those that
// other plans have made. It returns the namespaces that it had to make.
func (g *granter) apply(ctx context.Context, user string, plan grantPlan) (made []string, err error) {
	for _, b := range plan.namespaced {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: b.Namespace}}
		err := g.client.Create(ctx, namespace)
		if err == nil {
			made = append(made, b.Namespace)
		} else if !apierrors.IsAlreadyExists(err) {
			return made, err
		}
	}
	had, err := g.bindings(ctx, user)
	if err != nil {
		return made, err
	}
	return made, g.exchange(ctx, had, plan.bindings())
}

// exchange makes the bindings that are wanted, and then removes the others of those that
// there were: what a user may do with both roles is never refused meanwhile. What is
// left of it after an error is done by the next.
func (g *granter) exchange(ctx context.Context, had, want []crclient.Object) error {
	for _, b := range want {
		same := slices.IndexFunc(had, func(o crclient.Object) bool {
			return o.GetName() == b.GetName() && o.GetNamespace() == b.GetNamespace() && roleOf(o) == roleOf(b)
		})
		if same < 0 {
			if err := g.client.Create(ctx, b); err != nil {
				return err
			}
			continue
		}
		b.SetResourceVersion(had[same].GetResourceVersion())
		if err := g.client.Update(ctx, b); err != nil {
			return err
		}
		had = slices.Delete(had, same, same+1)
	}
	for _, b := range had {
		if err := g.client.Delete(ctx, b); crclient.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

func roleOf(binding crclient.Object) rbacv1.RoleRef {
	switch b := binding.(type) {
	case *rbacv1.ClusterRoleBinding:
		return b.RoleRef
	case *rbacv1.RoleBinding:
		return b.RoleRef
	}
	return rbacv1.RoleRef{}
}

// bindings are those of both kinds.
func (p grantPlan) bindings() []crclient.Object {
	return objectsOf(p.cluster, p.namespaced)
}

func objectsOf(cluster []rbacv1.ClusterRoleBinding, namespaced []rbacv1.RoleBinding) []crclient.Object {
	var all []crclient.Object
	for i := range cluster {
		all = append(all, &cluster[i])
	}
	for i := range namespaced {
		all = append(all, &namespaced[i])
	}
	return all
}

// clear removes the bindings that were made for a user, and returns how many there
// were. What is left of them after an error is removed by the next.
func (g *granter) clear(ctx context.Context, user string) (int, error) {
	bindings, err := g.bindings(ctx, user)
	if err != nil {
		return 0, err
	}
	for _, b := range bindings {
		if err := g.client.Delete(ctx, b); crclient.IgnoreNotFound(err) != nil {
			return 0, err
		}
	}
	return len(bindings), nil
}

// bindings are those that were made for a user, of both kinds.
func (g *granter) bindings(ctx context.Context, user string) ([]crclient.Object, error) {
	cluster, namespaced, err := g.granted(ctx, user)
	if err != nil {
		return nil, err
	}
	return objectsOf(cluster, namespaced), nil
}

// roles tells of the bindings that were made for a user.
func (g *granter) roles(ctx context.Context, user string) ([]string, error) {
	cluster, namespaced, err := g.granted(ctx, user)
	if err != nil {
		return nil, err
	}
	var roles []string
	for _, b := range cluster {
		if b.RoleRef.Name != rbac.RoleCatalog {
			roles = append(roles, b.Labels[labelGranted])
		}
	}
	for _, b := range namespaced {
		roles = append(roles, b.Labels[labelGranted]+"@"+b.Namespace)
	}
	slices.Sort(roles)
	return roles, nil
}

func (g *granter) granted(ctx context.Context, user string) ([]rbacv1.ClusterRoleBinding, []rbacv1.RoleBinding, error) {
	var cluster rbacv1.ClusterRoleBindingList
	var namespaced rbacv1.RoleBindingList
	err := errors.Join(
		g.client.List(ctx, &cluster, crclient.HasLabels{labelGranted}),
		g.client.List(ctx, &namespaced, crclient.HasLabels{labelGranted}))
	if err != nil {
		return nil, nil, err
	}
	is := func(subjects []rbacv1.Subject) bool {
		return len(subjects) == 1 && subjects[0].Kind == rbacv1.UserKind && subjects[0].Name == user
	}
	cluster.Items = slices.DeleteFunc(cluster.Items, func(b rbacv1.ClusterRoleBinding) bool { return !is(b.Subjects) })
	namespaced.Items = slices.DeleteFunc(namespaced.Items, func(b rbacv1.RoleBinding) bool { return !is(b.Subjects) })
	return cluster.Items, namespaced.Items, nil
}
