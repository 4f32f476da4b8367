package sandbox

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestNetworkIsolated: the condition is true only of a machine whose network
// holds what its mode promises. That a hypervisor cannot keep all of it does not
// keep the sandbox from being ready, and is said there too.
func TestNetworkIsolated(t *testing.T) {
	for name, tc := range map[string]struct {
		seen     providers.NetworkObservation
		isolated metav1.ConditionStatus
		reason   string
		ready    metav1.ConditionStatus
		says     string
	}{
		"isolated":     {providers.NetworkObservation{Isolated: true, Detail: "no card"}, metav1.ConditionTrue, v1.ReasonObserved, metav1.ConditionTrue, "no card"},
		"not isolated": {providers.NetworkObservation{Detail: "two cards"}, metav1.ConditionFalse, v1.ReasonNotObserved, metav1.ConditionFalse, "two cards"},
		"neither": {
			providers.NetworkObservation{Detail: "two cards", Beyond: "the host is reached"},
			metav1.ConditionFalse, v1.ReasonNotObserved, metav1.ConditionFalse, "two cards",
		},
		"not enforceable": {
			providers.NetworkObservation{Isolated: true, Detail: "one card", Beyond: "the host is reached"},
			metav1.ConditionFalse, v1.ReasonNotEnforceable, metav1.ConditionTrue, "one card; the host is reached",
		},
	} {
		sbx := &v1.Sandbox{}
		sbx.Spec.Readiness.Mode = v1.ReadinessNone
		img := &v1.GoldenImage{}
		img.Status.Conditions = []metav1.Condition{{Type: v1.ConditionReady, Status: metav1.ConditionTrue}}
		updateStatus(view{
			sbx: sbx, img: img, observed: true, machine: &providers.Machine{Power: providers.PowerRunning, Network: tc.seen},
			guest: guestCheck{status: metav1.ConditionTrue, reason: v1.ReasonNotChecked},
		})
		c := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionNetworkIsolated)
		if c.Status != tc.isolated || c.Reason != tc.reason || c.Message != tc.says {
			t.Errorf("%s: the condition is %+v", name, c)
		}
		ready := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionReady)
		if ready.Status != tc.ready || strings.Contains(ready.Message, "less isolated") != (c.Reason == v1.ReasonNotEnforceable) {
			t.Errorf("%s: %+v", name, ready)
		}
	}
}
