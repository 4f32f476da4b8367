package apiserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// aggregatedVersion is the version of aggregated discovery that a client
// understands; empty when it understands none. v2beta1 has the same form under
// another name; clients from before 1.30 know only that.
func aggregatedVersion(r *http.Request) string {
	for _, part := range strings.Split(r.Header.Get("Accept"), ",") {
		media, params, err := mime.ParseMediaType(part)
		if err == nil && media == mediaJSON && params["g"] == "apidiscovery.k8s.io" && params["as"] == "APIGroupDiscoveryList" {
			if v := params["v"]; v == "v2" || v == "v2beta1" {
				return v
			}
		}
		if err == nil && media == mediaJSON && params["as"] == "" {
			return "" // the client likes the other form better
		}
	}
	return ""
}

// serveAggregated answers with everything below /api or /apis at once. Clients
// that have it are told so.
func (s *Server) serveAggregated(w http.ResponseWriter, r *http.Request, core bool, version string) error {
	list := s.aggregatedDiscovery(core)
	list.APIVersion = "apidiscovery.k8s.io/" + version
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	tag := strconv.Quote(strings.ToUpper(hex.EncodeToString(sum[:])))
	w.Header().Set("Etag", tag)
	w.Header().Set("Cache-Control", "public")
	if matchesTag(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeBody(w, http.StatusOK, "application/json;g=apidiscovery.k8s.io;v="+version+";as=APIGroupDiscoveryList", append(raw, '\n'))
	return nil
}

// serveDiscovery answers /api, /apis, /apis/GROUP, and the lists of resources
// of a group version.
func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request, segments []string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed(r.Method, r.URL.Path)
	}
	core := segments[0] == "api"
	if len(segments) == 1 {
		w.Header().Set("Vary", "Accept")
		if version := aggregatedVersion(r); version != "" {
			return s.serveAggregated(w, r, core, version)
		}
	}
	switch {
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

// ownSubresource is one that the server itself serves, besides status.
type ownSubresource struct {
	name  string
	kind  schema.GroupVersionKind
	verbs []string
}

func (r *resource) ownSubresources() []ownSubresource {
	var subs []ownSubresource
	if r.finalize != nil {
		subs = append(subs, ownSubresource{"finalize", r.gvk, []string{"update"}})
	}
	if r.scale != nil {
		subs = append(subs, ownSubresource{"scale", scaleKind, statusVerbs})
	}
	return subs
}

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
		for _, sub := range r.ownSubresources() {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: r.gvr.Resource + "/" + sub.name, Namespaced: r.namespaced, Kind: sub.kind.Kind,
				Group: sub.kind.Group, Version: sub.kind.Version, Verbs: sub.verbs,
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
	for _, sub := range r.ownSubresources() {
		kind := &metav1.GroupVersionKind{Group: sub.kind.Group, Version: sub.kind.Version, Kind: sub.kind.Kind}
		d.Subresources = append(d.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub.name, ResponseKind: kind, Verbs: sub.verbs})
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
