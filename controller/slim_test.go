package controller

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/patch"
)

// fat is a sandbox with everything that the cache leaves out, and with strings that
// are nobody else's.
func fat(name string) *v1.Sandbox {
	return &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: strings.Clone("default"), Name: name, UID: types.UID("uid of " + name),
			Labels:        map[string]string{"app": "web"},
			Annotations:   map[string]string{"example.com/owner": "me", v1.AnnotationPruneBefore: "now"},
			Finalizers:    []string{strings.Clone(v1.FinalizerMachine)},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
		},
		Spec: v1.SandboxSpec{
			Image:   strings.Clone("debian"),
			Network: v1.Network{PortForwards: []v1.PortForward{{Name: strings.Clone("web"), GuestPort: 80}}},
		},
		Status: v1.SandboxStatus{Conditions: append(make([]metav1.Condition, 0, 16),
			metav1.Condition{Type: strings.Clone("Ready"), Message: strings.Clone("its image does not exist")})},
	}
}

func TestSlim(t *testing.T) {
	a, b, want := fat("a"), fat("b"), fat("a")
	s := newSlimmer()
	s.slim(a)
	runtime.GC() // which takes away nothing
	s.slim(b)
	want.Labels, want.ManagedFields = nil, nil
	delete(want.Annotations, "example.com/owner")
	if !reflect.DeepEqual(a, want) {
		t.Errorf("slim:\n%+v\nwant:\n%+v", a, want)
	}
	for name, texts := range map[string][2]string{
		"namespace": {a.Namespace, b.Namespace}, "finalizer": {a.Finalizers[0], b.Finalizers[0]},
		"image": {a.Spec.Image, b.Spec.Image}, "message": {a.Status.Conditions[0].Message, b.Status.Conditions[0].Message},
		"port": {a.Spec.Network.PortForwards[0].Name, b.Spec.Network.PortForwards[0].Name},
	} {
		if unsafe.StringData(texts[0]) != unsafe.StringData(texts[1]) {
			t.Errorf("%s: %q is there twice", name, texts[0])
		}
	}
	if got := cap(a.Status.Conditions); got > 2 {
		t.Errorf("there is room for %d conditions", got)
	}
	for i := range 3 * maxOnce {
		if text := fmt.Sprint("text ", i); s.once(text) != text {
			t.Errorf("%q became another", text)
		}
	}
	if len(s.known) > maxOnce {
		t.Errorf("%d strings are remembered", len(s.known))
	}
}

// TestSlimObjectsArePatched: what the cache does not have of an object stays as it is
// when a reconciler writes it.
func TestSlimObjectsArePatched(t *testing.T) {
	scheme := apiruntime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	whole := fat("a")
	whole.ManagedFields = nil // which the fake client does not take
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(whole).WithStatusSubresource(whole).Build()
	cached := &v1.Sandbox{}
	read := func() {
		t.Helper()
		*cached = v1.Sandbox{}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(whole), cached); err != nil {
			t.Fatal(err)
		}
	}
	w := patch.NewWriter(c)
	read()
	newSlimmer().slim(cached)
	after := cached.DeepCopy()
	after.Finalizers = append(after.Finalizers, "example.com/another")
	if err := w.Object(t.Context(), cached, after); err != nil {
		t.Fatal(err)
	}
	read()
	newSlimmer().slim(cached)
	after = cached.DeepCopy()
	after.Status.Restarts = 7
	after.Status.Conditions[0].Reason = "Changed"
	if err := w.Status(t.Context(), cached, after); err != nil {
		t.Fatal(err)
	}
	read()
	want := fat("a")
	want.ManagedFields, want.Finalizers = nil, append(want.Finalizers, "example.com/another")
	want.Status.Restarts, want.Status.Conditions[0].Reason = 7, "Changed"
	want.ResourceVersion, want.TypeMeta = cached.ResourceVersion, cached.TypeMeta
	if !reflect.DeepEqual(cached, want) {
		t.Errorf("written:\n%+v\nwant:\n%+v", cached, want)
	}
}

func TestPlaces(t *testing.T) {
	p := newPlaces(newSlimmer())
	for _, name := range []string{"a", "b"} {
		if _, err := p.transform(fat(name)); err != nil {
			t.Fatal(err)
		}
	}
	if key, found := p.find("uid of a"); !found || key.String() != "default/a" {
		t.Errorf("a is at %s: %v", key, found)
	}
	p.forget(toolscache.DeletedFinalStateUnknown{Key: "default/a", Obj: fat("a")})
	p.forget(fat("b"))
	for _, id := range []types.UID{"uid of a", "uid of b", "another"} {
		if key, found := p.find(id); found {
			t.Errorf("%s is at %s", id, key)
		}
	}
}
