package sandbox

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// unobserveParallel is how many statuses are written at a time: so many that
// they share the disk's syncs.
const unobserveParallel = 16

// Unobserve takes back, of all sandboxes, what an earlier run of the daemon saw
// and others rely on: that they are ready and isolated. A machine may have come
// to anything while nobody looked. It is called before the first
// reconciliation, and before anybody can read the objects.
func Unobserve(ctx context.Context, reader client.Reader, writer client.StatusClient, now time.Time) error {
	var list v1.SandboxList
	if err := reader.List(ctx, &list); err != nil {
		return fmt.Errorf("list the sandboxes of an earlier run: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(unobserveParallel)
	for i := range list.Items {
		sbx := &list.Items[i]
		before := sbx.DeepCopy()
		if !unobserve(sbx, now) {
			continue
		}
		group.Go(func() error {
			err := writer.Status().Patch(ctx, sbx, client.MergeFrom(before))
			if client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("sandbox %s/%s: write that it has not been looked at: %w", before.Namespace, before.Name, err)
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
