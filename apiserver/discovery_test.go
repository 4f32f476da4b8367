package apiserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/restmapper"
	"k8s.io/kube-openapi/pkg/spec3"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
)

func execSubresource(o *apiserver.Options) {
	o.Subresources = []apiserver.Subresource{{
		Resource: v1.Resource("sandboxes"), Name: "exec", Methods: []string{"GET", "POST"},
		Handler: func(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
			_, _ = io.WriteString(w, r.Method+" "+parent.GetName()+" "+apiserver.UserFrom(r.Context()).Name)
		},
	}}
}

// TestDiscovery reads discovery with client-go, in both forms.
func TestDiscovery(t *testing.T) {
	s := newServer(t, execSubresource)
	for _, legacy := range []bool{false, true} {
		client, err := discovery.NewDiscoveryClientForConfig(s.LoopbackConfig())
		if err != nil {
			t.Fatal(err)
		}
		client.UseLegacyDiscovery = legacy
		groups, lists, err := client.ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, list := range lists {
			for _, r := range list.APIResources {
				verbs := strings.Join(r.Verbs, ",")
				found[list.GroupVersion+"/"+r.Name] = strings.Join([]string{r.Kind, strings.Join(r.ShortNames, ","), strings.Join(r.Categories, ","), verbs}, " ")
			}
		}
		const all = "create,delete,deletecollection,get,list,patch,update,watch"
		want := map[string]string{
			"v1/namespaces":                 "Namespace ns  " + all,
			"v1/namespaces/status":          "Namespace   get,patch,update",
			"v1/namespaces/finalize":        "Namespace   update",
			"v1/configmaps":                 "ConfigMap cm  " + all,
			"v1/events":                     "Event ev  " + all,
			"v1/secrets":                    "Secret   " + all,
			"v1/pods":                       "Pod po  get,list,watch",
			"v1/services":                   "Service svc  get,list,watch",
			"events.k8s.io/v1/events":       "Event ev  " + all,
			"coordination.k8s.io/v1/leases": "Lease   " + all,
			"apiextensions.k8s.io/v1/customresourcedefinitions": "CustomResourceDefinition crd,crds api-extensions get,list,watch",
			"sandboxd.dev/v1/goldenimages":                      "GoldenImage gi sandboxd " + all,
			"sandboxd.dev/v1/goldenimages/status":               "GoldenImage   get,patch,update",
			"sandboxd.dev/v1/sandboxes":                         "Sandbox sbx sandboxd,all " + all,
			"sandboxd.dev/v1/sandboxes/status":                  "Sandbox   get,patch,update",
			"sandboxd.dev/v1/sandboxsnapshots":                  "SandboxSnapshot snap sandboxd,all create,delete,deletecollection,get,list,patch,update,watch",
			"sandboxd.dev/v1/sandboxsnapshots/status":           "SandboxSnapshot   get,patch,update",
			"sandboxd.dev/v1/sandboxes/exec":                    "Sandbox   create,get",
		}
		for name, kind := range map[string]string{
			"rbac.authorization.k8s.io/v1/roles": "Role", "rbac.authorization.k8s.io/v1/rolebindings": "RoleBinding",
			"rbac.authorization.k8s.io/v1/clusterroles": "ClusterRole", "rbac.authorization.k8s.io/v1/clusterrolebindings": "ClusterRoleBinding",
		} {
			want[name] = kind + "   " + all
		}
		for name, kind := range map[string]string{
			"authorization.k8s.io/v1/selfsubjectaccessreviews": "SelfSubjectAccessReview", "authorization.k8s.io/v1/selfsubjectrulesreviews": "SelfSubjectRulesReview",
			"authorization.k8s.io/v1/subjectaccessreviews": "SubjectAccessReview", "authorization.k8s.io/v1/localsubjectaccessreviews": "LocalSubjectAccessReview",
			"authentication.k8s.io/v1/selfsubjectreviews": "SelfSubjectReview", "authentication.k8s.io/v1/tokenreviews": "TokenReview",
		} {
			want[name] = kind + "   create"
		}
		if !reflect.DeepEqual(found, want) {
			t.Errorf("legacy %v: discovery finds\n%v where\n%v was expected", legacy, found, want)
		}
		if len(groups) != 8 {
			t.Errorf("legacy %v: the groups are %v", legacy, groups)
		}
		mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory{client})
		mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "sandboxd.dev", Kind: "Sandbox"})
		if err != nil || mapping.Resource.Resource != "sandboxes" || mapping.Scope.Name() != meta.RESTScopeNameNamespace {
			t.Errorf("legacy %v: Sandbox maps to %v: %v", legacy, mapping, err)
		}
		version, err := client.ServerVersion()
		if err != nil || version.GitVersion != "v1.37.0-sandboxd" {
			t.Errorf("the version is %v: %v", version, err)
		}
	}
}

// memory is a discovery client for a mapper, without a cache.
type memory struct{ discovery.DiscoveryInterface }

func (memory) Fresh() bool { return true }
func (memory) Invalidate() {}

func TestDiscoveryPaths(t *testing.T) {
	a := newAPI(t)
	if got := a.get("/api").want(200); !reflect.DeepEqual(got.field("versions"), list("v1")) {
		t.Errorf("/api is %s", got.body)
	}
	if got := a.get("/apis/sandboxd.dev").want(200); got.field("kind") != "APIGroup" || got.field("preferredVersion", "groupVersion") != "sandboxd.dev/v1" {
		t.Errorf("the group is %s", got.body)
	}
	a.get("/apis/").want(200)
	for _, path := range []string{"/apis/nowhere.dev", "/apis/nowhere.dev/v1", "/apis/sandboxd.dev/v9", "/api/v2", "/apis/v1", "/openapi/v3/nowhere", "/openapi/v2/x", "/openapi/v4", "/version/x"} {
		a.get(path).refused(404, "NotFound")
	}
	a.do("POST", "/apis", nil).refused(405, "MethodNotAllowed")
	a.do("POST", "/openapi/v3", nil).refused(405, "MethodNotAllowed")
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		if got := a.get(path).want(200); string(got.body) != "ok" {
			t.Errorf("%s is %s", path, got.body)
		}
	}
}

