package sandbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// unobserveParallel is how many statuses are written at a time: so many that
// they share the disk's syncs.
const unobserveParallel = 16

// Unobserved are the sandboxes of which an earlier run of the daemon said what others
// rely on: that they are ready and isolated. A machine may have come to anything
// while nobody looked.
type Unobserved struct {
	now  time.Time
	list []unobserved
}

// unobserved is what of a sandbox is written; there may be very many.
type unobserved struct {
	key           types.NamespacedName
	before, after []metav1.Condition
}

// NewUnobserved has seen no sandbox yet.
func NewUnobserved(now time.Time) *Unobserved { return &Unobserved{now: now} }

// See notes what has to be taken back of a sandbox.
func (u *Unobserved) See(sbx *v1.Sandbox) {
	before := slices.Clone(sbx.Status.Conditions)
	if unobserve(sbx, u.now) {
		u.list = append(u.list, unobserved{client.ObjectKeyFromObject(sbx), before, sbx.Status.Conditions})
	}
}

// TakeBack writes of all sandboxes that were seen that nobody has looked at them. It
// is called before the first reconciliation, and before anybody can read the objects.
func (u *Unobserved) TakeBack(ctx context.Context, writer client.StatusClient) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(unobserveParallel)
	for _, o := range u.list {
		group.Go(func() error {
			before, after := &v1.Sandbox{}, &v1.Sandbox{}
			before.Namespace, before.Name, before.Status.Conditions = o.key.Namespace, o.key.Name, o.before
			after.Namespace, after.Name, after.Status.Conditions = o.key.Namespace, o.key.Name, o.after
			err := writer.Status().Patch(ctx, after, client.MergeFrom(before))
			if client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("sandbox %s: write that it has not been looked at: %w", o.key, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// unobserve makes the claims of a status unknown, and tells whether there were
// any.
func unobserve(sbx *v1.Sandbox, now time.Time) bool {
	changed := false
	for _, claim := range []string{v1.ConditionNetworkIsolated, v1.ConditionReady} {
		if !meta.IsStatusConditionTrue(sbx.Status.Conditions, claim) {
			continue
		}
		changed = meta.SetStatusCondition(&sbx.Status.Conditions, metav1.Condition{
			Type: claim, Status: metav1.ConditionUnknown, Reason: v1.ReasonNotObserved,
			Message:            "the daemon was started again and has not looked at the machine yet",
			ObservedGeneration: sbx.Generation, LastTransitionTime: metav1.NewTime(now),
		}) || changed
	}
	return changed
}
