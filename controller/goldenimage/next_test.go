package goldenimage

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

func TestNext(t *testing.T) {
	used := map[string]int32{"r1": 1}
	waiting := map[string]int32{"": 1}
	tests := []struct {
		name string
		o    observed
		want action
	}{
		{"new", observed{}, actImport},
		{"new, sandboxes wait for it", observed{Clones: waiting}, actImport},
		{"sealed", observed{Sealed: true}, actSettle},
		{"sealed and used", observed{Sealed: true, Clones: used}, actSettle},
		{"being deleted", observed{Deleting: true}, actRemove},
		{"being deleted, sealed", observed{Deleting: true, Sealed: true}, actRemove},
		{"being deleted, used", observed{Deleting: true, Sealed: true, Clones: used}, actHold},
		{"being deleted, a sandbox waits for it", observed{Deleting: true, Clones: waiting}, actHold},
		{"being deleted, none left", observed{Deleting: true, Clones: map[string]int32{"r1": 0}}, actRemove},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := next(tt.o); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestObsolete(t *testing.T) {
	held := []v1.ImageRevision{{Revision: "r1"}, {Revision: "r2"}, {Revision: "r3"}}
	tests := []struct {
		name   string
		clones map[string]int32
		want   []string
	}{
		{"none used", nil, []string{"r1", "r2"}},
		{"one used", map[string]int32{"r1": 2}, []string{"r2"}},
		{"all used", map[string]int32{"r1": 2, "r2": 1}, nil},
		{"a sandbox is about to be cloned", map[string]int32{"": 1}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := obsolete(held, []string{"r3", ""}, tt.clones); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestHolding: who keeps an image that is being deleted from going.
func TestHolding(t *testing.T) {
	deleted := metav1.NewTime(time.Unix(1000, 0))
	box := func(created int64, change func(*v1.Sandbox)) v1.Sandbox {
		s := v1.Sandbox{}
		s.CreationTimestamp = metav1.NewTime(time.Unix(created, 0))
		change(&s)
		return s
	}
	waits := func(*v1.Sandbox) {}
	made := func(s *v1.Sandbox) { s.Status.MachineID, s.Status.ImageRevision = "m", "r1" }
	lost := func(s *v1.Sandbox) { s.Status.ImageRevision = "r1" }
	for _, tt := range []struct {
		name             string
		sandbox          v1.Sandbox
		sealed, unsealed bool
	}{
		{"with a machine", box(900, made), true, true},
		{"with a machine, made later", box(1100, made), true, true},
		{"to be made anew", box(900, lost), true, true},
		{"waits, from before", box(900, waits), true, false},
		{"waits, of the same second", box(1000, waits), true, false},
		{"waits, made later", box(1001, waits), false, false},
	} {
		img := &v1.GoldenImage{}
		img.DeletionTimestamp = &deleted
		for sealed, want := range map[bool]bool{true: tt.sealed, false: tt.unsealed} {
			if got := len(holding(img, sealed, []v1.Sandbox{tt.sandbox})) == 1; got != want {
				t.Errorf("%s, sealed %v: holds it %v, want %v", tt.name, sealed, got, want)
			}
		}
	}
}

func TestUsers(t *testing.T) {
	var sandboxes []v1.Sandbox
	for _, n := range []string{"g", "f", "e", "d", "c", "b", "a"} {
		s := v1.Sandbox{}
		s.Namespace, s.Name = "ns", n
		sandboxes = append(sandboxes, s)
	}
	if got, want := usedBy(sandboxes), "7 sandboxes (ns/a, ns/b, ns/c, ns/d, ns/e, …)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := usedBy(sandboxes[:1]), "1 sandbox (ns/g)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
