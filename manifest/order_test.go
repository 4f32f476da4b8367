package manifest

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

type kinded struct{ gvk schema.GroupVersionKind }

func (k kinded) GroupVersionKind() schema.GroupVersionKind { return k.gvk }

func TestOrder(t *testing.T) {
	var all []kinded
	for _, kind := range []string{"Sandbox", "GoldenImage", "Sandbox"} {
		all = append(all, kinded{v1.GroupVersion.WithKind(kind)})
	}
	for _, kind := range []string{"Secret", "Namespace", "Lease"} {
		all = append(all, kinded{schema.GroupVersionKind{Version: "v1", Kind: kind}})
	}
	names := func(groups [][]kinded) (out [][]string) {
		for _, g := range groups {
			var n []string
			for _, k := range g {
				n = append(n, k.gvk.Kind)
			}
			out = append(out, n)
		}
		return out
	}
	want := [][]string{{"Namespace"}, {"Secret"}, {"Lease"}, {"GoldenImage"}, {"Sandbox", "Sandbox"}}
	if got := names(InOrder(all)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if got := names(Reversed(all)); got[0][0] != "Sandbox" || got[4][0] != "Namespace" {
		t.Errorf("reversed: got %v", got)
	}
}
