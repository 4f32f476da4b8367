package apiserver_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/apiserver"
)

// names are the names of a list's items.
func (n answer) names() []string {
	n.t.Helper()
	names := []string{}
	for _, item := range n.field("items").([]any) {
		names = append(names, item.(map[string]any)["metadata"].(map[string]any)["name"].(string))
	}
	return names
}

// zoo makes sandboxes in two namespaces.
func zoo(a api) {
	a.t.Helper()
	a.do("POST", namespaces, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"other"}}`).want(201)
	for _, path := range []string{sandboxes, "/apis/sandboxd.dev/v1/namespaces/other/sandboxes"} {
		for i := range 4 {
			u := with(sandbox(fmt.Sprintf("s%d", i)), fmt.Sprint(i%2), "metadata", "labels", "odd")
			u = with(u, fmt.Sprintf("image-%d", i/2), "spec", "image")
			a.do("POST", path, u).want(201)
		}
	}
}

func TestList(t *testing.T) {
	a := newAPI(t)
	empty := a.get(sandboxes).want(200)
	if empty.field("kind") != "SandboxList" || empty.field("apiVersion") != "sandboxd.dev/v1" || len(empty.names()) != 0 || empty.field("metadata", "resourceVersion") == "" {
		t.Errorf("an empty list is %s", empty.body)
	}
	zoo(a)
	cases := []struct {
		query string
		names []string
	}{
		{sandboxes, []string{"s0", "s1", "s2", "s3"}},
		{allSandboxes, []string{"s0", "s1", "s2", "s3", "s0", "s1", "s2", "s3"}},
		{sandboxes + "?labelSelector=odd=1", []string{"s1", "s3"}},
		{sandboxes + "?labelSelector=odd!%3D1", []string{"s0", "s2"}},
		{sandboxes + "?labelSelector=odd+in+(0,1),odd+notin+(0)", []string{"s1", "s3"}},
		{sandboxes + "?labelSelector=!odd", []string{}},
		{sandboxes + "?fieldSelector=metadata.name=s2", []string{"s2"}},
		{sandboxes + "?fieldSelector=metadata.name!%3Ds2", []string{"s0", "s1", "s3"}},
		{allSandboxes + "?fieldSelector=metadata.name=s2,metadata.namespace=other", []string{"s2"}},
		{allSandboxes + "?fieldSelector=metadata.namespace!%3Dother", []string{"s0", "s1", "s2", "s3"}},
		{sandboxes + "?fieldSelector=spec.image=image-1", []string{"s2", "s3"}},
		{sandboxes + "?fieldSelector=spec.image!%3Dimage-1&labelSelector=odd=1", []string{"s1"}},
		{sandboxes + "?fieldSelector=spec.image=", []string{}},
		{sandboxes + "?limit=2", []string{"s0", "s1"}},
		{sandboxes + "?resourceVersion=0", []string{"s0", "s1", "s2", "s3"}},
		{sandboxes + "?resourceVersion=1&resourceVersionMatch=NotOlderThan", []string{"s0", "s1", "s2", "s3"}},
		{namespaces + "?fieldSelector=status.phase=Active", []string{"default", "other"}},
		{namespaces + "?fieldSelector=status.phase=Terminating", []string{}},
	}
	for _, c := range cases {
		if got := a.get(c.query).want(200).names(); !reflect.DeepEqual(got, c.names) {
			t.Errorf("%s lists %v where %v was expected", c.query, got, c.names)
		}
	}
}

func TestListRefused(t *testing.T) {
	a := newAPI(t)
	cases := []struct {
		path         string
		code         int
		reason, part string
	}{
		{sandboxes + "?fieldSelector=spec.cpus=1", 400, "BadRequest", `sandboxes cannot be selected by "spec.cpus", only by metadata.name, metadata.namespace, spec.image`},
		{goldenImages + "?fieldSelector=metadata.namespace=x", 400, "BadRequest", "cannot be selected"},
		{sandboxes + "?fieldSelector=a", 400, "BadRequest", "fieldSelector cannot be parsed"},
		{sandboxes + "?labelSelector=a=b=c", 400, "BadRequest", "labelSelector cannot be parsed"},
		{sandboxes + "?resourceVersion=x", 400, "BadRequest", "not a version of this server"},
		{sandboxes + "?resourceVersion=-1", 400, "BadRequest", "not a version of this server"},
		{sandboxes + "?resourceVersion=999999", 504, "Timeout", "Too large resource version"},
		{sandboxes + "/x?resourceVersion=999999", 504, "Timeout", "Too large resource version"},
		{sandboxes + "?resourceVersionMatch=Exact", 422, "Invalid", "forbidden unless resourceVersion is provided"},
		{sandboxes + "?resourceVersion=1&resourceVersionMatch=Nearly", 422, "Invalid", "resourceVersionMatch: Unsupported value"},
		{sandboxes + "?resourceVersion=0&resourceVersionMatch=Exact", 422, "Invalid", "forbidden for resourceVersion"},
		{sandboxes + "?resourceVersion=1&resourceVersionMatch=Exact&continue=x", 422, "Invalid", "forbidden when continue is provided"},
		{sandboxes + "?sendInitialEvents=true&resourceVersionMatch=NotOlderThan", 422, "Invalid", "sendInitialEvents is forbidden for list"},
		{sandboxes + "?sendInitialEvents=perhaps", 400, "BadRequest", "neither true nor false"},
		{sandboxes + "?resourceVersion=1&resourceVersionMatch=Exact&sendInitialEvents=true", 422, "Invalid", "sendInitialEvents is forbidden for list"},
		{sandboxes + "?continue=abc", 400, "BadRequest", "list again from the start"},
		{sandboxes + "/x", 404, "NotFound", `sandboxes.sandboxd.dev "x" not found`},
		{allSandboxes + "/x", 404, "NotFound", "could not find the requested resource"},
		{"/apis/sandboxd.dev/v1/namespaces/default/goldenimages", 404, "NotFound", "could not find"},
		{"/apis/sandboxd.dev/v1/pods", 404, "NotFound", "could not find"},
		{"/apis/sandboxd.dev/v2/sandboxes", 404, "NotFound", "could not find"},
		{"/apis/nowhere.dev/v1/sandboxes", 404, "NotFound", "could not find"},
		{sandboxes + "/x/exec", 404, "NotFound", "could not find"},
		{sandboxes + "/x/status/more", 404, "NotFound", "could not find"},
		{"/nowhere", 404, "NotFound", "could not find"},
		{"/apis/sandboxd.dev/v1/namespaces//sandboxes", 404, "NotFound", "could not find"},
		{"/apis/sandboxd.dev/v1/namespaces/default/sandboxes/a%2Fb", 404, "NotFound", "could not find"},
		{"/apis/sandboxd.dev/v1/namespaces/default/sandboxes/a%00b", 404, "NotFound", "could not find"},
		{"/apis/sandboxd.dev/v1/namespaces/%2E%2E/sandboxes", 404, "NotFound", "could not find"},
		{sandboxes + "?watch=perhaps", 400, "BadRequest", "neither true nor false"},
		{sandboxes + "?a=%zz", 400, "BadRequest", "the query cannot be parsed"},
	}
	for _, c := range cases {
		t.Run(c.path, func(t *testing.T) {
			a := api{t: t, handler: a.handler}
			a.get(c.path).refused(c.code, c.reason, c.part)
		})
	}
	future := a.get(sandboxes + "?resourceVersion=999999")
	causes := future.field("details", "causes").([]any)
	if len(causes) != 1 || causes[0].(map[string]any)["reason"] != "ResourceVersionTooLarge" || future.header.Get("Retry-After") != "1" {
		t.Errorf("a version of the future is answered with %s and %v", future.body, future.header)
	}
	for _, method := range []string{"HEAD", "OPTIONS", "TRACE", "PUT", "PATCH"} {
		a.do(method, sandboxes, nil).want(405)
	}
	a.do("POST", sandboxes+"/x", sandbox("x")).refused(405, "MethodNotAllowed")
}

const (
	asTable       = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	asPartial     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
	asPartialList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
)

// table is a Table as clients read it.
type table struct {
	Kind              string
	Metadata          struct{ ResourceVersion string }
	ColumnDefinitions []struct {
		Name, Type, Format string
		Priority           int32
	}
	Rows []struct {
		Cells  []any
		Object map[string]any
	}
}

func (n answer) table() table {
	n.t.Helper()
	var parsed table
	if err := json.Unmarshal(n.body, &parsed); err != nil || parsed.Kind != "Table" {
		n.t.Fatalf("no table: %v: %s", err, n.body)
	}
	return parsed
}

func (t table) columns() []string {
	var names []string
	for _, c := range t.ColumnDefinitions {
		names = append(names, c.Name)
	}
	return names
}

func TestTable(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now().Truncate(time.Second))
	a := newAPI(t, func(o *apiserver.Options) { o.Clock = clock })
	a.do("POST", sandboxes, with(sandbox("one"), "nat", "spec", "network", "mode")).want(201)
	a.patch(mergePatch, sandboxes+"/one/status", `{"status":{"phase":"Running","restarts":2,"addresses":[{"ip":"10.0.0.9"}],
		"conditions":[{"type":"PoweredOn","status":"True","reason":"R","message":"on","lastTransitionTime":"2026-01-01T00:00:00Z"},
		{"type":"Ready","status":"False","reason":"R","message":"waiting","lastTransitionTime":"`+clock.Now().Add(-3*time.Hour).UTC().Format(time.RFC3339)+`"}]}}`).want(200)
	got := a.do("GET", sandboxes, nil, "Accept", asTable).want(200).table()
	want := []string{"Name", "Image", "Phase", "Ready", "Network", "Address", "Isolated", "Restarts", "Provider", "Since", "Message", "Age"}
	if !reflect.DeepEqual(got.columns(), want) {
		t.Errorf("the columns are %v", got.columns())
	}
	for _, c := range got.ColumnDefinitions {
		if wide := slices.Contains([]string{"Isolated", "Restarts", "Provider", "Since", "Message"}, c.Name); wide != (c.Priority > 0) {
			t.Errorf("column %s has priority %d", c.Name, c.Priority)
		}
	}
	if len(got.Rows) != 1 || got.Metadata.ResourceVersion == "" {
		t.Fatalf("the table is %+v", got)
	}
	cells := got.Rows[0].Cells
	if !reflect.DeepEqual(cells[:11], []any{"one", "tiny", "Running", "False", "nat", "10.0.0.9", nil, float64(2), nil, "3h", "waiting"}) {
		t.Errorf("the cells are %v", cells)
	}
	if meta := got.Rows[0].Object; meta["kind"] != "PartialObjectMetadata" || meta["spec"] != nil {
		t.Errorf("a row carries %v", meta)
	}
	one := a.do("GET", sandboxes+"/one?includeObject=Object", nil, "Accept", asTable).want(200).table()
	if len(one.Rows) != 1 || one.Rows[0].Object["kind"] != "Sandbox" {
		t.Errorf("a row that should carry the object carries %v", one.Rows[0].Object)
	}
	if none := a.do("GET", sandboxes+"?includeObject=None", nil, "Accept", asTable).want(200).table(); none.Rows[0].Object != nil {
		t.Errorf("a row that should carry nothing carries %v", none.Rows[0].Object)
	}
	// An answer that is no object is never a table.
	a.do("GET", sandboxes+"/none", nil, "Accept", asTable).refused(404, "NotFound")
	if got := a.do("DELETE", sandboxes+"/one", nil, "Accept", asTable).want(200); got.field("kind") != "Status" {
		t.Errorf("a deletion was answered with %s", got.body)
	}
}

func TestPartialMetadata(t *testing.T) {
	a := newAPI(t)
	a.do("POST", sandboxes, sandbox("one")).want(201)
	one := a.do("GET", sandboxes+"/one", nil, "Accept", asPartial).want(200)
	if one.field("kind") != "PartialObjectMetadata" || one.field("apiVersion") != "meta.k8s.io/v1" || one.field("metadata", "name") != "one" || one.field("spec") != nil {
		t.Errorf("the metadata is %s", one.body)
	}
	all := a.do("GET", sandboxes, nil, "Accept", asPartialList).want(200)
	if all.field("kind") != "PartialObjectMetadataList" || !reflect.DeepEqual(all.names(), []string{"one"}) {
		t.Errorf("the list is %s", all.body)
	}
	if item := all.field("items").([]any)[0].(map[string]any); item["kind"] != "PartialObjectMetadata" || item["spec"] != nil {
		t.Errorf("an item is %v", item)
	}
}
