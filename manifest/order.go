package manifest

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// The ranks of what comes last: snapshots are of sandboxes.
const (
	RankSandbox  = 4
	RankSnapshot = 5
)

// Rank orders kinds so that what others need comes first.
func Rank(gk schema.GroupKind) int {
	switch gk {
	case schema.GroupKind{Kind: "Namespace"}:
		return 0
	case schema.GroupKind{Kind: "Secret"}:
		return 1
	case v1.GroupVersion.WithKind("GoldenImage").GroupKind():
		return 3
	case v1.GroupVersion.WithKind("Sandbox").GroupKind():
		return RankSandbox
	case v1.GroupVersion.WithKind("SandboxSnapshot").GroupKind():
		return RankSnapshot
	default:
		return 2
	}
}

// InOrder groups objects by what must come before what, each group in the order
// of the manifests.
func InOrder[T interface {
	GroupVersionKind() schema.GroupVersionKind
}](objects []T) [][]T {
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b T) int {
		return cmp.Compare(Rank(a.GroupVersionKind().GroupKind()), Rank(b.GroupVersionKind().GroupKind()))
	})
	var groups [][]T
	for i, o := range sorted {
		if i == 0 || Rank(sorted[i-1].GroupVersionKind().GroupKind()) != Rank(o.GroupVersionKind().GroupKind()) {
			groups = append(groups, nil)
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], o)
	}
	return groups
}

// Reversed groups objects for deletion.
func Reversed[T interface {
	GroupVersionKind() schema.GroupVersionKind
}](objects []T) [][]T {
	groups := InOrder(objects)
	slices.Reverse(groups)
	return groups
}

// Identity names an object within a server, in whatever version.
type Identity struct {
	Kind            schema.GroupKind
	Namespace, Name string
}

// IdentityOf is the identity of an object as the server has it.
func IdentityOf(o interface {
	GroupVersionKind() schema.GroupVersionKind
	GetNamespace() string
	GetName() string
},
) Identity {
	return Identity{o.GroupVersionKind().GroupKind(), o.GetNamespace(), o.GetName()}
}

// CheckDuplicates refuses two manifests of one object.
func CheckDuplicates(objects []Object) error {
	seen := map[Identity]Object{}
	for _, o := range objects {
		if first, ok := seen[IdentityOf(o)]; ok {
			return o.Errorf("%s is in %s already: keep one of them", o.ID(), first.Source)
		}
		seen[IdentityOf(o)] = o
	}
	return nil
}
