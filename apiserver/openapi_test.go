package apiserver_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/discovery"
	utilproto "k8s.io/kube-openapi/pkg/util/proto"
)

// TestSwagger reads the document of version 2 as kubectl before 1.24 does, with
// the parser that it has: protobuf, models by their kinds, operations by theirs.
func TestSwagger(t *testing.T) {
	s := newServer(t)
	client, err := discovery.NewDiscoveryClientForConfig(s.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := client.OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	models, err := utilproto.NewOpenAPIData(doc)
	if err != nil {
		t.Fatal(err)
	}
	byKind := map[string]utilproto.Schema{}
	for _, name := range models.ListModels() {
		model := models.LookupModel(name)
		for _, gvk := range kindsOf(model.GetExtensions()["x-kubernetes-group-version-kind"]) {
			byKind[gvk] = model
		}
	}
	for _, kind := range []string{"sandboxd.dev/v1/Sandbox", "sandboxd.dev/v1/GoldenImage", "sandboxd.dev/v1/SandboxSnapshot", "/v1/Secret", "/v1/Namespace", "coordination.k8s.io/v1/Lease"} {
		if byKind[kind] == nil {
			t.Errorf("no model of %s", kind)
		}
	}
	sandboxModel, ok := byKind["sandboxd.dev/v1/Sandbox"].(*utilproto.Kind)
	if !ok {
		t.Fatalf("the model of a Sandbox is %T", byKind["sandboxd.dev/v1/Sandbox"])
	}
	spec, ok := sandboxModel.Fields["spec"].(*utilproto.Kind)
	if !ok || spec.Fields["memory"].GetDescription() == "" || !spec.IsRequired("image") {
		t.Errorf("the model of the spec is %v", sandboxModel.Fields["spec"])
	}
	meta, ok := sandboxModel.Fields["metadata"].(utilproto.Reference)
	if !ok || meta.SubSchema().(*utilproto.Kind).Fields["labels"] == nil {
		t.Errorf("the model of the metadata is %v", sandboxModel.Fields["metadata"])
	}
	dryRun := false
	for _, path := range doc.GetPaths().GetPath() {
		if path.GetName() != "/apis/sandboxd.dev/v1/namespaces/{namespace}/sandboxes/{name}" {
			continue
		}
		for _, p := range path.GetValue().GetPatch().GetParameters() {
			dryRun = dryRun || p.GetParameter().GetNonBodyParameter().GetQueryParameterSubSchema().GetName() == "dryRun"
		}
	}
	if !dryRun {
		t.Error("the patch operation does not take dryRun")
	}
}

// kindsOf reads the extension that tells the kinds of a model.
func kindsOf(extension any) []string {
	var kinds []string
	list, _ := extension.([]any)
	for _, e := range list {
		word := func(name string) string {
			switch m := e.(type) {
			case map[string]any:
				s, _ := m[name].(string)
				return s
			case map[any]any:
				s, _ := m[name].(string)
				return s
			}
			return ""
		}
		kinds = append(kinds, word("group")+"/"+word("version")+"/"+word("kind"))
	}
	return kinds
}

func TestDocuments(t *testing.T) {
	a := newAPI(t)
	const v2, v3 = "/openapi/v2", "/openapi/v3/apis/sandboxd.dev/v1"
	for _, path := range []string{v2, "/openapi/v3", v3} {
		plain := a.get(path).want(200)
		tag := plain.header.Get("Etag")
		if tag == "" || !strings.Contains(plain.header.Get("Vary"), "Accept-Encoding") || !json.Valid(plain.body) || plain.header.Get("Content-Encoding") != "" {
			t.Errorf("%s was answered with %v", path, plain.header)
		}
		packed := a.do("GET", path, nil, "Accept-Encoding", "br;q=1.0, gzip;q=0.8").want(200)
		if packed.header.Get("Content-Encoding") != "gzip" || !bytes.Equal(unpacked(t, packed.body), plain.body) {
			t.Errorf("%s packed was answered with %v", path, packed.header)
		}
		if got := a.do("GET", path, nil, "Accept-Encoding", "gzip;q=0").want(200); got.header.Get("Content-Encoding") != "" {
			t.Errorf("%s was packed for a client that does not want it", path)
		}
		if got := a.do("GET", path, nil, "If-None-Match", `"x", W/`+tag).want(304); len(got.body) != 0 {
			t.Errorf("%s: %s", path, got.body)
		}
		a.do("GET", path, nil, "If-None-Match", `"x"`).want(200)
		a.do("GET", path, nil, "Accept", "image/png").refused(406, "NotAcceptable")
	}
	for _, media := range []string{"application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"} {
		got := a.do("GET", v2, nil, "Accept", media+", application/json", "Accept-Encoding", "gzip").want(200)
		var doc openapi_v2.Document
		if err := proto.Unmarshal(unpacked(t, got.body), &doc); err != nil || doc.GetSwagger() != "2.0" ||
			got.header.Get("Content-Type") != "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" {
			t.Errorf("%s was answered with %v: %v", media, got.header, err)
		}
	}
	got := a.do("GET", v3, nil, "Accept", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf").want(200)
	var doc openapi_v3.Document
	if err := proto.Unmarshal(got.body, &doc); err != nil || doc.GetComponents() == nil {
		t.Errorf("%v: %v", got.header, err)
	}
	// A document at the address with its hash never changes; at one with
	// another hash it is no longer.
	address, _ := a.get("/openapi/v3").field("paths", "apis/sandboxd.dev/v1", "serverRelativeURL").(string)
	if got := a.get(address).want(200); got.header.Get("Cache-Control") != "public, immutable" || got.header.Get("Expires") == "" {
		t.Errorf("%s was answered with %v", address, got.header)
	}
	if got := a.get(v3 + "?hash=0123").want(301); got.header.Get("Location") != address {
		t.Errorf("an old address leads to %s", got.header.Get("Location"))
	}
	if got := a.do("HEAD", v2, nil).want(200); got.header.Get("Etag") == "" {
		t.Errorf("HEAD was answered with %v", got.header)
	}
}

func unpacked(t *testing.T, raw []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
