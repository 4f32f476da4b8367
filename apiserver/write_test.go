package apiserver_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
)

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestCreate(t *testing.T) {
	a := newAPI(t)
	sent := sandbox("one")
	// What only the server sets is ignored when a client sends it.
	sent.SetUID("mine")
	sent.SetGeneration(77)
	sent.SetSelfLink("/x")
	sent.Object["metadata"].(map[string]any)["creationTimestamp"] = "2001-01-01T00:00:00Z"
	sent.Object["metadata"].(map[string]any)["deletionTimestamp"] = "2001-01-01T00:00:00Z"
	sent.Object["status"] = map[string]any{"phase": "Running"}
	before := time.Now().Truncate(time.Second)
	created := a.do("POST", sandboxes, sent).want(201).object()
	if !uuidForm.MatchString(string(created.GetUID())) {
		t.Errorf("the uid is %q", created.GetUID())
	}
	if created.GetGeneration() != 1 || created.GetNamespace() != "default" || created.GetSelfLink() != "" || created.GetDeletionTimestamp() != nil {
		t.Errorf("the metadata is %v", created.Object["metadata"])
	}
	if at := created.GetCreationTimestamp(); at.Time.Before(before) || at.After(time.Now()) {
		t.Errorf("the creation timestamp is %v", at)
	}
	if created.Object["status"] != nil {
		t.Errorf("a creation set the status: %v", created.Object["status"])
	}
	if owners := created.GetManagedFields(); len(owners) != 1 || owners[0].Manager != "wiretest" || owners[0].Operation != "Update" {
		t.Errorf("the owners are %v", owners)
	}
	read := a.get(sandboxes + "/one").want(200).object()
	if !reflect.DeepEqual(created.Object, read.Object) {
		t.Errorf("created %v\nbut read %v", created.Object, read.Object)
	}
	a.do("POST", sandboxes, sandbox("one")).refused(409, "AlreadyExists", `sandboxes.sandboxd.dev "one" already exists`)
}

func TestCreateRefused(t *testing.T) {
	a := newAPI(t)
	withNamespace := sandbox("x")
	withNamespace.SetNamespace("other")
	withVersion := sandbox("x")
	withVersion.SetResourceVersion("1")
	nameless := sandbox("")
	cases := []struct {
		name, path   string
		body         any
		code         int
		reason, part string
	}{
		{"missing namespace", "/apis/sandboxd.dev/v1/namespaces/nowhere/sandboxes", sandbox("x"), 404, "NotFound", `namespaces "nowhere" not found`},
		{"missing namespace, dry run", "/apis/sandboxd.dev/v1/namespaces/nowhere/sandboxes?dryRun=All", sandbox("x"), 404, "NotFound", `namespaces "nowhere" not found`},
		{"other namespace", sandboxes, withNamespace, 400, "BadRequest", "the namespace of the object (other) does not match the namespace on the URL (default)"},
		{"resource version", sandboxes, withVersion, 400, "BadRequest", "resourceVersion should not be set"},
		{"no name", sandboxes, nameless, 422, "Invalid", "name or generateName is required"},
		{"all namespaces", allSandboxes, sandbox("x"), 405, "MethodNotAllowed", "POST is not supported"},
		{"wrong kind", sandboxes, image("x", object()), 400, "BadRequest", "the body is a GoldenImage of sandboxd.dev/v1 where a Sandbox of sandboxd.dev/v1 was expected"},
		{"wrong version", sandboxes, `{"apiVersion":"sandboxd.dev/v2","kind":"Sandbox"}`, 400, "BadRequest", "sandboxd.dev/v2"},
		{"no kind", sandboxes, `{"apiVersion":"sandboxd.dev/v1"}`, 400, "BadRequest", "kindless"},
		{"no JSON", sandboxes, `{"apiVersion":`, 400, "BadRequest", "not a JSON object"},
		{"a list", sandboxes, `[]`, 400, "BadRequest", "not a JSON object"},
		{"null", sandboxes, `null`, 400, "BadRequest", "empty"},
		{"nothing", sandboxes, ``, 400, "BadRequest", "not a JSON object"},
		{"malformed labels", sandboxes, `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"x","labels":{"a":1}},"spec":{"image":"i"}}`, 400, "BadRequest", `metadata.labels is malformed: the value of "a" is no string`},
		{"malformed metadata", sandboxes, `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":[],"spec":{"image":"i"}}`, 400, "BadRequest", "metadata is malformed"},
		{"bad label", sandboxes, with(sandbox("x"), "a b", "metadata", "labels", "l"), 422, "Invalid", "metadata.labels: Invalid value"},
		{"spec is a string", sandboxes, with(sandbox("x"), "tiny", "spec"), 422, "Invalid", "spec in body must be of type object"},
		{"unknown resource", "/apis/sandboxd.dev/v1/namespaces/default/pods", sandbox("x"), 404, "NotFound", "could not find the requested resource"},
		{"bad field validation", sandboxes + "?fieldValidation=Maybe", sandbox("x"), 422, "Invalid", "fieldValidation: Unsupported value"},
		{"bad dry run", sandboxes + "?dryRun=Some", sandbox("x"), 422, "Invalid", "dryRun: Unsupported value"},
		{"bad manager", sandboxes + "?fieldManager=" + strings.Repeat("m", 129), sandbox("x"), 422, "Invalid", "fieldManager: Too long: may not be more than 128 bytes"},
	}
	before := a.get(allSandboxes).field("metadata", "resourceVersion")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := api{t: t, handler: a.handler}
			a.do("POST", c.path, c.body).refused(c.code, c.reason, c.part)
		})
	}
	if after := a.get(allSandboxes).field("metadata", "resourceVersion"); after != before {
		t.Errorf("refused creations moved the store from revision %v to %v", before, after)
	}
}

