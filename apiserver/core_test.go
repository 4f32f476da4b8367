package apiserver_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	clocktesting "k8s.io/utils/clock/testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/store/bolt"
)

const (
	events     = "/api/v1/namespaces/default/events"
	eventsView = "/apis/events.k8s.io/v1/namespaces/default/events"
	secrets    = "/api/v1/namespaces/default/secrets"
	leases     = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
)

func namespace(name string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, name)
}

func TestNamespaces(t *testing.T) {
	a := newAPI(t)
	def := a.get(namespaces + "/default").want(200)
	if def.field("status", "phase") != "Active" || def.field("metadata", "labels", "kubernetes.io/metadata.name") != "default" {
		t.Errorf("the default namespace is %s", def.body)
	}
	a.do("DELETE", namespaces+"/default", nil).refused(403, "Forbidden", `namespaces "default" is forbidden: this namespace may not be deleted`)
	a.do("POST", namespaces, namespace("Bad.Name")).refused(422, "Invalid", "metadata.name")
	a.do("POST", namespaces, namespace("a.b")).refused(422, "Invalid", "metadata.name")
	a.do("POST", namespaces, namespace("n")).want(201)
	// What the server sets stays set.
	got := a.patch(mergePatch, namespaces+"/n", `{"metadata":{"labels":null},"spec":null}`).want(200)
	if got.field("metadata", "labels", "kubernetes.io/metadata.name") != "n" || !reflect.DeepEqual(got.field("spec", "finalizers"), list("kubernetes")) {
		t.Errorf("the namespace is %s", got.body)
	}
	a.do("DELETE", namespaces+"/n", nil).want(200)
	eventually(t, "an empty namespace is gone", func() bool { return a.get(namespaces+"/n").code == 404 })
	a.do("POST", namespaces, namespace("n")).want(201)
}

