package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The roles that `sandboxd kubeconfig --role` gives. RoleCatalog goes with those
// that are given for single namespaces: it shows what of the whole host their
// users need.
const (
	RoleAdmin    = "sandboxd:admin"
	RoleUser     = "sandboxd:user"
	RoleReadOnly = "sandboxd:read-only"
	RoleCatalog  = "sandboxd:catalog"
)

// AutoUpdate is the annotation that, when "false", keeps an object as people have
// changed it.
const AutoUpdate = rbacv1.AutoUpdateAnnotationKey

var (
	reading = []string{"get", "list", "watch"}
	writing = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	// connecting is what reaching into a guest is, by whichever protocol, and
	// what files are read and written with.
	connecting = []string{"create", "get", "update", "delete"}
)

func on(group string, verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
}

func paths(paths ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{NonResourceURLs: paths, Verbs: []string{"get"}}
}

const (
	sandboxd     = "sandboxd.dev"
	core         = ""
	events       = "events.k8s.io"
	coordination = "coordination.k8s.io"
	extensions   = "apiextensions.k8s.io"
)

// working is what somebody does in his own namespaces. What the daemon has
// observed (status) is written by nobody else.
func working() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(sandboxd, writing, "sandboxes", "sandboxsnapshots"),
		on(sandboxd, connecting, "sandboxes/archive", "sandboxes/attach", "sandboxes/diskarchive", "sandboxes/diskdiff",
			"sandboxes/exec", "sandboxes/files", "sandboxes/log", "sandboxes/portforward"),
		on(sandboxd, reading, "sandboxes/status", "sandboxsnapshots/status"),
		on(core, writing, "pods", "secrets", "configmaps", "events"),
		on(core, connecting, "pods/archive", "pods/attach", "pods/exec", "pods/files", "pods/log", "pods/portforward"),
		on(core, reading, "pods/status"),
		on(core, []string{"get"}, "namespaces"),
		on(events, writing, "events"),
		on(coordination, writing, "leases"),
	}
}

// looking is reading everything but secrets, and looking into no guest.
func looking() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(sandboxd, reading, "goldenimages", "goldenimages/log", "goldenimages/status", "sandboxes", "sandboxes/log",
			"sandboxes/status", "sandboxsnapshots", "sandboxsnapshots/status"),
		on(core, reading, "pods", "pods/log", "pods/status", "configmaps", "events", "namespaces", "namespaces/status"),
		on(events, reading, "events"),
		on(coordination, reading, "leases"),
		on(extensions, reading, "customresourcedefinitions"),
	}
}

// catalog is what of the whole host users of single namespaces see.
func catalog() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(sandboxd, reading, "goldenimages", "goldenimages/log", "goldenimages/status"),
		on(core, reading, "namespaces"),
		on(extensions, reading, "customresourcedefinitions"),
	}
}

// ClusterRoles are those that every server has.
func ClusterRoles() []rbacv1.ClusterRole {
	role := func(name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
		return rbacv1.ClusterRole{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
			ObjectMeta: bootstrapped(name), Rules: rules,
		}
	}
	public := []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}
	return []rbacv1.ClusterRole{
		role("cluster-admin", Everything()...),
		// What kubectl needs before it can do anything.
		role("system:discovery", paths(append(slices.Clone(public), "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*")...)),
		role("system:public-info-viewer", paths(public...)),
		// Everybody may ask what he may do.
		role("system:basic-user",
			on("authorization.k8s.io", []string{"create"}, "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			on("authentication.k8s.io", []string{"create"}, "selfsubjectreviews")),
		role(RoleAdmin, Everything()...),
		role(RoleUser, working()...),
		role(RoleReadOnly, looking()...),
		role(RoleCatalog, catalog()...),
		// What users of Kubernetes look for. Each has what the one before has: who
		// has a role may give the lesser ones.
		role("view", looking()...),
		role("edit", slices.Concat(working(), looking())...),
		role("admin", slices.Concat(working(), looking(), []rbacv1.PolicyRule{
			on(rbacv1.GroupName, writing, "roles", "rolebindings"),
			on("authorization.k8s.io", []string{"create"}, "localsubjectaccessreviews"),
		})...),
	}
}

// ClusterRoleBindings are those that every server has.
func ClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	binding := func(name string, groups ...string) rbacv1.ClusterRoleBinding {
		b := rbacv1.ClusterRoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
			ObjectMeta: bootstrapped(name),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		}
		for _, group := range groups {
			b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group})
		}
		return b
	}
	return []rbacv1.ClusterRoleBinding{
		binding("cluster-admin", Masters),
		binding("system:discovery", "system:authenticated"),
		binding("system:public-info-viewer", "system:authenticated", "system:unauthenticated"),
		binding("system:basic-user", "system:authenticated"),
	}
}

func bootstrapped(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{AutoUpdate: "true"},
	}
}
