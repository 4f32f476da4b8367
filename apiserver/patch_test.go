package apiserver_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	mergePatch     = "application/merge-patch+json"
	jsonPatch      = "application/json-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	applyPatch     = "application/apply-patch+yaml"
)

func (a api) patch(media, path, body string) answer {
	a.t.Helper()
	return a.do("PATCH", path, body, "Content-Type", media)
}

func TestJSONPatch(t *testing.T) {
	a := newAPI(t)
	a.do("POST", sandboxes, with(sandbox("one"), list("ssh-ed25519 AAAA a", "ssh-ed25519 AAAA b"), "spec", "cloudInit", "sshAuthorizedKeys")).want(201)
	got := a.patch(jsonPatch, sandboxes+"/one", `[
		{"op":"test","path":"/spec/image","value":"tiny"},
		{"op":"add","path":"/spec/cpus","value":3},
		{"op":"replace","path":"/spec/powerState","value":"Stopped"},
		{"op":"remove","path":"/spec/cloudInit/sshAuthorizedKeys/0"},
		{"op":"add","path":"/metadata/labels","value":{"a":"b"}},
		{"op":"copy","from":"/metadata/labels/a","path":"/metadata/labels/c"}]`).want(200)
	if got.field("spec", "cpus") != int64(3) || got.field("spec", "powerState") != "Stopped" || got.field("metadata", "labels", "c") != "b" {
		t.Errorf("the patch made %s", got.body)
	}
	if keys := got.field("spec", "cloudInit", "sshAuthorizedKeys"); !reflect.DeepEqual(keys, list("ssh-ed25519 AAAA b")) {
		t.Errorf("the keys are %v", keys)
	}
	a.patch(jsonPatch, sandboxes+"/one", `[{"op":"test","path":"/spec/image","value":"huge"}]`).refused(422, "Invalid", "the JSON patch cannot be applied")
	a.patch(jsonPatch, sandboxes+"/one", `[{"op":"remove","path":"/spec/none"}]`).refused(422, "Invalid", "the JSON patch cannot be applied")
	a.patch(jsonPatch, sandboxes+"/one", `{"op":"add"}`).refused(400, "BadRequest", "not a JSON patch")
	a.patch(jsonPatch, sandboxes+"/one", `[{"op":"replace","path":"","value":[]}]`).want(400)
	a.patch(jsonPatch, sandboxes+"/none", `[]`).refused(404, "NotFound")
	many := "[" + strings.Repeat(`{"op":"test","path":"/kind","value":"Sandbox"},`, 10001)
	a.patch(jsonPatch, sandboxes+"/one", strings.TrimSuffix(many, ",")+"]").refused(413, "RequestEntityTooLarge", "more than 10000 operations")

	// Copies that double an object with each step are stopped.
	bomb := `[{"op":"add","path":"/metadata/annotations","value":{"a":"` + strings.Repeat("x", 1000) + `"}}`
	for i := range 30 {
		bomb += fmt.Sprintf(`,{"op":"copy","from":"/metadata","path":"/metadata/annotations/b%d"}`, i)
	}
	a.patch(jsonPatch, sandboxes+"/one", bomb+"]").refused(422, "Invalid", "the JSON patch cannot be applied")
}

