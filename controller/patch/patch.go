// Package patch writes what a reconciliation changed of an object.
//
// Writes are merge patches over the version that was read: if somebody wrote
// meanwhile they fail with a conflict, and the reconciliation runs again on
// the newer version. Patches leave fields that this program does not know
// alone, which updates would drop.
package patch

import (
	"context"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Object writes what changed outside of the status. An object that is gone is
// no error.
func Object(ctx context.Context, c client.Client, before, after client.Object) error {
	return client.IgnoreNotFound(c.Patch(ctx, after, over(before)))
}

// Status writes what changed of the status, if anything did. An object that is
// gone is no error.
func Status(ctx context.Context, c client.Client, before, after client.Object) error {
	if apiequality.Semantic.DeepEqual(before, after) {
		return nil
	}
	return client.IgnoreNotFound(c.Status().Patch(ctx, after, over(before)))
}

func over(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}

// ReadyChanged tells whether the Ready condition says something new.
func ReadyChanged(before, after []metav1.Condition) bool {
	b, a := meta.FindStatusCondition(before, v1.ConditionReady), meta.FindStatusCondition(after, v1.ConditionReady)
	return a != nil && (b == nil || a.Reason != b.Reason || a.Message != b.Message)
}
