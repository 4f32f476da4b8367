package sandbox

import (
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// setBack moves what a status remembers of a time that has not come to now: the wall
// clock was set back since. Pauses and patience are counted from there, so that nothing
// waits for the clock to get where it was.
func setBack(st *v1.SandboxStatus, now time.Time) {
	for _, t := range []*metav1.Time{st.StartedAt, st.StoppingSince, st.LastUsedAt, st.RepairedAt} {
		notAfter(t, now)
	}
	for i := range st.Artifacts {
		notAfter(st.Artifacts[i].WaitingSince, now)
	}
	for i := range st.Conditions {
		notAfter(&st.Conditions[i].LastTransitionTime, now)
	}
}

// notAfter moves a time that has not come to now, in the precision of the API.
func notAfter(t *metav1.Time, now time.Time) {
	if t != nil && t.After(now) {
		*t = metav1.NewTime(now.Truncate(time.Second))
	}
}

// noteTry writes down when what failed is tried again. What waits for a change, or for
// the provider to be back, is not.
func (r *Reconciler) noteTry(sbx *v1.Sandbox, err error) {
	sbx.Status.NextTryAt = nil
	if err == nil || r.o.Backoff == nil || providers.IsTerminal(err) || errors.Is(err, providers.ErrDown) {
		return
	}
	if pause := r.o.Backoff.Upcoming(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(sbx)}); pause > 0 {
		at := metav1.NewTime(r.o.Clock.Now().Add(pause).Truncate(time.Second))
		sbx.Status.NextTryAt = &at
	}
}