func TestMergePatch(t *testing.T) {
	a := newAPI(t)
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	got := a.patch(mergePatch, sandboxes+"/one", `{"spec":{"network":{"mode":"intnet","name":"lan"},"memory":null},"metadata":{"labels":{"a":"b"}}}`).want(200)
	if got.field("spec", "network", "name") != "lan" || got.field("spec", "memory") != nil {
		t.Errorf("the patch made %s", got.body)
	}
	got = a.patch(mergePatch, sandboxes+"/one", `{"spec":{"network":{"mode":"none","name":null}},"metadata":{"labels":null}}`).want(200)
	if got.field("spec", "network", "name") != nil || got.field("metadata", "labels") != nil {
		t.Errorf("the patch made %s", got.body)
	}
	// Defaults come back when their fields are removed.
	if got = a.patch(mergePatch, sandboxes+"/one", `{"spec":{"powerState":null}}`).want(200); got.field("spec", "powerState") != "Running" {
		t.Errorf("the patch made %s", got.body)
	}
	a.patch(mergePatch, sandboxes+"/one", fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"cpus":1}}`, one.GetResourceVersion())).refused(409, "Conflict")
	a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"uid":"00000000-0000-4000-8000-000000000000"}}`).refused(409, "Conflict")
	a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"name":"two"}}`).refused(400, "BadRequest", "does not match the name on the URL")
	a.patch(mergePatch, sandboxes+"/one", `{"kind":"Other"}`).refused(400, "BadRequest", "Other")
	a.patch(mergePatch, sandboxes+"/one", `[]`).refused(400, "BadRequest")
	a.patch(mergePatch, sandboxes+"/one", `{"spec":null}`).refused(422, "Invalid", "spec: Required value")
	a.patch("application/merge-patch+xml", sandboxes+"/one", `{}`).refused(415, "UnsupportedMediaType")
	a.patch(strategicPatch, sandboxes+"/one", `{}`).refused(415, "UnsupportedMediaType", strategicPatch)
}

func TestStrategicPatch(t *testing.T) {
	a := newAPI(t)
	a.do("POST", namespaces, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n","finalizers":["example.com/a"]}}`).want(201)
	got := a.patch(strategicPatch, namespaces+"/n", `{"metadata":{"labels":{"a":"b"},"finalizers":["example.com/b"],"$deleteFromPrimitiveList/finalizers":["example.com/a"]}}`).want(200)
	if got.field("metadata", "labels", "a") != "b" || !reflect.DeepEqual(got.object().GetFinalizers(), []string{"example.com/b"}) {
		t.Errorf("the patch made %s", got.body)
	}
	event := `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e"},"reason":"R","note":"n","type":"Normal","regarding":{"kind":"Sandbox","name":"one","namespace":"default"}}`
	a.do("POST", "/apis/events.k8s.io/v1/namespaces/default/events", event).want(201)
	got = a.patch(strategicPatch, "/apis/events.k8s.io/v1/namespaces/default/events/e", `{"note":"m","series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}`).want(200)
	if got.field("note") != "m" || got.field("series", "count") != int64(2) || got.field("regarding", "name") != "one" {
		t.Errorf("the patch made %s", got.body)
	}
	if got := a.get("/api/v1/namespaces/default/events/e").want(200); got.field("message") != "m" || got.field("involvedObject", "name") != "one" {
		t.Errorf("the event is %s", got.body)
	}
}