func TestGenerateName(t *testing.T) {
	a := newAPI(t)
	names := map[string]bool{}
	for range 20 {
		u := sandbox("")
		u.SetGenerateName("job-")
		name := a.do("POST", sandboxes, u).want(201).object().GetName()
		if !regexp.MustCompile(`^job-[a-z0-9]{5}$`).MatchString(name) || names[name] {
			t.Fatalf("the name is %q after %v", name, names)
		}
		names[name] = true
	}
	u := sandbox("")
	u.SetGenerateName(strings.Repeat("l", 80))
	if name := a.do("POST", sandboxes, u).want(201).object().GetName(); len(name) != 63 {
		t.Errorf("a long base made the name %q of %d characters", name, len(name))
	}
}

func TestUpdate(t *testing.T) {
	a := newAPI(t)
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()

	// A change outside metadata and status counts the generation.
	changed := with(one, int64(2), "spec", "cpus")
	changed.Object["status"] = map[string]any{"phase": "Running"}
	two := a.do("PUT", sandboxes+"/one", changed).want(200).object()
	if two.GetGeneration() != 2 || two.Object["status"] != nil || two.GetUID() != one.GetUID() {
		t.Errorf("the update made %v", two.Object)
	}
	// One of the metadata does not.
	labelled := two.DeepCopy()
	labelled.SetLabels(map[string]string{"a": "b"})
	three := a.do("PUT", sandboxes+"/one", labelled).want(200).object()
	if three.GetGeneration() != 2 || three.GetResourceVersion() == two.GetResourceVersion() {
		t.Errorf("the update made %v", three.Object)
	}
	// The server's own fields stay whatever is sent.
	forged := three.DeepCopy()
	forged.SetGeneration(99)
	delete(forged.Object["metadata"].(map[string]any), "uid")
	delete(forged.Object["metadata"].(map[string]any), "creationTimestamp")
	delete(forged.Object["metadata"].(map[string]any), "managedFields")
	four := a.do("PUT", sandboxes+"/one", forged).want(200).object()
	if !reflect.DeepEqual(three.Object, four.Object) {
		t.Errorf("an update without a change made\n%v of\n%v", four.Object, three.Object)
	}
	if len(four.GetManagedFields()) == 0 {
		t.Error("an update lost the field owners")
	}

	stale := two.DeepCopy()
	a.do("PUT", sandboxes+"/one", stale).refused(409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again")
	unversioned := with(four, nil, "metadata", "resourceVersion")
	nowhere := with(unversioned, "nowhere", "metadata", "name")
	a.do("PUT", sandboxes+"/nowhere", nowhere).refused(404, "NotFound", `sandboxes.sandboxd.dev "nowhere" not found`)
	a.do("PUT", sandboxes+"/one", unversioned).refused(422, "Invalid", "metadata.resourceVersion: Invalid value", "must be specified for an update")
	other := with(four, "00000000-0000-4000-8000-000000000000", "metadata", "uid")
	a.do("PUT", sandboxes+"/one", other).refused(409, "Conflict", "the UID in the request")
	renamed := with(four, "two", "metadata", "name")
	a.do("PUT", sandboxes+"/one", renamed).refused(400, "BadRequest", "the name of the object (two) does not match the name on the URL (one)")
	missing := with(four, "two", "metadata", "name")
	a.do("PUT", sandboxes+"/two", missing).refused(404, "NotFound", `sandboxes.sandboxd.dev "two" not found`)
	a.do("PUT", sandboxes, four).refused(405, "MethodNotAllowed")
}

func TestStatus(t *testing.T) {
	a := newAPI(t)
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	sent := with(one, "Running", "status", "phase")
	sent = with(sent, int64(8), "spec", "cpus")
	sent.SetLabels(map[string]string{"a": "b"})
	two := a.do("PUT", sandboxes+"/one/status", sent).want(200).object()
	if phase, _, _ := unstructured.NestedString(two.Object, "status", "phase"); phase != "Running" {
		t.Errorf("the status is %v", two.Object["status"])
	}
	if two.GetGeneration() != 1 || two.GetLabels() != nil || !reflect.DeepEqual(two.Object["spec"], one.Object["spec"]) {
		t.Errorf("a write of the status changed more than that: %v", two.Object)
	}
	if owners := two.GetManagedFields(); len(owners) != 2 || owners[1].Subresource != "status" {
		t.Errorf("the owners are %v", owners)
	}
	three := a.do("PATCH", sandboxes+"/one/status", `{"status":{"restarts":3},"spec":{"cpus":9}}`, "Content-Type", "application/merge-patch+json").want(200)
	if three.field("status", "restarts") != int64(3) || three.field("spec", "cpus") != nil || three.field("status", "phase") != "Running" {
		t.Errorf("the patch made %s", three.body)
	}
	a.do("PATCH", sandboxes+"/one/status", `{"status":{"addresses":[{"ip":"10.0.0.1","source":"rumour"}]}}`, "Content-Type", "application/merge-patch+json").
		refused(422, "Invalid", `status.addresses[0].source: Unsupported value: "rumour"`)
	if got := a.get(sandboxes+"/one/status").want(200).field("status", "restarts"); got != int64(3) {
		t.Errorf("reading the status gives %v", got)
	}
	// The main endpoint leaves the status alone.
	four := a.do("PATCH", sandboxes+"/one", `{"status":null}`, "Content-Type", "application/merge-patch+json").want(200)
	if four.field("status", "restarts") != int64(3) {
		t.Errorf("the main endpoint changed the status: %s", four.body)
	}
	a.do("DELETE", sandboxes+"/one/status", nil).refused(405, "MethodNotAllowed")
	a.do("GET", "/api/v1/namespaces/default/secrets/x/status", nil).refused(404, "NotFound")
}

// TestNoChangeNoRevision checks that writes that change nothing leave no trace.
func TestNoChangeNoRevision(t *testing.T) {
	st := openStore(t)
	a := newAPI(t, func(o *apiserver.Options) { o.Store = st })
	one := a.do("POST", sandboxes, sandbox("one")).want(201)
	a.do("PATCH", sandboxes+"/one/status", `{"status":{"phase":"Running"}}`, "Content-Type", "application/merge-patch+json").want(200)
	applied := `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"one"},"spec":{"image":"tiny","cpus":2}}`
	a.do("PATCH", sandboxes+"/one?fieldManager=m", applied, "Content-Type", "application/apply-patch+yaml").want(200)
	before := st.Revision()
	current := a.get(sandboxes + "/one").object()
	writes := []answer{
		a.do("PUT", sandboxes+"/one", current),
		a.do("PUT", sandboxes+"/one/status", current),
		a.do("PATCH", sandboxes+"/one", `{}`, "Content-Type", "application/merge-patch+json"),
		a.do("PATCH", sandboxes+"/one", `{"spec":{"image":"tiny"}}`, "Content-Type", "application/merge-patch+json"),
		a.do("PATCH", sandboxes+"/one", `[{"op":"test","path":"/spec/image","value":"tiny"}]`, "Content-Type", "application/json-patch+json"),
		a.do("PATCH", sandboxes+"/one/status", `{"status":{"phase":"Running"}}`, "Content-Type", "application/merge-patch+json"),
		a.do("PATCH", sandboxes+"/one?fieldManager=m", applied, "Content-Type", "application/apply-patch+yaml"),
	}
	for i, w := range writes {
		w.want(200)
		if !reflect.DeepEqual(w.object().Object, current.Object) {
			t.Errorf("write %d answered\n%s where\n%v was expected", i, w.body, current.Object)
		}
	}
	if after := st.Revision(); after != before {
		t.Errorf("writes that change nothing moved the store from revision %d to %d", before, after)
	}
	_ = one
}

func TestDryRun(t *testing.T) {
	st := openStore(t)
	a := newAPI(t, func(o *apiserver.Options) { o.Store = st })
	held := sandbox("held")
	held.SetFinalizers([]string{"example.com/a"})
	a.do("POST", sandboxes, held).want(201)
	a.do("POST", sandboxes, sandbox("free")).want(201)
	before := st.Revision()
	u := a.do("POST", sandboxes+"?dryRun=All", sandbox("new")).want(201).object()
	if u.GetUID() == "" || u.GetResourceVersion() != "" || u.Object["spec"].(map[string]any)["powerState"] != "Running" {
		t.Errorf("a dry run answered %v", u.Object)
	}
	a.do("POST", sandboxes+"?dryRun=All", sandbox("free")).refused(409, "AlreadyExists")
	a.do("POST", sandboxes+"?dryRun=All", with(sandbox("bad"), "1Mi", "spec", "memory")).refused(422, "Invalid")
	if got := a.do("PATCH", sandboxes+"/free?dryRun=All", `{"spec":{"cpus":4}}`, "Content-Type", "application/merge-patch+json").want(200); got.field("spec", "cpus") != int64(4) {
		t.Errorf("a dry run answered %s", got.body)
	}
	a.do("PATCH", sandboxes+"/new?dryRun=All&fieldManager=m", sandbox("new"), "Content-Type", "application/apply-patch+yaml").want(201)
	a.do("PUT", sandboxes+"/free?dryRun=All", with(a.get(sandboxes+"/free").object(), int64(3), "spec", "cpus")).want(200)
	a.do("DELETE", sandboxes+"/free?dryRun=All", nil).want(200)
	if got := a.do("DELETE", sandboxes+"/held?dryRun=All", nil).want(200); got.object().GetDeletionTimestamp() == nil {
		t.Errorf("a dry run answered %s", got.body)
	}
	a.do("DELETE", sandboxes, `{"apiVersion":"v1","kind":"DeleteOptions","dryRun":["All"]}`).want(200)
	if after := st.Revision(); after != before {
		t.Errorf("dry runs moved the store from revision %d to %d", before, after)
	}
}

func TestFieldValidation(t *testing.T) {
	a := newAPI(t)
	body := `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"%s","lables":{}},"extra":1,
		"spec":{"image":"tiny","image":"tiny","memori":"1Gi","network":{"mode":"nat","portForwards":[{"name":"a","guestPort":1,"x":1}]}}}`
	wanted := []string{`duplicate field "spec.image"`, `unknown field "metadata.lables"`, `unknown field "extra"`, `unknown field "spec.memori"`, `unknown field "spec.network.portForwards[0].x"`}

	a.do("POST", sandboxes+"?fieldValidation=Strict", fmt.Sprintf(body, "strict")).refused(400, "BadRequest", append(wanted, "strict decoding error: ")...)
	a.get(sandboxes+"/strict").refused(404, "NotFound")

	for _, query := range []string{"", "?fieldValidation=Warn"} {
		name := fmt.Sprintf("warn%d", len(query))
		got := a.do("POST", sandboxes+query, fmt.Sprintf(body, name)).want(201)
		warnings := strings.Join(got.header.Values("Warning"), "\n")
		for _, part := range wanted {
			if !strings.Contains(warnings, strings.ReplaceAll(part, `"`, `\"`)) {
				t.Errorf("no warning says %s: %s", part, warnings)
			}
		}
		if strings.Contains(string(got.body), "memori") || strings.Contains(string(got.body), "lables") {
			t.Errorf("unknown fields were stored: %s", got.body)
		}
	}
	got := a.do("POST", sandboxes+"?fieldValidation=Ignore", fmt.Sprintf(body, "ignore")).want(201)
	if warnings := got.header.Values("Warning"); len(warnings) != 0 {
		t.Errorf("ignored fields are warned of: %v", warnings)
	}
	for media, patch := range map[string]string{
		"application/merge-patch+json":  `{"spec":{"memori":"1Gi"}}`,
		"application/json-patch+json":   `[{"op":"add","path":"/spec/memori","value":"1Gi"}]`,
		"application/apply-patch+yaml":  "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: ignore}\nspec: {image: tiny, memori: 1Gi}",
		"application/apply-patch+yaml ": "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: ignore}\nspec:\n  memori: 1\n  image: tiny\n  image: tiny",
	} {
		media := strings.TrimSpace(media)
		a.do("PATCH", sandboxes+"/ignore?fieldManager=m&fieldValidation=Strict", patch, "Content-Type", media).
			refused(400, "BadRequest", "strict decoding error", `unknown field "spec.memori"`)
		force := ""
		if media == applyPatch {
			force = "&force=true"
		}
		got := a.do("PATCH", sandboxes+"/ignore?fieldManager=m"+force, patch, "Content-Type", media).want(200)
		if warnings := strings.Join(got.header.Values("Warning"), " "); !strings.Contains(warnings, "spec.memori") {
			t.Errorf("%s: the warnings are %q", media, warnings)
		}
	}
	// However much is wrong, the answer stays short and harmless.
	wild := sandbox("wild")
	for i := range 1000 {
		wild.Object[fmt.Sprintf("x%d\r\nSet-Cookie: %s", i, strings.Repeat("ü", 1000))] = int64(i)
	}
	if got := a.do("POST", sandboxes+"?fieldValidation=Strict", wild).refused(400, "BadRequest", "and 984 more"); len(got.body) > 20_000 {
		t.Errorf("the refusal has %d bytes", len(got.body))
	}
	got = a.do("POST", sandboxes, wild).want(201)
	if warnings := got.header.Values("Warning"); len(warnings) != 17 || strings.ContainsAny(strings.Join(warnings, ""), "\r\n") {
		t.Errorf("the warnings are %d: %q", len(warnings), warnings)
	}
	// What comes back from a read is always valid.
	a.do("PUT", sandboxes+"/ignore?fieldValidation=Strict", a.get(sandboxes+"/ignore").object()).want(200)
}

func TestBodies(t *testing.T) {
	a := newAPI(t)
	asYAML := "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata:\n  name: yaml\nspec:\n  image: tiny\n  cpus: 2\n"
	if got := a.do("POST", sandboxes, asYAML, "Content-Type", "application/yaml").want(201); got.field("spec", "cpus") != int64(2) {
		t.Errorf("a YAML body made %s", got.body)
	}
	got := a.do("GET", sandboxes+"/yaml", nil, "Accept", "application/yaml").want(200)
	if !strings.Contains(got.header.Get("Content-Type"), "yaml") || !strings.Contains(string(got.body), "\n  cpus: 2\n") {
		t.Errorf("asked for YAML, got %s", got.body)
	}
	if list := a.do("GET", sandboxes, nil, "Accept", "application/yaml").want(200); !strings.Contains(string(list.body), "kind: SandboxList") {
		t.Errorf("asked for YAML, got %s", list.body)
	}
	a.do("POST", sandboxes, "a: [", "Content-Type", "application/yaml").refused(400, "BadRequest", "not valid YAML")
	a.do("POST", sandboxes, asYAML+"  image: again\n", "Content-Type", "application/yaml").refused(409, "AlreadyExists")
	a.do("POST", sandboxes+"?fieldValidation=Strict", asYAML+"  image: again\n", "Content-Type", "application/yaml").refused(400, "BadRequest", "strict decoding error", `"image" already set in map`)
	a.do("POST", sandboxes, "x", "Content-Type", "text/plain").refused(415, "UnsupportedMediaType", "text/plain")
	a.do("POST", sandboxes, "x", "Content-Type", ";").refused(400, "BadRequest")
	a.do("GET", sandboxes, nil, "Accept", "image/png").refused(406, "NotAcceptable", "image/png")

	big := sandbox("big")
	big.SetAnnotations(map[string]string{"a": strings.Repeat("x", 3<<20)})
	a.do("POST", sandboxes, big).refused(413, "RequestEntityTooLarge", "larger than 3145728 bytes")

	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	if got := a.do("POST", sandboxes, bomb, "Content-Type", "application/yaml"); got.code != 400 && got.code != 413 {
		t.Errorf("a YAML bomb was answered with %d", got.code)
	}
	deep := strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)
	a.do("POST", sandboxes, deep).refused(400, "BadRequest")
	deepSpec := `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"d"},"spec":` + strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000) + "}"
	a.do("POST", sandboxes+"?fieldValidation=Strict", deepSpec).want(400)
}

