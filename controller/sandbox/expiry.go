package sandbox

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// noteUse records when a sandbox with an idle timeout was last used: what this
// process saw of it, and a change of its spec, which somebody made.
func (r *Reconciler) noteUse(sbx *v1.Sandbox) {
	if sbx.Spec.Lifecycle.IdleTimeout == nil {
		sbx.Status.LastUsedAt = nil
		return
	}
	last := timeOf(sbx.Status.LastUsedAt)
	if r.o.Usage != nil {
		// A use in a time that has not come was before the clock was set back, and is
		// in the status.
		if used := r.o.Usage.Last(sbx.UID); !used.After(r.o.Clock.Now()) {
			last = later(last, used)
		}
	}
	if sbx.Status.ObservedGeneration != sbx.Generation {
		last = r.o.Clock.Now()
	}
	if last.After(timeOf(sbx.Status.LastUsedAt)) {
		t := metav1.NewTime(last.Truncate(time.Second))
		sbx.Status.LastUsedAt = &t
	}
}

// expiry is when a sandbox's time is up, and why; nil when it has no limit.
func expiry(sbx *v1.Sandbox) (at *metav1.Time, why string) {
	limit := func(from time.Time, d *metav1.Duration, reason string) {
		if d == nil {
			return
		}
		if t := metav1.NewTime(from.Add(d.Duration)); at == nil || t.Before(at) {
			at, why = &t, reason
		}
	}
	l := sbx.Spec.Lifecycle
	if l.TTL != nil {
		limit(sbx.CreationTimestamp.Time, l.TTL, fmt.Sprintf("its time to live of %s is over", l.TTL.Duration))
	}
	if l.IdleTimeout != nil {
		limit(later(sbx.CreationTimestamp.Time, timeOf(sbx.Status.LastUsedAt)), l.IdleTimeout,
			fmt.Sprintf("nobody has used it for %s", l.IdleTimeout.Duration))
	}
	return at, why
}

// expired tells whether a sandbox's time is up.
func expired(sbx *v1.Sandbox, now time.Time) bool {
	at, _ := expiry(sbx)
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

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// expiryWhy is why a sandbox's time is up.
func expiryWhy(sbx *v1.Sandbox) string {
	_, why := expiry(sbx)
	return why
}