// applied is a configuration of a sandbox.
func applied(name string, spec string) string {
	return fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

func TestApply(t *testing.T) {
	a := newAPI(t)
	url := func(manager string, more ...string) string {
		return sandboxes + "/one?fieldManager=" + manager + strings.Join(more, "")
	}
	created := a.patch(applyPatch, url("git"), applied("one", `{image: tiny, cpus: 2, memory: 1Gi}`)).want(201)
	if created.field("spec", "powerState") != "Running" || created.object().GetGeneration() != 1 || created.object().GetUID() == "" {
		t.Errorf("apply made %s", created.body)
	}
	owners := created.object().GetManagedFields()
	if len(owners) != 1 || owners[0].Manager != "git" || owners[0].Operation != "Apply" || strings.Contains(owners[0].FieldsV1.GetRawString(), "powerState") {
		t.Errorf("the owners are %v", owners)
	}
	// What a configuration no longer says is removed, if nobody else owns it.
	got := a.patch(applyPatch, url("git"), applied("one", `{image: tiny, cpus: 2}`)).want(200)
	if got.field("spec", "memory") != nil || got.object().GetGeneration() != 2 {
		t.Errorf("apply made %s", got.body)
	}
	// Another one's field is a conflict that names the owner and the field.
	conflict := a.patch(applyPatch, url("other"), applied("one", `{image: tiny, cpus: 4}`)).refused(409, "Conflict", `conflict with "git"`, ".spec.cpus")
	causes, _, _ := unstructured.NestedSlice(conflict.object().Object, "details", "causes")
	if len(causes) != 1 || causes[0].(map[string]any)["reason"] != "FieldManagerConflict" || causes[0].(map[string]any)["field"] != ".spec.cpus" {
		t.Errorf("the causes are %v", causes)
	}
	// The same value is none: both own it then.
	a.patch(applyPatch, url("other"), applied("one", `{image: tiny, cpus: 2}`)).want(200)
	if got := a.patch(applyPatch, url("git"), applied("one", `{image: tiny}`)).want(200); got.field("spec", "cpus") != int64(2) {
		t.Errorf("a shared field was removed by one of its owners: %s", got.body)
	}
	// Force takes it.
	if got := a.patch(applyPatch, url("git", "&force=true"), applied("one", `{image: tiny, cpus: 8}`)).want(200); got.field("spec", "cpus") != int64(8) {
		t.Errorf("a forced apply made %s", got.body)
	}
	// Other writes own what they change.
	a.patch(mergePatch, sandboxes+"/one?fieldManager=hand", `{"spec":{"cpus":3}}`).want(200)
	a.patch(applyPatch, url("git"), applied("one", `{image: tiny, cpus: 8}`)).refused(409, "Conflict", `conflict with "hand"`)

	// The status is not the main endpoint's to apply, nor to own.
	got = a.patch(applyPatch, sandboxes+"/three?fieldManager=git", applied("three", `{image: tiny}`)+"status: {phase: Running}\n").want(201)
	if got.field("status") != nil || strings.Contains(got.object().GetManagedFields()[0].FieldsV1.GetRawString(), "f:status") {
		t.Errorf("applying a status to the main endpoint made %s", got.body)
	}

	// Lists are merged by their keys.
	forwards := func(names ...string) string {
		var all []string
		for i, name := range names {
			all = append(all, fmt.Sprintf("{name: %s, guestPort: %d}", name, i+1))
		}
		return "{image: tiny, network: {mode: nat, portForwards: [" + strings.Join(all, ", ") + "]}}"
	}
	a.patch(applyPatch, sandboxes+"/two?fieldManager=x", applied("two", forwards("a", "b"))).want(201)
	got = a.patch(applyPatch, sandboxes+"/two?fieldManager=y", applied("two", forwards("c"))).want(200)
	if n := len(got.field("spec", "network", "portForwards").([]any)); n != 3 {
		t.Errorf("two configurations made %d port forwards: %s", n, got.body)
	}
	got = a.patch(applyPatch, sandboxes+"/two?fieldManager=x", applied("two", forwards("a"))).want(200)
	if n := len(got.field("spec", "network", "portForwards").([]any)); n != 2 {
		t.Errorf("a removed port forward leaves %d: %s", n, got.body)
	}
}

func TestApplyRefused(t *testing.T) {
	a := newAPI(t)
	path := sandboxes + "/one?fieldManager=git"
	a.patch(applyPatch, sandboxes+"/one", applied("one", "{image: tiny}")).refused(422, "Invalid", "fieldManager: Required value: is required for apply patch")
	a.patch(mergePatch, sandboxes+"/one?force=true", `{}`).refused(422, "Invalid", "force: Forbidden: may not be specified for non-apply patch")
	a.patch(applyPatch, path, applied("two", "{image: tiny}")).refused(400, "BadRequest", "does not match the name on the URL")
	a.patch(applyPatch, path, applied("one", "{cpus: 1}")).refused(422, "Invalid", "spec.image: Required value")
	a.patch(applyPatch, path, applied("one", "{image: tiny, cpus: two}")).want(400)
	a.patch(applyPatch, path, applied("one", "{image: tiny, memory: 1Mi}")).refused(422, "Invalid", "memory must be at least 64Mi")
	a.patch(applyPatch, path, "{").refused(400, "BadRequest")
	a.patch(applyPatch, path, "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: one, managedFields: [{}]}\nspec: {image: tiny}").refused(400, "BadRequest", "managedFields must be nil")
	a.patch(applyPatch, path, "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: one, uid: 00000000-0000-4000-8000-000000000000}\nspec: {image: tiny}").refused(409, "Conflict")
	a.patch(applyPatch, "/apis/sandboxd.dev/v1/namespaces/nowhere/sandboxes/one?fieldManager=git", applied("one", "{image: tiny}")).refused(404, "NotFound", `namespaces "nowhere" not found`)
	a.patch(applyPatch, sandboxes+"/one/status?fieldManager=git", "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: one}\nstatus: {phase: Running}").refused(404, "NotFound")
	a.get(sandboxes+"/one").refused(404, "NotFound")
}

func TestApplyStatus(t *testing.T) {
	a := newAPI(t)
	a.patch(applyPatch, sandboxes+"/one?fieldManager=git", applied("one", "{image: tiny, cpus: 1}")).want(201)
	status := "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: one}\nspec: {image: tiny, cpus: 5}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\", reason: A, message: m, lastTransitionTime: \"2026-01-01T00:00:00Z\"}]}"
	got := a.patch(applyPatch, sandboxes+"/one/status?fieldManager=controller", status).want(200)
	if got.field("status", "phase") != "Running" || got.field("spec", "cpus") != int64(1) {
		t.Errorf("applying the status made %s", got.body)
	}
	owners := got.object().GetManagedFields()
	i := slices.IndexFunc(owners, func(o metav1.ManagedFieldsEntry) bool { return o.Manager == "controller" })
	if len(owners) != 2 || i < 0 || owners[i].Subresource != "status" || strings.Contains(owners[i].FieldsV1.GetRawString(), "f:cpus") {
		t.Errorf("the owners are %v", owners)
	}
	// The configuration's owner is not disturbed, nor the status by it.
	got = a.patch(applyPatch, sandboxes+"/one?fieldManager=git", applied("one", "{image: tiny, cpus: 2}")).want(200)
	if got.field("status", "phase") != "Running" || got.field("spec", "cpus") != int64(2) {
		t.Errorf("applying the spec made %s", got.body)
	}
}

func TestApplyCoreKinds(t *testing.T) {
	a := newAPI(t)
	a.patch(applyPatch, namespaces+"/ns?fieldManager=git", "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns, labels: {a: b}}").want(201)
	got := a.patch(applyPatch, namespaces+"/ns?fieldManager=git", "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns}").want(200)
	if labels := got.object().GetLabels(); !reflect.DeepEqual(labels, map[string]string{"kubernetes.io/metadata.name": "ns"}) {
		t.Errorf("the labels are %v", labels)
	}
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}"
	a.patch(applyPatch, "/api/v1/namespaces/ns/secrets/s?fieldManager=git", secret).want(201)
	if got := a.patch(applyPatch, "/api/v1/namespaces/ns/secrets/s?fieldManager=git", secret).want(200); got.field("data", "a") != "Yg==" || got.field("stringData") != nil {
		t.Errorf("applying a Secret made %s", got.body)
	}
}

