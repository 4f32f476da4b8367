package sandbox

import (
	"errors"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// unseen takes back what others rely on and what nobody can look at now: that the
// network is isolated, and that the guest is ready. What the machine is otherwise
// stays as it was last seen, and Ready says that it was not looked at.
func unseen(v view, set func(metav1.Condition)) {
	if v.observed || !errors.Is(v.err, providers.ErrUnavailable) {
		return
	}
	for _, claim := range []string{v1.ConditionNetworkIsolated, v1.ConditionGuestReady} {
		if meta.IsStatusConditionTrue(v.sbx.Status.Conditions, claim) {
			set(metav1.Condition{
				Type: claim, Status: metav1.ConditionUnknown, Reason: v1.ReasonUnavailable,
				Message: "it was so when it was last seen, and cannot be looked at: " + v.err.Error(),
			})
		}
	}
}
