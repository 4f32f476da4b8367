// Package conditiontest judges in tests what the status of an object says of itself.
package conditiontest

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Ready wants the condition Ready to be as STATUS/REASON, with certain parts in its
// message, and another one, as TYPE=STATUS/REASON, unless also is empty. It returns Ready.
func Ready(t testing.TB, name string, conditions []metav1.Condition, want, also string, says []string) metav1.Condition {
	t.Helper()
	ready := meta.FindStatusCondition(conditions, v1.ConditionReady)
	if ready == nil {
		t.Fatalf("%s: there is no condition Ready", name)
	}
	if got := string(ready.Status) + "/" + ready.Reason; got != want {
		t.Errorf("%s: Ready is %s, want %s: %s", name, got, want, ready.Message)
	}
	for _, part := range says {
		if !strings.Contains(ready.Message, part) {
			t.Errorf("%s: Ready says %q, without %q", name, ready.Message, part)
		}
	}
	if kind, want, ok := strings.Cut(also, "="); ok {
		c := meta.FindStatusCondition(conditions, kind)
		if c == nil || string(c.Status)+"/"+c.Reason != want {
			t.Errorf("%s: %s is %+v, want %s", name, kind, c, want)
		}
	}
	return *ready
}
