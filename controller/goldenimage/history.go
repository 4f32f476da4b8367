package goldenimage

import (
	"slices"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// expired lists those of the unused revisions that are not kept: all but the
// youngest ones, as many as the limit says, and all that were sealed before the
// time that a prune asks for.
func expired(img *v1.GoldenImage, unused []string) []string {
	prune, _ := time.Parse(time.RFC3339, img.Annotations[v1.AnnotationPruneBefore]) // the zero time prunes nothing
	sealed := func(revision string) time.Time {
		for _, h := range img.Status.Revisions {
			if h.Revision == revision && h.SealedAt != nil {
				return h.SealedAt.Time
			}
		}
		return time.Time{}
	}
	youngest := slices.Clone(unused)
	slices.SortStableFunc(youngest, func(a, b string) int { return sealed(b).Compare(sealed(a)) })
	keep := youngest[:min(len(youngest), int(img.Spec.RevisionHistoryLimit))]
	return slices.DeleteFunc(slices.Clone(unused), func(revision string) bool {
		return slices.Contains(keep, revision) && !sealed(revision).Before(prune)
	})
}
