package patch_test

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/patch"
)

func TestWriter(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	read := &v1.Sandbox{}
	read.Namespace, read.Name, read.UID = "default", "web", "u"
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(read).WithStatusSubresource(read).Build()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(read), read); err != nil {
		t.Fatal(err)
	}
	w := patch.NewWriter(c)
	if w.Stale(read) {
		t.Error("stale before anything was written")
	}
	written := read.DeepCopy()
	if err := w.Status(t.Context(), read, written); err != nil || written.ResourceVersion != read.ResourceVersion {
		t.Errorf("an unchanged status was written: %v", err)
	}
	written.Status.Restarts = 1
	if err := w.Status(t.Context(), read, written); err != nil {
		t.Fatal(err)
	}
	if !w.Stale(read) {
		t.Error("the version before the write is not stale")
	}
	if w.Stale(written) {
		t.Error("the written version is stale")
	}
	outdated := read.DeepCopy()
	outdated.Labels = map[string]string{"a": "b"}
	if err := w.Object(t.Context(), read, outdated); !apierrors.IsConflict(err) {
		t.Errorf("writing over a newer version: got %v, want a conflict", err)
	}
	if err := c.Delete(t.Context(), written.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	gone := written.DeepCopy()
	gone.Labels = map[string]string{"a": "b"}
	if err := w.Object(t.Context(), written, gone); err != nil {
		t.Errorf("writing an object that is gone: %v", err)
	}
}
