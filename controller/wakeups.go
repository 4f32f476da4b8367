package controller

import (
	"context"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// indexUID is the field index of Sandboxes and GoldenImages by metadata.uid.
const indexUID = "metadata.uid"

// wakeupBuffer decouples providers from queues for a moment. The readers of
// the channels only add to a queue, so it rarely fills.
const wakeupBuffer = 256

// queue carries requests into a controller's work queue.
type queue chan event.TypedGenericEvent[reconcile.Request]

func newQueue() queue { return make(queue, wakeupBuffer) }

// add wakes the reconciler for a request, unless the context ends first.
func (q queue) add(ctx context.Context, r reconcile.Request) {
	select {
	case q <- event.TypedGenericEvent[reconcile.Request]{Object: r}:
	case <-ctx.Done():
	}
}

// source makes the queue a source of a controller.
func (q queue) source() source.TypedSource[reconcile.Request] {
	same := func(_ context.Context, r reconcile.Request) []reconcile.Request { return []reconcile.Request{r} }
	return source.TypedChannel(q, handler.TypedEnqueueRequestsFromMapFunc(same))
}

// wakeups turn what providers report into requests for the reconcilers.
type wakeups struct {
	reader    client.Reader
	providers *providers.Set
	sandboxes queue
	images    queue
	log       logr.Logger
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
	if e.Type != providers.EventResync {
		w.wake(ctx, &v1.SandboxList{}, w.sandboxes, client.MatchingFields{indexUID: string(e.ID)})
		w.wake(ctx, &v1.GoldenImageList{}, w.images, client.MatchingFields{indexUID: string(e.ID)})
		return
	}
	w.log.Info("looking at everything again", "provider", provider)
	w.wake(ctx, &v1.GoldenImageList{}, w.images)
	w.wake(ctx, &v1.SandboxList{}, w.sandboxes)
}

// wake adds every object of a list to a queue. What it misses, because the
// cache does not have it yet, is reconciled when the cache gets it.
func (w *wakeups) wake(ctx context.Context, list client.ObjectList, q queue, opts ...client.ListOption) {
	err := w.reader.List(ctx, list, append(opts, client.UnsafeDisableDeepCopy)...)
	if err == nil {
		err = meta.EachListItem(list, func(o runtime.Object) error {
			q.add(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o.(client.Object))})
			return ctx.Err()
		})
	}
	if err != nil && ctx.Err() == nil {
		w.log.Error(err, "cannot find the objects to wake; they are looked at at their next resync")
	}
}
