package gitops

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/manifest"
)

// kind is a kind of objects that directories may hold.
type kind struct {
	schema.GroupVersionKind
	resource   string
	namespaced bool
}

// kinds are all of them. Others are refused: what decides over rights, say, is not
// for whoever may push to a repository.
var kinds = []kind{
	{corev1.SchemeGroupVersion.WithKind("Namespace"), "namespaces", false},
	{corev1.SchemeGroupVersion.WithKind("Secret"), "secrets", true},
	{v1.GroupVersion.WithKind("GoldenImage"), "goldenimages", false},
	{v1.GroupVersion.WithKind("Sandbox"), "sandboxes", true},
	{v1.GroupVersion.WithKind("SandboxSnapshot"), "sandboxsnapshots", true},
}

func (k kind) gvr() schema.GroupVersionResource {
	return k.GroupVersion().WithResource(k.resource)
}

// kindOf finds the kind of an object that was read.
func kindOf(gk schema.GroupKind) (kind, bool) {
	for _, k := range kinds {
		if k.GroupKind() == gk {
			return k, true
		}
	}
	return kind{}, false
}

// kustomize is the group of files that say how others are put together.
const kustomize = "kustomize.config.k8s.io"

// place checks an object's kind, and puts it into its namespace.
func place(o manifest.Object) error {
	gvk := o.GroupVersionKind()
	k, ok := kindOf(gvk.GroupKind())
	switch {
	case !ok:
		return o.Errorf("objects of kind %s in %s are not applied from a directory, only %s", gvk.Kind, gvk.GroupVersion(), kindNames())
	case k.Version != gvk.Version:
		return o.Errorf("the kind %s is served as %s, not as %s: correct apiVersion", k.Kind, k.GroupVersion(), gvk.GroupVersion())
	case !k.namespaced && o.GetNamespace() != "":
		return o.Errorf("%s belongs to no namespace, but metadata.namespace says %s: remove it", o.ID(), o.GetNamespace())
	case k.namespaced && o.GetNamespace() == "":
		o.SetNamespace(metav1.NamespaceDefault)
	}
	return nil
}

func kindNames() string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Kind
	}
	last := len(names) - 1
	return fmt.Sprintf("%s and %s", strings.Join(names[:last], ", "), names[last])
}
