package apiserver_test

import (
	"io/fs"
	"testing"
	"testing/fstest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"

	"sandboxd.dev/sandboxd/apiserver"
)

// pools is a definition of a kind that can be scaled, which none of the
// project's own is.
var pools fs.FS = fstest.MapFS{"pools.yaml": {Data: []byte(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: pools.test.dev}
spec:
  group: test.dev
  scope: Namespaced
  names: {kind: Pool, plural: pools, singular: pool, listKind: PoolList, categories: [all, test]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields:
    - jsonPath: .spec.color
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              color: {type: string}
              replicas: {type: integer, format: int32, maximum: 9}
          status:
            type: object
            properties:
              replicas: {type: integer, format: int32}
              selector: {type: string}
`)}}

const poolPath = "/apis/test.dev/v1/namespaces/default/pools"

func withPools(o *apiserver.Options) { o.CRDs = pools }

func TestScale(t *testing.T) {
	a := newAPI(t, withPools)
	one := a.do("POST", poolPath, `{"apiVersion":"test.dev/v1","kind":"Pool","metadata":{"name":"one"},"spec":{"replicas":2,"color":"red"}}`).want(201).object()
	a.patch(mergePatch, poolPath+"/one/status", `{"status":{"replicas":1,"selector":"pool=one"}}`).want(200)
	got := a.get(poolPath + "/one/scale").want(200)
	if got.field("kind") != "Scale" || got.field("apiVersion") != "autoscaling/v1" || got.field("spec", "replicas") != int64(2) ||
		got.field("status", "replicas") != int64(1) || got.field("status", "selector") != "pool=one" || got.field("metadata", "uid") != string(one.GetUID()) {
		t.Errorf("the Scale is %s", got.body)
	}
	put := func(version, replicas, query string) answer {
		return a.do("PUT", poolPath+"/one/scale"+query, `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"one","namespace":"default","resourceVersion":"`+version+`"},"spec":{"replicas":`+replicas+`}}`)
	}
	version, _ := got.field("metadata", "resourceVersion").(string)
	if got := put(version, "3", "?dryRun=All").want(200); got.field("spec", "replicas") != int64(3) {
		t.Errorf("the Scale is %s", got.body)
	}
	put(version, "3", "?fieldManager=scaler").want(200)
	put(version, "4", "").refused(409, "Conflict")
	put("", "-1", "").refused(422, "Invalid", "spec.replicas: Invalid value: -1")
	put("", "10", "").refused(422, "Invalid", "spec.replicas", "less than or equal to 9")
	put("", `"x"`, "").refused(400, "BadRequest", "cannot be decoded")
	put("", `4,"more":1`, "?fieldValidation=Strict").refused(400, "BadRequest", `strict decoding error: unknown field "spec.more"`)
	a.do("PUT", poolPath+"/one/scale", one).refused(400, "BadRequest", "where a Scale of autoscaling/v1 was expected")
	after := a.get(poolPath + "/one").want(200).object()
	if after.GetGeneration() != 2 {
		t.Errorf("scaling made generation %d", after.GetGeneration())
	}
	owned := false
	for _, f := range after.GetManagedFields() {
		owned = owned || f.Manager == "scaler" && f.Subresource == "scale"
	}
	if !owned {
		t.Errorf("the owners are %v", after.GetManagedFields())
	}
	for media, body := range map[string]string{
		mergePatch:     `{"spec":{"replicas":5}}`,
		jsonPatch:      `[{"op":"replace","path":"/spec/replicas","value":6}]`,
		strategicPatch: `{"spec":{"replicas":7}}`,
	} {
		a.patch(media, poolPath+"/one/scale", body).want(200)
	}
	a.patch(applyPatch, poolPath+"/one/scale?fieldManager=m", `{}`).refused(415, "UnsupportedMediaType")
	a.patch(mergePatch, poolPath+"/one/scale", `{"metadata":{"resourceVersion":"1"}}`).refused(409, "Conflict")
	a.get(poolPath+"/two/scale").refused(404, "NotFound", `pools.test.dev "two" not found`)
	a.do("POST", poolPath+"/one/scale", "{}").refused(405, "MethodNotAllowed")
	a.do("DELETE", poolPath+"/one/scale", nil).refused(405, "MethodNotAllowed")
	a.do("POST", poolPath, `{"apiVersion":"test.dev/v1","kind":"Pool","metadata":{"name":"bare"}}`).want(201)
	a.get(poolPath+"/bare/scale").refused(500, "InternalError", `no number at .spec.replicas`)

	plain := newAPI(t)
	plain.do("POST", sandboxes, sandbox("one")).want(201)
	plain.get(sandboxes+"/one/scale").refused(404, "NotFound")
}

// TestScaleClient scales as kubectl does, by client-go's polymorphic client.
func TestScaleClient(t *testing.T) {
	s := newServer(t, withPools)
	a := api{t: t, handler: s.Handler()}
	a.do("POST", poolPath, `{"apiVersion":"test.dev/v1","kind":"Pool","metadata":{"name":"one"},"spec":{"replicas":2}}`).want(201)
	config := s.LoopbackConfig()
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		t.Fatal(err)
	}
	scales, err := scale.NewForConfig(rest.CopyConfig(config), restmapper.NewDiscoveryRESTMapper(groups), dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(d))
	if err != nil {
		t.Fatal(err)
	}
	gr := schema.GroupResource{Group: "test.dev", Resource: "pools"}
	got, err := scales.Scales("default").Get(t.Context(), gr, "one", metav1.GetOptions{})
	if err != nil || got.Spec.Replicas != 2 {
		t.Fatalf("the Scale is %v: %v", got, err)
	}
	got.Spec.Replicas = 4
	if got, err = scales.Scales("default").Update(t.Context(), gr, got, metav1.UpdateOptions{}); err != nil || got.Spec.Replicas != 4 {
		t.Fatalf("the Scale is %v: %v", got, err)
	}
	got, err = scales.Scales("default").Patch(t.Context(), gr.WithVersion("v1"), "one", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{})
	if err != nil || got.Spec.Replicas != 5 {
		t.Fatalf("the Scale is %v: %v", got, err)
	}
}
