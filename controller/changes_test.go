package controller

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestImageChanged: who waits for an image is woken by whatever lets it be cloned, and by
// nothing else that its status says.
func TestImageChanged(t *testing.T) {
	image := func(ready string, imported metav1.ConditionStatus, clones int32) *v1.GoldenImage {
		img := &v1.GoldenImage{}
		img.Status.Clones = clones
		img.Status.Conditions = []metav1.Condition{
			{Type: v1.ConditionReady, Status: metav1.ConditionFalse, Reason: ready},
			{Type: v1.ConditionImported, Status: imported},
		}
		return img
	}
	for name, c := range map[string]struct {
		was, is *v1.GoldenImage
		want    bool
	}{
		"nothing":                            {image(v1.ReasonInUse, metav1.ConditionTrue, 1), image(v1.ReasonInUse, metav1.ConditionTrue, 1), false},
		"its clones":                         {image(v1.ReasonInUse, metav1.ConditionTrue, 1), image(v1.ReasonInUse, metav1.ConditionTrue, 2), false},
		"it is deleted":                      {image(v1.ReasonAsSpecified, metav1.ConditionTrue, 1), image(v1.ReasonInUse, metav1.ConditionTrue, 1), true},
		"it is deleted, and cannot be seen":  {image(v1.ReasonInUse, metav1.ConditionTrue, 1), image(v1.ReasonInUse, metav1.ConditionUnknown, 1), true},
		"it is deleted, and is seen again":   {image(v1.ReasonInUse, metav1.ConditionUnknown, 1), image(v1.ReasonInUse, metav1.ConditionTrue, 1), true},
		"it is deleted, and is seen missing": {image(v1.ReasonInUse, metav1.ConditionUnknown, 1), image(v1.ReasonInUse, metav1.ConditionFalse, 1), false},
	} {
		if got := imageChanged().Update(event.UpdateEvent{ObjectOld: c.was, ObjectNew: c.is}); got != c.want {
			t.Errorf("%s: woken %v, want %v", name, got, c.want)
		}
	}
}
