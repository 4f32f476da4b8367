// Package kube is what the commands need of the Kubernetes API, whatever kinds
// are served: objects by the names that people type, lists, tables, watches and
// writes.
package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// FieldManager owns the fields that `sandboxd apply` sets.
const FieldManager = "sandboxd"

// API is a connection to a server. It may be used concurrently.
type API struct {
	dynamic   dynamic.Interface
	rest      rest.Interface
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.ResettableRESTMapper
}

// New makes an API. It connects when it is first used.
func New(config *rest.Config, client *http.Client) (*API, error) {
	dyn, err := dynamic.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, err
	}
	disc, err := discovery.NewDiscoveryClientForConfigAndClient(config, client)
	if err != nil {
		return nil, err
	}
	plain := rest.CopyConfig(config)
	plain.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	raw, err := rest.UnversionedRESTClientForConfigAndClient(plain, client)
	if err != nil {
		return nil, err
	}
	cached := memory.NewMemCacheClient(disc)
	return &API{dyn, raw, cached, restmapper.NewDeferredDiscoveryRESTMapper(cached)}, nil
}

// Resource is one kind of objects.
type Resource struct {
	schema.GroupVersionResource
	Kind       schema.GroupVersionKind
	Namespaced bool
}

// Name is what the resource is called in output, as kubectl does: sandbox.sandboxd.dev.
func (r Resource) Name() string {
	name := strings.ToLower(r.Kind.Kind)
	if r.Group != "" {
		name += "." + r.Group
	}
	return name
}

// Ref names an object in output: sandbox.sandboxd.dev/web.
func (r Resource) Ref(name string) string { return r.Name() + "/" + name }

// Find returns the resources that a name stands for: a resource, a kind, a short
// name, or a category such as "sandboxd" or "all".
func (a *API) Find(name string) ([]Resource, error) {
	name = strings.ToLower(name)
	if grs, ok := restmapper.NewDiscoveryCategoryExpander(a.discovery).Expand(name); ok && len(grs) > 0 {
		var found []Resource
		for _, gr := range grs {
			r, err := a.findOne(gr.WithVersion(""))
			if err != nil {
				return nil, err
			}
			found = append(found, r)
		}
		return found, nil
	}
	full, gr := schema.ParseResourceArg(name)
	if full != nil {
		if r, err := a.findOne(*full); err == nil {
			return []Resource{r}, nil
		}
	}
	r, err := a.findOne(gr.WithVersion(""))
	if err != nil {
		return nil, err
	}
	return []Resource{r}, nil
}

func (a *API) findOne(gvr schema.GroupVersionResource) (Resource, error) {
	mapper := restmapper.NewShortcutExpander(a.mapper, a.discovery, nil)
	gvk, err := mapper.KindFor(gvr)
	if meta.IsNoMatchError(err) {
		return Resource{}, fmt.Errorf("there is no resource type %q: sandboxes, sandboxsnapshots, goldenimages, namespaces, events and secrets are some", gvr.GroupResource().String())
	}
	if err != nil {
		return Resource{}, err
	}
	return a.OfKind(gvk)
}

// OfKind returns the resource of a kind.
func (a *API) OfKind(gvk schema.GroupVersionKind) (Resource, error) {
	m, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		if others, otherErr := a.mapper.RESTMappings(gvk.GroupKind()); otherErr == nil && len(others) > 0 {
			return Resource{}, WrongVersion(gvk, others[0].GroupVersionKind.GroupVersion())
		}
		return Resource{}, UnknownKind(gvk, "GoldenImage, Sandbox, SandboxSnapshot")
	}
	if err != nil {
		return Resource{}, err
	}
	return Resource{m.Resource, m.GroupVersionKind, m.Scope.Name() == meta.RESTScopeNameNamespace}, nil
}

// Objects are the objects of a resource, in one namespace or, when it is empty,
// in all.
func (a *API) Objects(r Resource, namespace string) dynamic.ResourceInterface {
	if r.Namespaced && namespace != "" {
		return a.dynamic.Resource(r.GroupVersionResource).Namespace(namespace)
	}
	return a.dynamic.Resource(r.GroupVersionResource)
}

// Apply applies an object by server-side apply, or only tries to.
func (a *API) Apply(ctx context.Context, r Resource, u *unstructured.Unstructured, force, dryRun bool) (*unstructured.Unstructured, error) {
	raw, err := json.Marshal(u.Object)
	if err != nil {
		return nil, err
	}
	o := metav1.PatchOptions{FieldManager: FieldManager, Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		o.DryRun = []string{metav1.DryRunAll}
	}
	return a.Objects(r, u.GetNamespace()).Patch(ctx, u.GetName(), types.ApplyPatchType, raw, o)
}

// ServerVersion is what the server says of itself.
func (a *API) ServerVersion(ctx context.Context) ([]byte, error) {
	return a.rest.Get().AbsPath("/version").Do(ctx).Raw()
}

// ServerReady is why the server is not ready; nil when it is.
func (a *API) ServerReady(ctx context.Context) error {
	return a.rest.Get().AbsPath("/readyz").Do(ctx).Error()
}

// path is the URL path of a resource's objects, or of one.
func (r Resource) path(namespace, name string) []string {
	segments := []string{"/apis", r.Group, r.Version}
	if r.Group == "" {
		segments = []string{"/api", r.Version}
	}
	if r.Namespaced && namespace != "" {
		segments = append(segments, "namespaces", namespace)
	}
	segments = append(segments, r.Resource)
	if name != "" {
		segments = append(segments, name)
	}
	return segments
}

// WrongVersion says that a kind is served in another version.
func WrongVersion(gvk schema.GroupVersionKind, served schema.GroupVersion) error {
	return fmt.Errorf("the kind %s is served as %s, not as %s: correct apiVersion",
		gvk.Kind, served, gvk.GroupVersion())
}

// UnknownKind says that a kind is not served; known are some that are.
func UnknownKind(gvk schema.GroupVersionKind, known string) error {
	return fmt.Errorf("there is no kind %s in %s: the kinds of sandboxd.dev/v1 are %s", gvk.Kind, gvk.GroupVersion(), known)
}
