package controller

import (
	"context"
	"errors"
	"sync"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"sandboxd.dev/sandboxd/providers"
)

// waitTeller runs a reconciler. Errors that only say that something is waited for, which
// the object's conditions tell, are tried again with backoff as all are, and logged
// once and not as errors: they are nobody's fault. What a reconciliation says that the
// end of the daemon cut off is no failure of its object.
type waitTeller struct {
	reconcile.Reconciler

	mu    sync.Mutex
	waits map[reconcile.Request]string
}

func patiently(r reconcile.Reconciler) *waitTeller {
	return &waitTeller{Reconciler: r, waits: make(map[reconcile.Request]string)}
}

// Reconcile implements reconcile.Reconciler.
func (p *waitTeller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	result, err := p.Reconciler.Reconcile(ctx, req)
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return reconcile.Result{}, nil
	case !isWait(err):
		p.news(req, "")
		return result, err
	}
	log := logr.FromContextOrDiscard(ctx)
	if p.news(req, err.Error()) {
		log.Info("waits", "reason", providers.ReasonOf(err), "why", err.Error())
	} else {
		log.V(1).Info("waits still", "reason", providers.ReasonOf(err))
	}
	return reconcile.Result{Requeue: true}, nil //nolint:staticcheck // there is no other way to the rate limiter without an error
}

// isWait tells whether an error says that something is waited for.
func isWait(err error) bool {
	return errors.Is(err, providers.ErrBusy) || errors.Is(err, providers.ErrCapacity) ||
		errors.Is(err, providers.ErrNotFound) || errors.Is(err, providers.ErrUnavailable)
}

// news remembers what a request waits for, empty for nothing, and tells whether that
// was something else before.
func (p *waitTeller) news(req reconcile.Request, why string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if why == "" {
		delete(p.waits, req)
		return false
	}
	was := p.waits[req]
	p.waits[req] = why
	return was != why
}