func TestNamespaceDeletion(t *testing.T) {
	a := newAPI(t)
	const inside = "/apis/sandboxd.dev/v1/namespaces/n/sandboxes"
	a.do("POST", namespaces, namespace("n")).want(201)
	a.do("POST", namespaces, namespace("bystander")).want(201)
	a.do("POST", "/apis/sandboxd.dev/v1/namespaces/bystander/sandboxes", sandbox("s")).want(201)
	held := sandbox("held")
	held.SetFinalizers([]string{"example.com/a"})
	a.do("POST", inside, held).want(201)
	a.do("POST", inside, sandbox("free")).want(201)
	a.do("POST", "/api/v1/namespaces/n/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}}`).want(201)
	marked := a.do("DELETE", namespaces+"/n", nil).want(200)
	if marked.field("status", "phase") != "Terminating" || marked.object().GetDeletionTimestamp() == nil {
		t.Errorf("the deletion was answered with %s", marked.body)
	}
	refusal := a.do("POST", inside, sandbox("late")).refused(403, "Forbidden", "unable to create new content in namespace n because it is being terminated")
	if cause := refusal.field("details", "causes").([]any)[0].(map[string]any); cause["reason"] != "NamespaceTerminating" {
		t.Errorf("the cause is %v", cause)
	}
	a.patch(applyPatch, inside+"/late?fieldManager=m", applied("late", "{image: tiny}")).refused(403, "Forbidden", "being terminated")
	eventually(t, "the contents go, but for what a finalizer holds", func() bool {
		return a.get(inside+"/free").code == 404 && a.get("/api/v1/namespaces/n/secrets/s").code == 404 &&
			a.get(inside+"/held").object().GetDeletionTimestamp() != nil
	})
	a.get(namespaces + "/n").want(200)
	// What is there can still be changed.
	a.patch(mergePatch, inside+"/held/status", `{"status":{"phase":"Terminating"}}`).want(200)
	a.patch(mergePatch, inside+"/held", `{"metadata":{"finalizers":null}}`).want(200)
	eventually(t, "the namespace is gone", func() bool { return a.get(namespaces+"/n").code == 404 })
	a.get("/apis/sandboxd.dev/v1/namespaces/bystander/sandboxes/s").want(200)
	a.do("POST", inside, sandbox("late")).refused(404, "NotFound", `namespaces "n" not found`)
}

// TestNamespaceDeletionSurvivesRestart checks that a deletion that was begun
// goes on when the server starts again.
func TestNamespaceDeletionSurvivesRestart(t *testing.T) {
	st := openStore(t)
	s := newServer(t, func(o *apiserver.Options) { o.Store = st })
	a := api{t: t, handler: s.Handler()}
	a.do("POST", namespaces, namespace("n")).want(201)
	held := sandbox("held")
	held.SetFinalizers([]string{"example.com/a"})
	a.do("POST", "/apis/sandboxd.dev/v1/namespaces/n/sandboxes", held).want(201)
	a.do("DELETE", namespaces+"/n", nil).want(200)
	_ = s.Close()
	a = newAPI(t, func(o *apiserver.Options) { o.Store = st })
	a.patch(mergePatch, "/apis/sandboxd.dev/v1/namespaces/n/sandboxes/held", `{"metadata":{"finalizers":null}}`).want(200)
	eventually(t, "the namespace is gone", func() bool { return a.get(namespaces+"/n").code == 404 })
}

// TestNamespaceWithFinalizer checks that a namespace's own finalizers hold it
// back once it is empty.
func TestNamespaceWithFinalizer(t *testing.T) {
	a := newAPI(t)
	a.do("POST", namespaces, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n","finalizers":["example.com/a"]}}`).want(201)
	a.do("DELETE", namespaces+"/n", nil).want(200)
	eventually(t, "the server has finished with it", func() bool { return a.get(namespaces+"/n").field("spec", "finalizers") == nil })
	a.do("POST", "/apis/sandboxd.dev/v1/namespaces/n/sandboxes", sandbox("late")).refused(403, "Forbidden", "being terminated")
	a.patch(mergePatch, namespaces+"/n", `{"metadata":{"finalizers":null}}`).want(200)
	a.get(namespaces+"/n").refused(404, "NotFound")
}

// TestNamespaceRace checks that nothing is left behind in a namespace that is
// deleted while others create in it.
func TestNamespaceRace(t *testing.T) {
	st := openStore(t)
	a := newAPI(t, func(o *apiserver.Options) { o.Store = st })
	for round := range 10 {
		name := fmt.Sprintf("n%d", round)
		a.do("POST", namespaces, namespace(name)).want(201)
		var running sync.WaitGroup
		for w := range 4 {
			running.Go(func() {
				for i := range 10 {
					got := a.do("POST", "/apis/sandboxd.dev/v1/namespaces/"+name+"/sandboxes", sandbox(fmt.Sprintf("s%d-%d", w, i)))
					if got.code != 201 && got.code != 403 && got.code != 404 {
						t.Errorf("a creation was answered with %d: %s", got.code, got.body)
					}
				}
			})
		}
		a.do("DELETE", namespaces+"/"+name, nil).want(200)
		running.Wait()
		eventually(t, "the namespace is gone", func() bool { return a.get(namespaces+"/"+name).code == 404 })
		left, err := st.List(t.Context(), "sandboxes.sandboxd.dev", name)
		if err != nil || len(left.Entries) != 0 {
			t.Fatalf("%d objects are left in a namespace that is gone (%v)", len(left.Entries), err)
		}
	}
}

func coreEvent(name, about string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"name":%q,"creationTimestamp":null},"involvedObject":{"kind":"Sandbox","namespace":"default","name":%q},
		"reason":"Started","message":"it runs","type":"Normal","source":{"component":"c"},"firstTimestamp":"2026-01-01T00:00:00Z","lastTimestamp":"2026-01-01T00:00:01Z","count":2,"eventTime":null,"reportingComponent":"c","reportingInstance":"i"}`, name, about)
}

func TestEvents(t *testing.T) {
	a := newAPI(t)
	a.do("POST", events, coreEvent("one", "a")).want(201)
	view := a.get(eventsView + "/one").want(200)
	for path, want := range map[string]any{
		"apiVersion": "events.k8s.io/v1", "note": "it runs", "reason": "Started", "regarding.name": "a",
		"deprecatedSource.component": "c", "deprecatedCount": int64(2), "reportingController": "c", "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z",
	} {
		if got := view.field(strings.Split(path, ".")...); got != want {
			t.Errorf("%s is %v in the other form where %v was expected", path, got, want)
		}
	}
	if view.field("message") != nil || view.field("involvedObject") != nil {
		t.Errorf("the other form is %s", view.body)
	}
	a.do("POST", eventsView, `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"two"},"eventTime":"2026-01-01T00:00:00.123456Z","reportingController":"c",
		"reportingInstance":"i","action":"Start","reason":"Failed","note":"it does not run","type":"Warning","regarding":{"kind":"Sandbox","namespace":"default","name":"b"}}`).want(201)
	core := a.get(events + "/two").want(200)
	if core.field("message") != "it does not run" || core.field("involvedObject", "name") != "b" || core.field("eventTime") != "2026-01-01T00:00:00.123456Z" {
		t.Errorf("the core form is %s", core.body)
	}
	for query, want := range map[string][]string{
		events + "?fieldSelector=involvedObject.name=a":                               {"one"},
		events + "?fieldSelector=involvedObject.kind=Sandbox,type=Warning":            {"two"},
		events + "?fieldSelector=reason=Started":                                      {"one"},
		eventsView + "?fieldSelector=regarding.name=b":                                {"two"},
		eventsView + "?fieldSelector=reportingController=c":                           {"one", "two"},
		"/apis/events.k8s.io/v1/events?fieldSelector=type=Normal":                     {"one"},
		"/api/v1/events?fieldSelector=involvedObject.uid=,metadata.namespace=default": {"one", "two"},
	} {
		if got := a.get(query).want(200).names(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s lists %v where %v was expected", query, got, want)
		}
	}
	if got := a.get(eventsView).want(200); got.field("kind") != "EventList" || got.field("apiVersion") != "events.k8s.io/v1" || got.field("items").([]any)[0].(map[string]any)["note"] != "it runs" {
		t.Errorf("the list is %s", got.body)
	}
	a.get(events+"?fieldSelector=regarding.name=a").refused(400, "BadRequest")
	a.do("POST", events, strings.Replace(coreEvent("three", "a"), `"namespace":"default"`, `"namespace":"other"`, 1)).refused(422, "Invalid", "does not match the event's namespace default")
	a.do("POST", events, strings.Replace(coreEvent("image", "a"), `"namespace":"default",`, ``, 1)).want(201)

	a.patch(mergePatch, events+"/one", `{"count":3}`).want(200)
	u := a.get(eventsView + "/one").object()
	u.Object["note"] = "changed"
	a.do("PUT", eventsView+"/one", u.Object).want(200)
	if got := a.get(events + "/one"); got.field("message") != "changed" || got.field("count") != int64(3) {
		t.Errorf("the event is %s", got.body)
	}
	shown := a.do("GET", events, nil, "Accept", asTable).want(200).table()
	if !reflect.DeepEqual(shown.columns(), []string{"Last Seen", "Type", "Reason", "Object", "First Seen", "Count", "Name", "Message"}) {
		t.Errorf("the columns are %v", shown.columns())
	}
	if cells := shown.Rows[1].Cells; cells[1] != "Normal" || cells[3] != "sandbox/a" || cells[5] != float64(3) {
		t.Errorf("the cells are %v", cells)
	}
	a.do("DELETE", eventsView+"/one", nil).want(200)
	a.get(events+"/one").refused(404, "NotFound")
}

func TestEventWatchView(t *testing.T) {
	a, server := newWatched(t)
	w := watch(t, server, eventsView+"?watch=true&fieldSelector=regarding.name=a")
	a.do("POST", events, coreEvent("other", "b")).want(201)
	a.do("POST", events, coreEvent("one", "a")).want(201)
	a.do("DELETE", events+"/one", nil).want(200)
	got := w.want("ADDED one", "DELETED one")
	if got[0].Object["note"] != "it runs" || got[0].Object["apiVersion"] != "events.k8s.io/v1" {
		t.Errorf("the event is %v", got[0])
	}
}

// TestEventsExpire checks that events go some time after their last write, and
// that the sweeper sleeps in between.
func TestEventsExpire(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	a := newAPI(t, func(o *apiserver.Options) { o.Clock, o.EventTTL = clock, time.Hour })
	if clock.HasWaiters() {
		t.Error("the sweeper waits although there are no events")
	}
	a.do("POST", events, coreEvent("old", "a")).want(201)
	eventually(t, "the sweeper waits", clock.HasWaiters)
	clock.Step(40 * time.Minute)
	a.do("POST", events, coreEvent("young", "a")).want(201)
	clock.Step(21 * time.Minute)
	eventually(t, "the old event is gone", func() bool { return reflect.DeepEqual(a.get(events).names(), []string{"young"}) })
	eventually(t, "the sweeper waits", clock.HasWaiters)
	clock.Step(40 * time.Minute)
	eventually(t, "the young event is gone", func() bool { return len(a.get(events).names()) == 0 })
	eventually(t, "the sweeper sleeps", func() bool { return !clock.HasWaiters() })
}

func TestSecrets(t *testing.T) {
	a := newAPI(t)
	secret := func(name, more string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q}%s}`, name, more)
	}
	got := a.do("POST", secrets, secret("s", `,"data":{"a":"Yg=="},"stringData":{"a":"c","d":"e"}`)).want(201)
	if got.field("type") != "Opaque" || got.field("data", "a") != "Yw==" || got.field("data", "d") != "ZQ==" || got.field("stringData") != nil || got.field("metadata", "generation") != nil {
		t.Errorf("the Secret is %s", got.body)
	}
	if got := a.patch(mergePatch, secrets+"/s", `{"stringData":{"f":"g"}}`).want(200); got.field("data", "f") != "Zw==" || got.field("data", "a") != "Yw==" {
		t.Errorf("the Secret is %s", got.body)
	}
	// A Secret may be replaced without saying which version.
	a.do("PUT", secrets+"/s", secret("s", `,"data":{"a":"Yg=="}`)).want(200)
	large := base64.StdEncoding.EncodeToString(make([]byte, 1<<20+1))
	for _, c := range []struct{ body, message string }{
		{secret("x", `,"data":{"a":"not base64!"}`), "data[a]: Invalid value: \"(hidden)\": must be encoded in base64"},
		{secret("x", `,"data":{"a b":"Yg=="}`), "data[a b]: Invalid value"},
		{secret("x", `,"data":{"a":"`+large+`"}`), "data: Too long"},
		{secret("x", `,"type":"kubernetes.io/tls","data":{"tls.crt":"Yg=="}`), "data[tls.key]: Required value"},
		{secret("x", `,"type":"kubernetes.io/ssh-auth"`), "data[ssh-privatekey]: Required value"},
		{secret("x", `,"type":"kubernetes.io/basic-auth"`), "data: Required value"},
		{secret("x", `,"type":"kubernetes.io/service-account-token"`), "metadata.annotations[kubernetes.io/service-account.name]: Required value"},
		{secret("x", `,"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"{"}`), "must be valid JSON"},
	} {
		a.do("POST", secrets, c.body).refused(422, "Invalid", c.message)
	}
	a.patch(mergePatch, secrets+"/s", `{"type":"other"}`).refused(422, "Invalid", "type: Invalid value", "immutable")
	a.patch(mergePatch, secrets+"/s", `{"immutable":true}`).want(200)
	a.patch(mergePatch, secrets+"/s", `{"stringData":{"a":"z"}}`).refused(422, "Invalid", "immutable")
	a.patch(mergePatch, secrets+"/s", `{"immutable":false}`).refused(422, "Invalid", "immutable")
	a.patch(mergePatch, secrets+"/s", `{"metadata":{"labels":{"a":"b"}}}`).want(200)
	if got := a.get(secrets + "?fieldSelector=type=Opaque").names(); !reflect.DeepEqual(got, []string{"s"}) {
		t.Errorf("the list is %v", got)
	}
	if cells := a.do("GET", secrets, nil, "Accept", asTable).table().Rows[0].Cells; cells[1] != "Opaque" || cells[2] != float64(1) {
		t.Errorf("the cells are %v", cells)
	}
}

