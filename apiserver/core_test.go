package apiserver_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

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
	if got := a.get(path).want(200).names(); !reflect.DeepEqual(got, []string{"goldenimages.sandboxd.dev", "sandboxes.sandboxd.dev", "sandboxsnapshots.sandboxd.dev"}) {
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

// TestRelatingRules checks that a rule of the root that relates spec and status
// is held against changes of either.
func TestRelatingRules(t *testing.T) {
	raw, err := v1.CRDs.ReadFile("crds/sandboxd.dev_sandboxes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const own = "rule: size(self.metadata.name) <= 63"
	changed := strings.Replace(string(raw), own, "rule: \"!has(self.status) || !has(self.status.restarts) || !has(self.spec.cpus) || self.status.restarts <= self.spec.cpus\"", 1)
	if changed == string(raw) {
		t.Fatal("the definition has another form than this test expects")
	}
	a := newAPI(t, func(o *apiserver.Options) { o.CRDs = fstest.MapFS{"a.yaml": {Data: []byte(changed)}} })
	a.do("POST", sandboxes, with(sandbox("one"), int64(4), "spec", "cpus")).want(201)
	a.patch(mergePatch, sandboxes+"/one/status", `{"status":{"restarts":3}}`).want(200)
	a.patch(mergePatch, sandboxes+"/one/status", `{"status":{"restarts":5}}`).refused(422, "Invalid", "sandbox: Invalid value")
	a.patch(mergePatch, sandboxes+"/one", `{"spec":{"cpus":2}}`).refused(422, "Invalid", "sandbox: Invalid value")
	a.patch(mergePatch, sandboxes+"/one", `{"spec":{"cpus":3}}`).want(200)
}
