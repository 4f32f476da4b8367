package controller

import (
	"context"
	"sync"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// wakeupBuffer decouples providers from queues for a moment. The readers of
// the channels only add to a queue, so it rarely fills.
const wakeupBuffer = 256

// wake asks a reconciler to look at an object.
type wake struct {
	reconcile.Request
	why why
}

// why says how urgent a wake is for an object that fails, and waits for its next try.
type why int

const (
	// happened: something happened to its machine. That may well be the doing of its
	// last try, so it goes on waiting: otherwise failures would wake themselves.
	happened why = iota
	// ended: work that it waited for has ended.
	ended
	// anew: everything may be different. Its backoff begins anew.
	anew
)

// queue carries wakes into a controller's work queue.
type queue chan event.TypedGenericEvent[wake]

func newQueue() queue { return make(queue, wakeupBuffer) }

// add wakes the reconciler for a request, unless the context ends first.
func (q queue) add(ctx context.Context, why why, r reconcile.Request) {
	select {
	case q <- event.TypedGenericEvent[wake]{Object: wake{r, why}}:
	case <-ctx.Done():
	}
}

// source makes the queue a source of a controller with that limiter.
func (q queue) source(limiter patient) source.TypedSource[reconcile.Request] {
	type requests = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return source.TypedChannel(q, handler.TypedFuncs[wake, reconcile.Request]{
		GenericFunc: func(_ context.Context, e event.TypedGenericEvent[wake], to requests) {
			w := e.Object
			if w.why == anew {
				limiter.anew(w.Request)
			}
			failures := limiter.NumRequeues(w.Request)
			if w.why == happened && failures > 0 {
				// No sooner than the next try, which may have been under way when it
				// happened, and been the last one.
				to.AddAfter(w.Request, longest(failures))
				return
			}
			to.Add(w.Request)
		},
	})
}

// wakeups turn what providers report into requests for the reconcilers.
type wakeups struct {
	reader    client.Reader
	providers *providers.Set
	sandboxes queue
	images    queue
	snapshots queue
	// ofSandboxes and ofImages tell which object a machine is of.
	ofSandboxes, ofImages *places
	log                   logr.Logger
}

// Start forwards the events of all providers until the context ends.
func (w *wakeups) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range w.providers.All() {
		wg.Go(func() {
			for e := range p.Events(ctx) {
				w.forward(ctx, p.Name(), e)
			}
		})
	}
	wg.Wait()
	return nil
}

// forward wakes the sandbox of a machine, or the image that is built in it, or
// everything of the provider.
func (w *wakeups) forward(ctx context.Context, provider v1.ProviderName, e providers.Event) {
	if e.Type == providers.EventResync {
		w.log.Info("looking at everything again", "provider", provider)
		w.all(ctx, provider, anew)
		return
	}
	w.wakeOwner(ctx, provider, e.ID, w.ofSandboxes, &v1.Sandbox{}, w.sandboxes)
	w.wakeOwner(ctx, provider, e.ID, w.ofImages, &v1.GoldenImage{}, w.images)
}

// wakeOwner adds the object that a machine is of to a queue, if it is one of those.
func (w *wakeups) wakeOwner(ctx context.Context, provider v1.ProviderName, machine types.UID, among *places, o client.Object, q queue) {
	key, found := among.find(machine)
	if !found {
		return
	}
	switch err := w.reader.Get(ctx, key, o); {
	case apierrors.IsNotFound(err): // the cache does not have it yet, or any more
	case err != nil:
		if ctx.Err() == nil {
			w.log.Error(err, "cannot find the object to wake; it is looked at at its next resync", "object", key)
		}
	case o.GetUID() == machine && w.concerned(ctx, provider, o):
		q.add(ctx, happened, reconcile.Request{NamespacedName: key})
	}
}

// all wakes everything of a provider. What is of another one is none of its business:
// what fails there goes on waiting for its next try.
func (w *wakeups) all(ctx context.Context, provider v1.ProviderName, why why) {
	w.wake(ctx, provider, why, &v1.GoldenImageList{}, w.images)
	w.wake(ctx, provider, why, &v1.SandboxList{}, w.sandboxes)
	w.wake(ctx, provider, why, &v1.SandboxSnapshotList{}, w.snapshots)
}

// wake adds every object of a list to a queue that the provider concerns. What it
// misses, because the cache does not have it yet, is reconciled when the cache gets it.
func (w *wakeups) wake(ctx context.Context, provider v1.ProviderName, why why, list client.ObjectList, q queue) {
	err := w.reader.List(ctx, list, client.UnsafeDisableDeepCopy)
	if err == nil {
		err = meta.EachListItem(list, func(o runtime.Object) error {
			if o := o.(client.Object); w.concerned(ctx, provider, o) {
				q.add(ctx, why, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)})
			}
			return ctx.Err()
		})
	}
	if err != nil && ctx.Err() == nil {
		w.log.Error(err, "cannot find the objects to wake; they are looked at at their next resync")
	}
}
