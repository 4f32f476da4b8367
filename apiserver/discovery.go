package apiserver

import (
	"mime"
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// mediaAggregated is the media type of aggregated discovery.
const mediaAggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// wantsAggregated tells whether a client understands aggregated discovery.
func wantsAggregated(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept"), ",") {
		media, params, err := mime.ParseMediaType(part)
		if err == nil && media == mediaJSON && params["g"] == "apidiscovery.k8s.io" && params["v"] == "v2" && params["as"] == "APIGroupDiscoveryList" {
			return true
		}
	}
	return false
}

// serveDiscovery answers /api, /apis, /apis/GROUP, and the lists of resources
// of a group version.
func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request, segments []string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed(r.Method, r.URL.Path)
	}
	core := segments[0] == "api"
	switch {
	case len(segments) == 1 && wantsAggregated(r):
		w.Header().Set("Vary", "Accept")
		w.Header().Set("Content-Type", mediaAggregated)
		return writeTyped(w, mediaAggregated, s.aggregatedDiscovery(core))
	case len(segments) == 1 && core:
		return writeTyped(w, mediaJSON, metav1.APIVersions{
			TypeMeta:                   metav1.TypeMeta{Kind: "APIVersions"},
			Versions:                   []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
		})
	case len(segments) == 1:
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIGroupList"}, Groups: []metav1.APIGroup{}}
		for _, gv := range s.registry.groupVersions() {
			if gv.Group != "" {
				list.Groups = append(list.Groups, apiGroup(gv))
			}
		}
		return writeTyped(w, mediaJSON, list)
	case len(segments) == 2 && !core:
		for _, gv := range s.registry.groupVersions() {
			if gv.Group == segments[1] && gv.Group != "" {
				group := apiGroup(gv)
				group.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "APIGroup"}
				return writeTyped(w, mediaJSON, group)
			}
		}
	default:
		gv := groupVersionOf(segments)
		if slices.Contains(s.registry.groupVersions(), gv) {
			return writeTyped(w, mediaJSON, s.resourceList(gv))
		}
	}
	return pathNotFound()
}

func apiGroup(gv schema.GroupVersion) metav1.APIGroup {
	version := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
	return metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version}
}

// groupVersionOf reads api/VERSION or apis/GROUP/VERSION.
func groupVersionOf(segments []string) schema.GroupVersion {
	switch {
	case segments[0] == "api" && len(segments) >= 2:
		return schema.GroupVersion{Version: segments[1]}
	case segments[0] == "apis" && len(segments) >= 3 && segments[1] != "":
		return schema.GroupVersion{Group: segments[1], Version: segments[2]}
	}
	return schema.GroupVersion{}
}

// statusVerbs are the verbs of /status.
var statusVerbs = []string{"get", "patch", "update"}

func (s *Server) resourceList(gv schema.GroupVersion) metav1.APIResourceList {
	list := metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"},
		GroupVersion: gv.String(),
		APIResources: []metav1.APIResource{},
	}
	for _, r := range s.registry.all {
		if r.gvr.GroupVersion() != gv {
			continue
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: r.gvr.Resource, SingularName: r.singular, Namespaced: r.namespaced, Kind: r.gvk.Kind,
			Verbs: r.verbs, ShortNames: r.shortNames, Categories: r.categories,
		})
		if r.status {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: r.gvr.Resource + "/status", Namespaced: r.namespaced, Kind: r.gvk.Kind, Verbs: statusVerbs,
			})
		}
		for _, sub := range s.subresources[r.groupResource()] {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: r.gvr.Resource + "/" + sub.Name, Namespaced: r.namespaced, Kind: r.gvk.Kind, Verbs: sub.verbs(),
			})
		}
	}
	return list
}

func (s *Server) aggregatedDiscovery(core bool) apidiscoveryv2.APIGroupDiscoveryList {
	list := apidiscoveryv2.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{APIVersion: "apidiscovery.k8s.io/v2", Kind: "APIGroupDiscoveryList"},
		Items:    []apidiscoveryv2.APIGroupDiscovery{},
	}
	for _, gv := range s.registry.groupVersions() {
		if (gv.Group == "") != core {
			continue
		}
		version := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		for _, r := range s.registry.all {
			if r.gvr.GroupVersion() == gv {
				version.Resources = append(version.Resources, s.resourceDiscovery(r))
			}
		}
		list.Items = append(list.Items, apidiscoveryv2.APIGroupDiscovery{
			ObjectMeta: metav1.ObjectMeta{Name: gv.Group},
			Versions:   []apidiscoveryv2.APIVersionDiscovery{version},
		})
	}
	return list
}

func (s *Server) resourceDiscovery(r *resource) apidiscoveryv2.APIResourceDiscovery {
	kind := &metav1.GroupVersionKind{Group: r.gvk.Group, Version: r.gvk.Version, Kind: r.gvk.Kind}
	d := apidiscoveryv2.APIResourceDiscovery{
		Resource: r.gvr.Resource, ResponseKind: kind, SingularResource: r.singular,
		Scope: apidiscoveryv2.ScopeCluster, Verbs: r.verbs, ShortNames: r.shortNames, Categories: r.categories,
	}
	if r.namespaced {
		d.Scope = apidiscoveryv2.ScopeNamespace
	}
	if r.status {
		d.Subresources = append(d.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: "status", ResponseKind: kind, Verbs: statusVerbs})
	}
	for _, sub := range s.subresources[r.groupResource()] {
		d.Subresources = append(d.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub.Name, ResponseKind: kind, Verbs: sub.verbs()})
	}
	return d
}

// pathNotFound is the answer to a path that nothing serves.
func pathNotFound() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
	}}
}

// methodNotAllowed is the answer to a method that a path does not serve.
func methodNotAllowed(method, path string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: method + " is not supported on " + path, Details: &metav1.StatusDetails{},
	}}
}

// notWritable is the answer to a write of a kind that cannot be written.
func notWritable(why string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
		Message: why, Details: &metav1.StatusDetails{},
	}}
}
