package goldenimage

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

func TestExpired(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	img := &v1.GoldenImage{}
	for n, revision := range map[int]string{1: "r1", 2: "r2", 3: "r3", 4: "r4"} {
		at := metav1.NewTime(day(n))
		img.Status.Revisions = append(img.Status.Revisions, v1.ImageRevision{Revision: revision, SealedAt: &at})
	}
	tests := []struct {
		name   string
		limit  int32
		before string
		unused []string
		want   []string
	}{
		{"none is kept", 0, "", []string{"r1", "r2"}, []string{"r1", "r2"}},
		{"the youngest are kept", 2, "", []string{"r2", "r1", "r3"}, []string{"r1"}},
		{"all are kept", 5, "", []string{"r1", "r2"}, nil},
		{"what is used does not count", 1, "", []string{"r1"}, nil},
		{"none is unused", 0, "", nil, nil},
		{"pruned", 5, day(3).Format(time.RFC3339), []string{"r1", "r2", "r3"}, []string{"r1", "r2"}},
		{"pruned at a time that is none", 5, "yesterday", []string{"r1"}, nil},
		{"pruned and beyond the limit", 1, day(2).Format(time.RFC3339), []string{"r1", "r2", "r3"}, []string{"r1", "r2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img.Spec.RevisionHistoryLimit = tt.limit
			img.Annotations = map[string]string{v1.AnnotationPruneBefore: tt.before}
			if got := expired(img, tt.unused); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