// TestConcurrentPatches checks that no patch is lost when many writers change
// one object.
func TestConcurrentPatches(t *testing.T) {
	a := newAPI(t)
	a.do("POST", sandboxes, sandbox("one")).want(201)
	// Few enough that none comes second as often as the server tries again: with n in
	// step each attempt is lost with a chance of (n-1)/n.
	const writers, each = 4, 20
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := range each {
				patch := fmt.Sprintf(`{"metadata":{"annotations":{"w%d-%d":"x"}}}`, w, i)
				if got := a.do("PATCH", sandboxes+"/one", patch, "Content-Type", "application/merge-patch+json"); got.code != 200 {
					t.Errorf("a patch was answered with %d: %s", got.code, got.body)
				}
			}
		})
	}
	running.Wait()
	if n := len(a.get(sandboxes + "/one").object().GetAnnotations()); n != writers*each {
		t.Errorf("%d of %d annotations are there", n, writers*each)
	}
}

// TestStoredForm checks what lies in the store.
func TestStoredForm(t *testing.T) {
	st := openStore(t)
	a := newAPI(t, func(o *apiserver.Options) { o.Store = st })
	a.do("POST", sandboxes, sandbox("one")).want(201)
	entry, err := st.Get(t.Context(), store.Key{Resource: "sandboxes.sandboxd.dev", Namespace: "default", Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(entry.Value), `{"metadata":{`) || strings.Contains(string(entry.Value), "resourceVersion") {
		t.Errorf("stored as %s", entry.Value)
	}
	if !json.Valid(entry.Value) {
		t.Errorf("stored as invalid JSON: %s", entry.Value)
	}
	if got := a.get(sandboxes + "/one").object().GetResourceVersion(); got != fmt.Sprint(entry.Revision) {
		t.Errorf("served version %s of revision %d", got, entry.Revision)
	}
}
