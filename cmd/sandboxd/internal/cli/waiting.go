package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/manifest"
)

// awaited is an object and what is waited for.
type awaited struct {
	kube.Resource
	namespace, name string
	goal            goal
}

func (w awaited) ref() string { return w.Ref(w.name) }

// waiter waits for the goals of many objects with one watch for each resource
// and namespace.
//
//	list ──▶ judge all ──▶ watch ──▶ judge each change ──▶ all met
//	  ▲                      │
//	  └── the server ended ──┘
type waiter struct {
	api      *kube.API
	progress *progress
	// met is told of each goal that is met, one at a time.
	met func(awaited)
}

// waitFor waits until all goals are met, one is stuck, or the time is up. A
// timeout of 0 looks once.
func (a *app) waitFor(ctx context.Context, api *kube.API, all []awaited, timeout time.Duration, met func(awaited)) error {
	if len(all) == 0 {
		return nil
	}
	p := newProgress(a.Err)
	defer p.close()
	w := &waiter{api: api, progress: p, met: func(o awaited) {
		p.above(func() { met(o) })
	}}
	for _, o := range all {
		p.set(o.ref(), "")
	}
	limited, cancel := context.WithTimeoutCause(ctx, max(timeout, time.Nanosecond), errTimeUp)
	defer cancel()
	groups, limited := errgroup.WithContext(limited)
	for _, group := range groupAwaited(all) {
		// Each is judged once even when the time is up already.
		groups.Go(func() error { return w.group(ctx, limited, group) })
	}
	return groups.Wait()
}

// errTimeUp is the cause of the end of a wait's context.
var errTimeUp = errors.New("time is up")

// groupAwaited groups what one watch can see.
func groupAwaited(all []awaited) [][]awaited {
	type key struct {
		resource  string
		namespace string
	}
	at := map[key]int{}
	var groups [][]awaited
	for _, o := range all {
		k := key{o.String(), o.namespace}
		i, ok := at[k]
		if !ok {
			i = len(groups)
			at[k] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], o)
	}
	return groups
}

// group waits for objects of one resource and namespace. asking bounds the
// requests that must be made in any case, limited the wait.
func (w *waiter) group(asking, limited context.Context, all []awaited) error {
	pending := map[string]awaited{}
	for _, o := range all {
		pending[o.name] = o
	}
	whys := map[string]state{}
	objects := w.api.Objects(all[0].Resource, all[0].namespace)
	options := metav1.ListOptions{}
	if len(all) == 1 {
		options.FieldSelector = "metadata.name=" + all[0].name
	}
	for {
		list, err := objects.List(asking, options)
		if err != nil {
			return err
		}
		found := map[string]*unstructured.Unstructured{}
		for i := range list.Items {
			found[list.Items[i].GetName()] = &list.Items[i]
		}
		for _, o := range all {
			if err := w.judge(pending, whys, o.name, found[o.name]); err != nil {
				return err
			}
		}
		if len(pending) == 0 {
			return nil
		}
		err = w.watch(limited, objects.Watch, options, list.GetResourceVersion(), pending, whys)
		switch {
		case len(pending) == 0 || err != nil && !errors.Is(err, errWatchEnded):
			return err
		case limited.Err() != nil:
			return w.timedOut(limited, all, pending, whys)
		}
		select {
		case <-limited.Done():
		case <-time.After(rewatchDelay):
		}
	}
}

// errWatchEnded: the server or the time ended a watch.
var errWatchEnded = errors.New("the watch ended")

type watchFunc func(context.Context, metav1.ListOptions) (watch.Interface, error)

// watch judges changes until nothing is pending or the watch ends.
func (w *waiter) watch(ctx context.Context, open watchFunc, o metav1.ListOptions, after string, pending map[string]awaited, whys map[string]state) error {
	o.ResourceVersion = after
	events, err := open(ctx, o)
	if err != nil {
		if ctx.Err() != nil || apierrors.IsResourceExpired(err) {
			return errWatchEnded
		}
		return err
	}
	defer events.Stop()
	for {
		select {
		case <-ctx.Done():
			return errWatchEnded
		case e, ok := <-events.ResultChan():
			if !ok || e.Type == watch.Error {
				return errWatchEnded
			}
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Bookmark {
				continue
			}
			name := u.GetName()
			if e.Type == watch.Deleted {
				u = nil
			}
			if err := w.judge(pending, whys, name, u); err != nil || len(pending) == 0 {
				return err
			}
		}
	}
}

// judge judges one object.
func (w *waiter) judge(pending map[string]awaited, whys map[string]state, name string, u *unstructured.Unstructured) error {
	o, ok := pending[name]
	if !ok {
		return nil
	}
	s := o.goal(u)
	s.why = strings.TrimPrefix(s.why, fmt.Sprintf("%s %s/%s: ", strings.ToLower(o.Kind.Kind), o.namespace, o.name)) // it is named already
	switch {
	case s.met:
		delete(pending, name)
		w.progress.done(o.ref())
		w.met(o)
	case s.stuck:
		return fmt.Errorf("%s: %s", o.ref(), s.why)
	default:
		whys[name] = s
		w.progress.set(o.ref(), s.why)
	}
	return nil
}

// timedOut says what the first of the pending objects waits for.
func (w *waiter) timedOut(ctx context.Context, all []awaited, pending map[string]awaited, whys map[string]state) error {
	if cause := context.Cause(ctx); !errors.Is(cause, errTimeUp) {
		return cause
	}
	for _, o := range all {
		if _, ok := pending[o.name]; !ok {
			continue
		}
		why := ""
		if words := whys[o.name].words(time.Now()); words != "" {
			why = ": " + words
		}
		return fmt.Errorf("timed out waiting for %s%s%s", o.ref(), more(len(pending)-1, "object", "objects"), why)
	}
	return nil
}

// waitForTargets waits until manifests are so.
func (a *app) waitForTargets(ctx context.Context, api *kube.API, targets []target, timeout time.Duration) error {
	var all []awaited
	for _, group := range manifest.InOrder(targets) {
		for _, t := range group {
			if s := goalApplied(t.Unstructured); !s.met { // kinds with nothing to wait for
				all = append(all, awaited{t.Resource, t.GetNamespace(), t.GetName(), goalApplied})
			}
		}
	}
	return a.waitFor(ctx, api, all, timeout, func(awaited) {})
}

// waitGone waits until objects are gone.
func (a *app) waitGone(ctx context.Context, api *kube.API, r kube.Resource, objects []*unstructured.Unstructured, timeout time.Duration) error {
	var all []awaited
	for _, u := range objects {
		all = append(all, awaited{r, u.GetNamespace(), u.GetName(), goalGone(string(u.GetUID()))})
	}
	return a.waitFor(ctx, api, all, timeout, func(awaited) {})
}
