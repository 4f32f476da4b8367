package archive

import (
	"cmp"
	"slices"
	"strings"
)

// sortDeepestFirst orders paths so that what lies in a directory comes before
// it.
func sortDeepestFirst(names []string) {
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), strings.Compare(a, b))
	})
}