func TestLeases(t *testing.T) {
	a := newAPI(t)
	got := a.do("POST", leases, `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l"},"spec":{"holderIdentity":"me","leaseDurationSeconds":15,"renewTime":"2026-01-01T00:00:00.000000Z"}}`).want(201)
	u := got.object()
	u.Object["spec"].(map[string]any)["holderIdentity"] = "you"
	a.do("PUT", leases+"/l", u.Object).want(200)
	a.do("PUT", leases+"/l", u.Object).refused(409, "Conflict")
	a.patch(mergePatch, leases+"/l", `{"spec":{"leaseDurationSeconds":0}}`).refused(422, "Invalid", "leaseDurationSeconds")
	if cells := a.do("GET", leases, nil, "Accept", asTable).table().Rows[0].Cells; cells[1] != "you" {
		t.Errorf("the cells are %v", cells)
	}
}

// TestDefinitionsAreServed checks the read-only definitions.
func TestDefinitionsAreServed(t *testing.T) {
	const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	st := openStore(t)
	a := newAPI(t, func(o *apiserver.Options) { o.Store = st })
	if got := a.get(path).want(200).names(); !reflect.DeepEqual(got, []string{"goldenimages.sandboxd.dev", "sandboxes.sandboxd.dev"}) {
		t.Errorf("the definitions are %v", got)
	}
	one := a.get(path + "/sandboxes.sandboxd.dev").want(200)
	if one.field("spec", "names", "kind") != "Sandbox" || one.field("status", "acceptedNames", "plural") != "sandboxes" {
		t.Errorf("the definition is %s", one.body)
	}
	established := false
	for _, c := range one.field("status", "conditions").([]any) {
		c := c.(map[string]any)
		established = established || c["type"] == "Established" && c["status"] == "True"
	}
	if !established {
		t.Errorf("the definition is not established: %v", one.field("status"))
	}
	a.do("POST", path, one.object().Object).refused(405, "MethodNotAllowed")
	a.do("PUT", path+"/sandboxes.sandboxd.dev", one.object().Object).refused(405, "MethodNotAllowed")
	a.patch(mergePatch, path+"/sandboxes.sandboxd.dev", `{}`).refused(405, "MethodNotAllowed")
	a.do("DELETE", path+"/sandboxes.sandboxd.dev", nil).refused(405, "MethodNotAllowed")
	a.do("DELETE", path, nil).refused(405, "MethodNotAllowed")

	// A second start on the same store changes nothing.
	before := st.Revision()
	newAPI(t, func(o *apiserver.Options) { o.Store = st })
	if after := st.Revision(); after != before {
		t.Errorf("a second start moved the store from revision %d to %d", before, after)
	}
	// A definition that is no longer served is forgotten.
	key := store.Key{Resource: "customresourcedefinitions.apiextensions.k8s.io", Name: "old.sandboxd.dev"}
	if _, err := st.Put(t.Context(), key, []byte(`{"metadata":{"name":"old.sandboxd.dev"}}`), 0); err != nil {
		t.Fatal(err)
	}
	newAPI(t, func(o *apiserver.Options) { o.Store = st })
	if _, err := st.Get(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a definition that is not served is still there: %v", err)
	}
}

