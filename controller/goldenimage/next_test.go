package goldenimage

import (
	"slices"
	"testing"

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
