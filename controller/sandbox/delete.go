package sandbox

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// delete removes the machine and then the finalizer.
func (r *Reconciler) delete(ctx context.Context, before, sbx *v1.Sandbox) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(sbx, v1.FinalizerMachine) {
		return reconcile.Result{}, nil
	}
	r.o.Capacity.Withdraw(sbx.UID)
	done, after, err := r.artifactsBeforeDelete(ctx, before, sbx)
	if err == nil && !done {
		return reconcile.Result{RequeueAfter: after}, nil
	}
	before = sbx.DeepCopy() // what of the artifacts was written
	if err == nil {
		forks, err := r.deleteSnapshots(ctx, sbx)
		if err != nil {
			return reconcile.Result{}, err
		}
		if len(forks) > 0 {
			return r.holdForForks(ctx, before, sbx, forks)
		}
	}
	if err == nil {
		err = r.deleteMachine(ctx, sbx)
	}
	if err != nil {
		deletingStatus(sbx, wait{v1.ReasonDeleting, "the machine is being removed: " + err.Error()}, r.o.Clock.Now())
		r.noteTry(sbx, err)
		if werr := r.writer.Status(ctx, before, sbx); werr != nil {
			return reconcile.Result{}, werr
		}
		return r.failed(ctx, sbx, before, err, 0)
	}
	r.o.Capacity.Release(sbx.UID)
	if r.o.Usage != nil {
		r.o.Usage.Forget(sbx.UID)
	}
	controllerutil.RemoveFinalizer(sbx, v1.FinalizerMachine)
	return reconcile.Result{}, r.writer.Object(ctx, before, sbx)
}

// deleteMachine returns nil once no provider that may have made the machine
// has any trace of it.
func (r *Reconciler) deleteMachine(ctx context.Context, sbx *v1.Sandbox) error {
	candidates := r.o.Providers.All()
	if sbx.Status.Provider != "" {
		p, err := r.o.Providers.Get(sbx.Status.Provider)
		if err != nil {
			return err
		}
		candidates = []providers.Provider{p}
	}
	for _, p := range candidates {
		if err := deleteUntilGone(ctx, p, sbx.UID); err != nil {
			return err
		}
	}
	return nil
}

func deleteUntilGone(ctx context.Context, p providers.Provider, id types.UID) error {
	for range maxSteps {
		err := p.DeleteMachine(ctx, id)
		if errors.Is(err, providers.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return providers.Errorf(providers.ErrBusy, "machine "+string(id), "still there after it was deleted")
}
