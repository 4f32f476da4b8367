package goldenimage

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
)

// TestSaid: what is said of a build that waits does not change because others are being
// looked at.
func TestSaid(t *testing.T) {
	passing := capacity.Verdict{Passing: true, Reason: v1.ReasonWaitingInLine, Message: "waits until it has been looked at again"}
	figures := capacity.Verdict{Reason: v1.ReasonCapacity, Message: "needs 2Gi memory, 1Gi of 4Gi free"}
	const old = builder + "needs 2Gi memory, 0Ki of 4Gi free"
	for name, c := range map[string]struct {
		reason, message string
		verdict         capacity.Verdict
		want            string
	}{
		"passing, for the first time":      {v1.ReasonImporting, "the import is about to begin", passing, builder + passing.Message},
		"passing, after the figures":       {v1.ReasonCapacity, old, passing, old},
		"passing, after a host was full":   {v1.ReasonCapacity, "image: no space", passing, builder + passing.Message},
		"other figures":                    {v1.ReasonCapacity, old, figures, builder + figures.Message},
		"figures, after it waited a blink": {v1.ReasonWaitingInLine, builder + passing.Message, figures, builder + figures.Message},
	} {
		img := &v1.GoldenImage{}
		img.Status.Conditions = []metav1.Condition{{Type: v1.ConditionImported, Status: metav1.ConditionFalse, Reason: c.reason, Message: c.message}}
		got := said(img, c.verdict)
		if got.Message != c.want || got.Message == c.message && got.Reason != c.reason {
			t.Errorf("%s: %+v, want %q", name, got, c.want)
		}
	}
	if got := said(&v1.GoldenImage{}, passing); got.Message != builder+passing.Message {
		t.Errorf("without a condition: %+v", got)
	}
}