// TestOwnersReset checks that a client can give up the record of owners.
func TestOwnersReset(t *testing.T) {
	a := newAPI(t)
	a.patch(applyPatch, sandboxes+"/one?fieldManager=git", applied("one", "{image: tiny, cpus: 1}")).want(201)
	got := a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"managedFields":[{}]}}`).want(200)
	if owners := got.object().GetManagedFields(); len(owners) != 0 {
		t.Errorf("the owners are %v", owners)
	}
	got = a.patch(applyPatch, sandboxes+"/one?fieldManager=other&force=true", applied("one", "{image: tiny, cpus: 2}")).want(200)
	if got.field("spec", "cpus") != int64(2) || len(got.object().GetManagedFields()) == 0 {
		t.Errorf("applying after a reset made %s", got.body)
	}
}

// TestStrictPatches: what strict validation finds in a patch itself, whatever
// becomes of it.
func TestStrictPatches(t *testing.T) {
	a := newAPI(t)
	a.do("POST", sandboxes, sandbox("one")).want(201)
	a.do("POST", namespaces, namespace("n")).want(201)
	for _, c := range []struct{ media, path, body, problem string }{
		{jsonPatch, sandboxes + "/one", `[{"op":"add","path":"/spec/cpus","value":2,"extra":1}]`, `json patch unknown field "[0].extra"`},
		{jsonPatch, sandboxes + "/one", `[{"op":"add","path":"/spec/cpus","value":2,"value":3}]`, `json patch duplicate field "[0].value"`},
		{mergePatch, sandboxes + "/one", `{"spec":{"cpus":1,"cpus":2}}`, `duplicate field "spec.cpus"`},
		{applyPatch, sandboxes + "/one", "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: one}\nspec:\n  image: tiny\n  image: tiny\n", `"image" already set in map`},
		{strategicPatch, namespaces + "/n", `{"metadata":{"labels":{"a":"b","a":"c"}}}`, `duplicate field "metadata.labels.a"`},
		{mergePatch, sandboxes + "/one/status", `{"status":{"phase":"Running","phase":"Failed"}}`, `duplicate field "status.phase"`},
		{mergePatch, sandboxes + "/one/status", `{"status":{"fase":"Running"}}`, `unknown field "status.fase"`},
	} {
		path := c.path + "?fieldManager=m"
		a.patch(c.media, path+"&fieldValidation=Strict", c.body).refused(400, "BadRequest", "strict decoding error", c.problem)
		if got := a.patch(c.media, path+"&fieldValidation=Ignore", c.body).want(200); got.header.Get("Warning") != "" {
			t.Errorf("%s: ignored, and yet warned of: %v", c.body, got.header)
		}
		got := a.patch(c.media, path, c.body).want(200)
		if warnings := strings.Join(got.header.Values("Warning"), " "); !strings.Contains(strings.ReplaceAll(warnings, `\"`, `"`), c.problem) {
			t.Errorf("%s: the warnings are %s", c.body, warnings)
		}
	}
}
