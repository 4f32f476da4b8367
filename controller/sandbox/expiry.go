package sandbox

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// expiresAt is when a sandbox's time is up, or nil.
func expiresAt(sbx *v1.Sandbox) *metav1.Time {
	ttl := sbx.Spec.Lifecycle.TTL
	if ttl == nil {
		return nil
	}
	t := metav1.NewTime(sbx.CreationTimestamp.Add(ttl.Duration))
	return &t
}

// expired tells whether a sandbox's time is up.
func expired(sbx *v1.Sandbox, now time.Time) bool {
	at := expiresAt(sbx)
	return at != nil && !now.Before(at.Time)
}

// powerState is what the machine is to be kept in: what the spec says, until
// the sandbox's time is up.
func powerState(sbx *v1.Sandbox, now time.Time) v1.PowerState {
	if expired(sbx, now) {
		return v1.PowerStopped
	}
	return firstSet(sbx.Spec.PowerState, v1.PowerRunning)
}
