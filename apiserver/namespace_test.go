package apiserver_test

import (
	"fmt"
	"reflect"
	"sync"
	"testing"

	"sandboxd.dev/sandboxd/apiserver"
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
