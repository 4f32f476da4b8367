package controller

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage"
)

// indexOrigins indexes the images that are made of sandboxes by these.
func (c *Controllers) indexOrigins(ctx context.Context) error {
	of := func(o client.Object) []string {
		if key := goldenimage.OriginKey(o.(*v1.GoldenImage)); key != "" {
			return []string{key}
		}
		return nil
	}
	if err := c.manager.GetFieldIndexer().IndexField(ctx, &v1.GoldenImage{}, goldenimage.IndexOrigin, of); err != nil {
		return fmt.Errorf("index images by %s: %w", goldenimage.IndexOrigin, err)
	}
	return nil
}

func sandboxKey(o client.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func snapshotKey(o client.Object) string {
	return o.GetNamespace() + "/" + o.(*v1.SandboxSnapshot).Spec.Sandbox
}

// imagesMadeOf wakes the images whose source is the sandbox that an object speaks
// of: they may wait for it to be there, off, or to have a snapshot.
func (c *Controllers) imagesMadeOf(o Options, key func(client.Object) string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []reconcile.Request {
		var list v1.GoldenImageList
		err := c.manager.GetClient().List(ctx, &list, client.MatchingFields{goldenimage.IndexOrigin: key(obj)}, client.UnsafeDisableDeepCopy)
		if err != nil {
			o.Logger.Error(err, "cannot find the images made of a sandbox; they are looked at at their next resync", "sandbox", key(obj))
			return nil
		}
		requests := make([]reconcile.Request, 0, len(list.Items))
		for i := range list.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
		return requests
	})
}

// originChanged passes what an image that is made of a sandbox may wait for.
func originChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return originState(e.ObjectOld) != originState(e.ObjectNew)
	}}
}

func originState(o client.Object) string {
	is := func(conditions []metav1.Condition, name string) string {
		if c := meta.FindStatusCondition(conditions, name); c != nil {
			return string(c.Status) + c.Reason
		}
		return ""
	}
	switch o := o.(type) {
	case *v1.Sandbox:
		return o.Status.MachineID + "/" + is(o.Status.Conditions, v1.ConditionPoweredOn)
	case *v1.SandboxSnapshot:
		return is(o.Status.Conditions, v1.ConditionReady)
	}
	return ""
}

// pruneChanged passes the wish to have former revisions removed.
func pruneChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetAnnotations()[v1.AnnotationPruneBefore] != e.ObjectNew.GetAnnotations()[v1.AnnotationPruneBefore]
	}}
}
