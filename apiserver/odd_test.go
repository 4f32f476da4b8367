package apiserver_test

import (
	"strings"
	"testing"
)

// TestOddRequests: whatever is asked in whatever way, the answer is a Status or
// what was meant.
func TestOddRequests(t *testing.T) {
	a := newAPI(t)
	a.do("POST", sandboxes+"/", sandbox("one")).want(201) // a slash too many
	a.get(sandboxes + "/one/").want(200)
	a.get("//apis//sandboxd.dev/v1/sandboxes").want(404)
	for _, method := range []string{"OPTIONS", "FOO", "TRACE", "HEAD"} {
		if got := a.do(method, sandboxes, nil).want(405); method != "HEAD" {
			got.refused(405, "MethodNotAllowed", method+" is not supported on "+sandboxes)
		}
	}
	for _, path := range []string{"/api", "/apis", "/apis/sandboxd.dev/v1", "/openapi/v2", "/version", "/livez"} {
		a.do("HEAD", path, nil).want(200)
		a.do("PUT", path, "{}").refused(405, "MethodNotAllowed")
	}
	// Forms of answers: the first one that can be had.
	for accept, code := range map[string]int{
		"application/vnd.kubernetes.protobuf":                  406,
		"application/vnd.kubernetes.protobuf;stream=watch":     406,
		"application/vnd.kubernetes.protobuf,application/json": 200,
		"application/cbor, application/json;q=0.9":             200,
		"application/cbor": 406,
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json": 200,
		"application/json;as=Nothing;v=v1;g=meta.k8s.io":                                                                  406,
		"text/html, */*;q=0.1": 200,
		"nonsense;;":           406,
	} {
		got := a.do("GET", sandboxes, nil, "Accept", accept).want(code)
		if code == 406 {
			got.refused(406, "NotAcceptable", "application/json")
		}
	}
	a.do("GET", sandboxes+"?includeObject=Some", nil, "Accept", asTable).refused(400, "BadRequest", "includeObject")
	// Forms of bodies.
	for media, body := range map[string]string{
		"application/apply-patch+cbor": "\xa0",
		"application/cbor":             "\xa0",
		"text/plain":                   "x",
		"application/json-patch+yaml":  "- {}",
		"multipart/form-data; x=\"y\"": "x",
	} {
		refusal := a.do("PATCH", sandboxes+"/one?fieldManager=m", body, "Content-Type", media).refused(415, "UnsupportedMediaType", "accepted media types include")
		if !strings.Contains(refusal.message(), applyPatch) {
			t.Errorf("%s: the answer is %s", media, refusal.message())
		}
	}
	a.do("POST", sandboxes, "\xa0", "Content-Type", "application/cbor").refused(415, "UnsupportedMediaType", "application/json")
	a.do("PATCH", sandboxes+"/one?fieldManager=m", "{}", "Content-Type", ";").refused(400, "BadRequest")
	a.do("DELETE", sandboxes+"/one", "\xa0", "Content-Type", "application/cbor").refused(415, "UnsupportedMediaType")
	// Deletions in YAML, of a version as clients of other groups write it.
	a.do("DELETE", sandboxes+"/one", "apiVersion: sandboxd.dev/v1\nkind: DeleteOptions\ndryRun: [All]", "Content-Type", "application/yaml").want(200)
	a.do("DELETE", sandboxes+"/one?gracePeriodSeconds=soon", nil).refused(400, "BadRequest", "gracePeriodSeconds")
	a.do("DELETE", sandboxes+"/one?orphanDependents=perhaps", nil).refused(400, "BadRequest", "neither true nor false")
	a.do("DELETE", sandboxes+"?dryRun=All", nil).want(200)
	a.get(sandboxes + "/one").want(200)
	a.do("DELETE", sandboxes+"/one?gracePeriodSeconds=0", nil).want(200)
	a.get(sandboxes + "/one").want(404)
}

// TestDefinitionsAreReadOnly reads definitions as kubectl wait does.
func TestDefinitionsAreReadOnly(t *testing.T) {
	a := newAPI(t)
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	got := a.get(crds + "/sandboxes.sandboxd.dev").want(200)
	conditions, _ := got.field("status", "conditions").([]any)
	established := false
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		established = established || m["type"] == "Established" && m["status"] == "True"
	}
	if !established || got.field("spec", "names", "singular") != "sandbox" {
		t.Errorf("the definition is %s", got.body)
	}
	if names := a.get(crds + "?fieldSelector=metadata.name%3Dsandboxes.sandboxd.dev").names(); len(names) != 1 {
		t.Errorf("the list is %v", names)
	}
	if table := a.do("GET", crds, nil, "Accept", asTable).want(200).table(); len(table.Rows) != 3 || table.columns()[1] != "Created At" {
		t.Errorf("the table is %v", table)
	}
	a.do("POST", crds, "{}").refused(405, "MethodNotAllowed")
	a.do("DELETE", crds+"/sandboxes.sandboxd.dev", nil).refused(405, "MethodNotAllowed")
	a.patch(applyPatch, crds+"/sandboxes.sandboxd.dev?fieldManager=m", "{}").refused(405, "MethodNotAllowed")
}
