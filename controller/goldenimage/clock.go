package goldenimage

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// setBack moves what a build remembers of a time that has not come to now: the wall
// clock was set back since, and nothing is to wait for it to get where it was.
func setBack(b *v1.ImageBuild, now time.Time) {
	for _, t := range []*metav1.Time{&b.Since, b.StartedAt} {
		if t != nil && t.After(now) {
			*t = metav1.NewTime(now.Truncate(time.Second))
		}
	}
}
