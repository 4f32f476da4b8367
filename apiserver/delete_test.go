package apiserver_test

import (
	"fmt"
	"testing"
)

func TestDelete(t *testing.T) {
	a := newAPI(t)
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	got := a.do("DELETE", sandboxes+"/one", nil).want(200)
	if got.field("kind") != "Status" || got.field("status") != "Success" || got.field("details", "uid") != string(one.GetUID()) || got.field("details", "kind") != "sandboxes" {
		t.Errorf("a deletion was answered with %s", got.body)
	}
	a.get(sandboxes+"/one").refused(404, "NotFound", `sandboxes.sandboxd.dev "one" not found`)
	a.do("DELETE", sandboxes+"/one", nil).refused(404, "NotFound")
	if again := a.do("POST", sandboxes, sandbox("one")).want(201).object(); again.GetUID() == one.GetUID() {
		t.Error("an object of the same name got the uid of the deleted one")
	}
}

func TestFinalizers(t *testing.T) {
	a := newAPI(t)
	u := sandbox("one")
	u.SetFinalizers([]string{"example.com/a", "example.com/b"})
	a.do("POST", sandboxes, u).want(201)
	marked := a.do("DELETE", sandboxes+"/one", nil).want(200).object()
	if marked.GetKind() != "Sandbox" || marked.GetDeletionTimestamp() == nil || *marked.GetDeletionGracePeriodSeconds() != 0 || marked.GetGeneration() != 2 {
		t.Errorf("a deletion was answered with %v", marked.Object)
	}
	// A second deletion changes nothing.
	if again := a.do("DELETE", sandboxes+"/one", nil).want(200).object(); again.GetResourceVersion() != marked.GetResourceVersion() {
		t.Errorf("a second deletion made %v", again.Object)
	}
	a.do("POST", sandboxes, sandbox("one")).refused(409, "AlreadyExists")
	a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"finalizers":["example.com/a","example.com/b","example.com/c"]}}`).
		refused(422, "Invalid", "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted")
	// Neither can the deletion be taken back.
	if got := a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"deletionTimestamp":null}}`).want(200).object(); got.GetDeletionTimestamp() == nil {
		t.Errorf("a deletion was taken back: %v", got.Object)
	}
	a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"finalizers":["example.com/b"]}}`).want(200)
	a.patch(mergePatch, sandboxes+"/one/status", `{"status":{"phase":"Terminating"}}`).want(200)
	a.get(sandboxes + "/one").want(200)
	last := a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"finalizers":null}}`).want(200).object()
	if last.GetName() != "one" || len(last.GetFinalizers()) != 0 {
		t.Errorf("the removal of the last finalizer was answered with %v", last.Object)
	}
	a.get(sandboxes+"/one").refused(404, "NotFound")

	// A finalizer that is removed before the deletion holds nothing back.
	a.do("POST", sandboxes, u).want(201)
	a.patch(mergePatch, sandboxes+"/one", `{"metadata":{"finalizers":null}}`).want(200)
	a.do("DELETE", sandboxes+"/one", nil).want(200)
	a.get(sandboxes+"/one").refused(404, "NotFound")
}

func TestDeleteOptions(t *testing.T) {
	a := newAPI(t)
	one := a.do("POST", sandboxes, sandbox("one")).want(201).object()
	options := func(more string) string { return `{"apiVersion":"v1","kind":"DeleteOptions",` + more + `}` }
	a.do("DELETE", sandboxes+"/one", options(`"preconditions":{"uid":"x"}`)).refused(409, "Conflict", "the UID in the precondition (x)")
	a.do("DELETE", sandboxes+"/one", options(`"preconditions":{"resourceVersion":"1"}`)).refused(409, "Conflict", "the resourceVersion in the precondition (1)")
	a.do("DELETE", sandboxes+"/one", options(`"propagationPolicy":"Sideways"`)).refused(422, "Invalid", "propagationPolicy: Unsupported value")
	a.do("DELETE", sandboxes+"/one?propagationPolicy=Sideways", nil).refused(422, "Invalid")
	a.do("DELETE", sandboxes+"/one", options(`"dryRun":["Some"]`)).refused(422, "Invalid", "dryRun: Unsupported value")
	a.do("DELETE", sandboxes+"/one", `{"kind":"Sandbox"}`).refused(400, "BadRequest", "DeleteOptions were expected")
	a.do("DELETE", sandboxes+"/one", `{"kind":"DeleteOptions","preconditions":7}`).refused(400, "BadRequest", "cannot be decoded")
	a.get(sandboxes + "/one").want(200)
	a.do("DELETE", sandboxes+"/one", fmt.Sprintf("apiVersion: v1\nkind: DeleteOptions\npropagationPolicy: Foreground\npreconditions: {uid: %s, resourceVersion: %q}", one.GetUID(), one.GetResourceVersion()),
		"Content-Type", "application/yaml").want(200)
	a.gone(sandboxes + "/one")
}

func TestDeleteCollection(t *testing.T) {
	a := newAPI(t)
	for i := range 6 {
		u := with(sandbox(fmt.Sprintf("s%d", i)), fmt.Sprint(i%2), "metadata", "labels", "odd")
		if i == 3 {
			u.SetFinalizers([]string{"example.com/a"})
		}
		a.do("POST", sandboxes, u).want(201)
	}
	a.do("DELETE", allSandboxes, nil).refused(405, "MethodNotAllowed")
	a.do("DELETE", sandboxes+"?fieldSelector=spec.cpus=1", nil).refused(400, "BadRequest")
	got := a.do("DELETE", sandboxes+"?labelSelector=odd=1", nil).want(200)
	if got.field("kind") != "SandboxList" || len(got.field("items").([]any)) != 3 {
		t.Errorf("a deletion was answered with %s", got.body)
	}
	left := map[string]bool{}
	for _, item := range a.get(sandboxes).field("items").([]any) {
		meta := item.(map[string]any)["metadata"].(map[string]any)
		left[meta["name"].(string)] = meta["deletionTimestamp"] != nil
	}
	if len(left) != 4 || !left["s3"] || left["s0"] || left["s2"] || left["s4"] {
		t.Errorf("what is left, and whether it is being deleted: %v", left)
	}
}
