package cli

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/manifest"
)

// The ranks of what comes last: snapshots are of sandboxes.
const (
	rankSandbox  = 4
	rankSnapshot = 5
)

// rank orders kinds so that what others need comes first.
func rank(gk schema.GroupKind) int {
	switch gk {
	case kindNamespace:
		return 0
	case schema.GroupKind{Kind: "Secret"}:
		return 1
	case kindGoldenImage:
		return 3
	case kindSandbox:
		return rankSandbox
	case kindSnapshot:
		return rankSnapshot
	default:
		return 2
	}
}

// inOrder groups objects by what must come before what, each group in the order
// of the manifests.
func inOrder[T interface {
	GroupVersionKind() schema.GroupVersionKind
}](objects []T) [][]T {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b T) int {
		return cmp.Compare(rank(a.GroupVersionKind().GroupKind()), rank(b.GroupVersionKind().GroupKind()))
	})
	var groups [][]T
	for i, o := range sorted {
		if i == 0 || rank(sorted[i-1].GroupVersionKind().GroupKind()) != rank(o.GroupVersionKind().GroupKind()) {
			groups = append(groups, nil)
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], o)
	}
	return groups
}

// reversed groups objects for deletion.
func reversed[T interface {
	GroupVersionKind() schema.GroupVersionKind
}](objects []T) [][]T {
	groups := inOrder(objects)
	slices.Reverse(groups)
	return groups
}

// identity names an object within a server.
type identity struct {
	kind            schema.GroupKind
	namespace, name string
}

func identityOf(o manifest.Object) identity {
	return identity{o.GroupVersionKind().GroupKind(), o.GetNamespace(), o.GetName()}
}

// checkDuplicates refuses two manifests of one object.
func checkDuplicates(objects []manifest.Object) error {
	seen := map[identity]manifest.Object{}
	for _, o := range objects {
		if first, ok := seen[identityOf(o)]; ok {
			return o.Errorf("%s is in %s already: keep one of them", o.ID(), first.Source)
		}
		seen[identityOf(o)] = o
	}
	return nil
}