// TestAggregatedDiscovery asks for it as clients of several versions do.
func TestAggregatedDiscovery(t *testing.T) {
	a := newAPI(t, withPools)
	const v2, v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
	for _, c := range []struct{ accept, want, version string }{
		{v2 + ";profile=nopeer," + v2 + "," + v2beta1 + ",application/json", v2, "apidiscovery.k8s.io/v2"}, // 1.35 and later
		{v2 + "," + v2beta1 + ",application/json", v2, "apidiscovery.k8s.io/v2"},                           // 1.30 and later
		{v2beta1 + ",application/json", v2beta1, "apidiscovery.k8s.io/v2beta1"},                            // 1.26 to 1.29
		{"application/json", "application/json", ""},
		{"application/json, */*", "application/json", ""}, // before that
		{"application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json", "application/json", ""},
	} {
		for _, path := range []string{"/api", "/apis"} {
			got := a.do("GET", path, nil, "Accept", c.accept).want(200)
			if got.header.Get("Content-Type") != c.want || got.header.Get("Vary") != "Accept" {
				t.Errorf("%s: %s was answered with %v", c.accept, path, got.header)
			}
			if c.version == "" {
				continue
			}
			if got.field("kind") != "APIGroupDiscoveryList" || got.field("apiVersion") != c.version {
				t.Errorf("%s: %s was answered with %s", c.accept, path, got.body)
			}
			tag := got.header.Get("Etag")
			if again := a.do("GET", path, nil, "Accept", c.accept, "If-None-Match", tag).want(304); tag == "" || len(again.body) != 0 {
				t.Errorf("%s: the tag of %s is %q", c.accept, path, tag)
			}
			a.do("GET", path, nil, "Accept", c.accept, "If-None-Match", `"0"`).want(200)
		}
	}
	// A scale is of another kind than what is scaled, in both forms.
	var list struct {
		Items []struct {
			Versions []struct {
				Resources []struct {
					Resource, SingularResource string
					Categories                 []string
					Subresources               []struct {
						Subresource  string
						ResponseKind struct{ Group, Version, Kind string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(a.do("GET", "/apis", nil, "Accept", v2).body, &list); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, group := range list.Items {
		for _, r := range group.Versions[0].Resources {
			for _, sub := range r.Subresources {
				found = found || r.Resource == "pools" && r.SingularResource == "pool" && slices.Contains(r.Categories, "all") &&
					sub.Subresource == "scale" && sub.ResponseKind.Group == "autoscaling" && sub.ResponseKind.Kind == "Scale"
			}
		}
	}
	legacy := string(a.get("/apis/test.dev/v1").want(200).body)
	if !found || !strings.Contains(legacy, `{"name":"pools/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale"`) {
		t.Errorf("the scale is not discovered: %v %s", list, legacy)
	}
}

// TestOpenAPI reads the documents as kubectl does.
func TestOpenAPI(t *testing.T) {
	s := newServer(t)
	a := api{t: t, handler: s.Handler()}
	client, err := discovery.NewDiscoveryClientForConfig(s.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	root := openapi3.NewRoot(client.OpenAPIV3())
	versions, err := root.GroupVersions()
	if err != nil || len(versions) != 8 {
		t.Fatalf("the documents are %v: %v", versions, err)
	}
	for _, gv := range versions {
		if _, err := root.GVSpec(gv); err != nil {
			t.Errorf("%s: %v", gv, err)
		}
	}
	doc, err := root.GVSpec(schema.GroupVersion{Group: "sandboxd.dev", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	model := doc.Components.Schemas["dev.sandboxd.v1.Sandbox"]
	if model == nil {
		t.Fatal("no schema of Sandbox")
	}
	if spec := model.Properties["spec"]; spec.Properties["memory"].Description == "" || !slices.Contains(spec.Required, "image") {
		t.Errorf("the schema of the spec is %v", spec)
	}
	meta := doc.Components.Schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]
	if meta == nil || meta.Properties["ownerReferences"].Extensions["x-kubernetes-list-type"] != "map" {
		t.Errorf("the schema of metadata has no list types")
	}
	// All references lead somewhere.
	raw, _ := json.Marshal(doc)
	for _, part := range strings.Split(string(raw), `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("nothing is called %s", name)
		}
	}
	patch := doc.Paths.Paths["/apis/sandboxd.dev/v1/namespaces/{namespace}/sandboxes/{name}"].Patch
	gvk, _ := patch.Extensions["x-kubernetes-group-version-kind"].(map[string]any)
	if gvk["kind"] != "Sandbox" || !slices.ContainsFunc(patch.Parameters, func(p *spec3.Parameter) bool { return p.Name == "fieldValidation" }) {
		t.Errorf("the patch operation is %v with %v", patch.Extensions, patch.Parameters)
	}
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(a.get("/openapi/v3").want(200).body, &index); err != nil {
		t.Fatal(err)
	}
	url := index.Paths["apis/sandboxd.dev/v1"].ServerRelativeURL
	first := a.get(url).want(200)
	if _, hash, _ := strings.Cut(url, "?hash="); hash == "" || first.header.Get("Etag") != `"`+hash+`"` {
		t.Errorf("the document's tag is %s and its address %s", first.header.Get("Etag"), url)
	}
	a.do("GET", url, nil, "If-None-Match", first.header.Get("Etag")).want(304)
}