// TestProtobufBodies sends core kinds as kubectl and typed clients do.
func TestProtobufBodies(t *testing.T) {
	a := newAPI(t)
	s := runtime.NewScheme()
	if err := corev1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	codec := protobuf.NewSerializer(s, s)
	encode := func(obj runtime.Object) string {
		var b strings.Builder
		if err := codec.Encode(obj, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	kind := func(name string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: "v1", Kind: name} }
	const media = "application/vnd.kubernetes.protobuf"
	ns := &corev1.Namespace{TypeMeta: kind("Namespace"), ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"a": "b"}}}
	got := a.do("POST", namespaces, encode(ns), "Content-Type", media, "Accept", media+", */*").want(201)
	if got.field("metadata", "labels", "a") != "b" || got.field("status", "phase") != "Active" {
		t.Errorf("the namespace is %s", got.body)
	}
	secret := &corev1.Secret{TypeMeta: kind("Secret"), ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"a": []byte("b")}}
	if got := a.do("POST", secrets, encode(secret), "Content-Type", media).want(201); got.field("data", "a") != "Yg==" {
		t.Errorf("the Secret is %s", got.body)
	}
	dry := &metav1.DeleteOptions{TypeMeta: kind("DeleteOptions"), DryRun: []string{"All"}}
	a.do("DELETE", secrets+"/s", encode(dry), "Content-Type", media).want(200)
	a.get(secrets + "/s").want(200)
	a.do("POST", secrets, "k8s\x00nonsense", "Content-Type", media).refused(400, "BadRequest", "protobuf body cannot be decoded")
	a.do("POST", sandboxes, encode(secret), "Content-Type", media).refused(400, "BadRequest", "Secret")
}

