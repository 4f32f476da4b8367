package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ownedSecret is a Secret that names owners.
func ownedSecret(name string, owners ...metav1.OwnerReference) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name},
	}}
	u.SetOwnerReferences(owners)
	return u
}

func ownedBy(owner *unstructured.Unstructured) metav1.OwnerReference {
	blocks := true
	return metav1.OwnerReference{
		APIVersion: owner.GetAPIVersion(), Kind: owner.GetKind(), Name: owner.GetName(), UID: owner.GetUID(), BlockOwnerDeletion: &blocks,
	}
}

// gone waits until a path leads nowhere.
func (a api) gone(path string) {
	a.t.Helper()
	eventually(a.t, path+" is gone", func() bool { return a.get(path).code == 404 })
}

func TestGarbageBackground(t *testing.T) {
	a := newAPI(t)
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	two := a.do("POST", sandboxes, sandbox("two")).want(201).object()
	child := a.do("POST", secrets, ownedSecret("child", ownedBy(one))).want(201).object()
	a.do("POST", secrets, ownedSecret("grandchild", ownedBy(child))).want(201)
	a.do("POST", secrets, ownedSecret("shared", ownedBy(one), ownedBy(two))).want(201)
	a.do("POST", secrets, ownedSecret("free")).want(201)
	// An owner of a kind that is not served: nothing can be told of it.
	a.do("POST", secrets, ownedSecret("foreign", metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "x", UID: "1"})).want(201)
	// Nor of a kind of which nothing is stored.
	a.do("POST", secrets, ownedSecret("asked", metav1.OwnerReference{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview", Name: "x", UID: "1"})).want(201)

	a.do("DELETE", sandboxes+"/one", nil).want(200)
	a.gone(secrets + "/child")
	a.gone(secrets + "/grandchild")
	eventually(t, "the reference to the owner that is gone is dropped", func() bool {
		refs := a.get(secrets + "/shared").want(200).object().GetOwnerReferences()
		return len(refs) == 1 && refs[0].UID == two.GetUID()
	})
	a.get(secrets + "/free").want(200)
	a.get(secrets + "/foreign").want(200)
	a.get(secrets + "/asked").want(200)
	// Who is born to an owner that is gone already goes too, and so does who
	// means another one of the same name.
	a.do("POST", secrets, ownedSecret("late", ownedBy(one))).want(201)
	a.gone(secrets + "/late")
	a.do("POST", sandboxes, sandbox("one")).want(201)
	a.do("POST", secrets, ownedSecret("mistaken", ownedBy(one))).want(201)
	a.gone(secrets + "/mistaken")
	a.get(secrets + "/shared").want(200)
}

func TestGarbageForeground(t *testing.T) {
	a := newAPI(t)
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	held := ownedSecret("held", ownedBy(one))
	held.SetFinalizers([]string{"example.com/held"})
	a.do("POST", secrets, held).want(201)
	a.do("POST", secrets, ownedSecret("child", ownedBy(one))).want(201)
	marked := a.do("DELETE", sandboxes+"/one?propagationPolicy=Foreground", nil).want(200).object()
	if f := marked.GetFinalizers(); len(f) != 1 || f[0] != metav1.FinalizerDeleteDependents || marked.GetDeletionTimestamp() == nil {
		t.Fatalf("a deletion in the foreground was answered with %v", marked.Object)
	}
	a.gone(secrets + "/child")
	eventually(t, "the other dependent is being deleted", func() bool {
		return a.get(secrets+"/held").want(200).object().GetDeletionTimestamp() != nil
	})
	a.get(sandboxes + "/one").want(200) // it waits for the one that is held
	a.patch(mergePatch, secrets+"/held", `{"metadata":{"finalizers":null}}`).want(200)
	a.gone(sandboxes + "/one")
	a.get(secrets + "/held").want(404)

	// Without dependents there is nothing to wait for. What was said first can be
	// taken back while the object is held.
	u := sandbox("two")
	u.SetFinalizers([]string{"example.com/held"})
	a.do("POST", sandboxes, u).want(201)
	a.do("DELETE", sandboxes+"/two?propagationPolicy=Orphan", nil).want(200)
	a.do("DELETE", sandboxes+"/two?propagationPolicy=Background", nil).want(200)
	eventually(t, "only the foreign finalizer is left", func() bool {
		f := a.get(sandboxes + "/two").want(200).object().GetFinalizers()
		return len(f) == 1 && f[0] == "example.com/held"
	})
	a.patch(mergePatch, sandboxes+"/two", `{"metadata":{"finalizers":null}}`).want(200)
	a.get(sandboxes + "/two").want(404)
}

func TestGarbageOrphan(t *testing.T) {
	a := newAPI(t)
	for i, how := range []struct{ query, body string }{
		{query: "?propagationPolicy=Orphan"},
		{query: "?orphanDependents=true"},
		{body: `{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Orphan"}`},
	} {
		name := fmt.Sprintf("s%d", i)
		owner := a.do("POST", sandboxes, sandbox(name)).want(201).object()
		a.do("POST", secrets, ownedSecret(name, ownedBy(owner))).want(201)
		var body any
		if how.body != "" {
			body = how.body
		}
		a.do("DELETE", sandboxes+"/"+name+how.query, body).want(200)
		a.gone(sandboxes + "/" + name)
		if got := a.get(secrets + "/" + name).want(200).object(); len(got.GetOwnerReferences()) != 0 || got.GetDeletionTimestamp() != nil {
			t.Errorf("%v: the orphan is %v", how, got.Object)
		}
		if orphan := a.get(secrets + "/" + name).want(200); strings.Contains(string(orphan.body), `"ownerReferences":`) {
			t.Errorf("%v: the orphan still has owners, if none: %s", how, orphan.body)
		}
	}
	a.do("DELETE", sandboxes+"/x?propagationPolicy=Orphan&orphanDependents=true", nil).refused(422, "Invalid", "cannot be both set")
}

// TestGarbageAfterRestart: what was left undone is done by the next server.
func TestGarbageAfterRestart(t *testing.T) {
	st := openStore(t)
	s := newServer(t, onStore(st))
	a := api{t: t, handler: s.Handler()}
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	if err := s.Close(); err != nil { // nobody collects any more
		t.Fatal(err)
	}
	a.do("POST", secrets, ownedSecret("child", ownedBy(one))).want(201)
	a.do("DELETE", sandboxes+"/one", nil).want(200)
	a.get(secrets + "/child").want(200)

	b := newAPI(t, onStore(st))
	b.gone(secrets + "/child")
}