// TestRestart checks that everything is there again after a restart.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	st, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := apiserver.New(context.Background(), apiserver.Options{Store: st, CRDs: v1.CRDs})
	if err != nil {
		t.Fatal(err)
	}
	a := api{t: t, handler: s.Handler()}
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	_, _ = s.Close(), st.Close()
	a.get(sandboxes+"/one").refused(503, "ServiceUnavailable", "shutting down")

	if st, err = bolt.Open(path, bolt.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	a = newAPI(t, func(o *apiserver.Options) { o.Store = st })
	if again := a.get(sandboxes + "/one").want(200).object(); !reflect.DeepEqual(one.Object, again.Object) {
		t.Errorf("after a restart the object is\n%v where\n%v was expected", again.Object, one.Object)
	}
}

// TestChangedDefinition checks that stored objects follow their definition when
// a newer server brings another one.
func TestChangedDefinition(t *testing.T) {
	raw, err := v1.CRDs.ReadFile("crds/sandboxd.dev_sandboxes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Replace(string(raw), "                    default: Delete\n", "", 1)
	old = strings.Replace(old, "              discardOnStop:\n", "              bygone:\n                type: string\n              discardOnStop:\n", 1)
	if old == string(raw) || !strings.Contains(old, "bygone") || strings.Contains(old, "default: Delete") {
		t.Fatal("the definition has another form than this test expects")
	}
	st := openStore(t)
	a := newAPI(t, func(o *apiserver.Options) {
		o.Store, o.CRDs = st, fstest.MapFS{"a.yaml": {Data: []byte(old)}}
	})
	u := with(sandbox("one"), object("ttl", "1h"), "spec", "lifecycle")
	a.do("POST", sandboxes+"?fieldValidation=Strict", with(u, "x", "spec", "bygone")).want(201)
	a.do("POST", sandboxes, sandbox("two")).want(201)
	version := a.get(sandboxes + "/two").object().GetResourceVersion()

	a = newAPI(t, func(o *apiserver.Options) { o.Store = st })
	one := a.get(sandboxes + "/one").want(200)
	if one.field("spec", "bygone") != nil || one.field("spec", "lifecycle", "onExpiry") != "Delete" || one.object().GetGeneration() != 1 {
		t.Errorf("the object is %s", one.body)
	}
	if got := a.get(sandboxes + "/two").object().GetResourceVersion(); got != version {
		t.Error("an object that needed no change was written")
	}
	definition := a.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/sandboxes.sandboxd.dev").want(200)
	if strings.Contains(string(definition.body), "bygone") || definition.field("metadata", "generation") != int64(2) {
		t.Errorf("the published definition is not the new one")
	}
}
