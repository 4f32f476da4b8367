package clients_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"sandboxd.dev/sandboxd/test/daemon"
)

var (
	sandboxes = schema.GroupVersionResource{Group: "sandboxd.dev", Version: "v1", Resource: "sandboxes"}
	secrets   = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// told is what an informer told, held against what informers promise.
type told struct {
	mu     sync.Mutex
	known  map[string]string // the resource version of every object that was added and not deleted
	uids   map[string]types.UID
	counts map[string]int
	wrong  []string
}

func newTold() *told {
	return &told{known: map[string]string{}, uids: map[string]types.UID{}, counts: map[string]int{}}
}

func (r *told) add(what string, obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	o, err := meta.Accessor(obj)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
		return
	}
	key := o.GetNamespace() + "/" + o.GetName()
	r.counts[what]++
	known, ok := r.known[key]
	switch what {
	case "added":
		if ok {
			r.wrong = append(r.wrong, key+" was added twice")
		}
		r.known[key], r.uids[key] = o.GetResourceVersion(), o.GetUID()
	case "updated":
		if !ok {
			r.wrong = append(r.wrong, key+" was updated and never added")
		}
		if number(o.GetResourceVersion()) < number(known) {
			r.wrong = append(r.wrong, fmt.Sprintf("%s went back from version %s to %s", key, known, o.GetResourceVersion()))
		}
		r.known[key] = o.GetResourceVersion()
	case "deleted":
		if !ok {
			r.wrong = append(r.wrong, key+" was deleted and never added")
		}
		delete(r.known, key)
	}
}

func number(version string) uint64 {
	n, _ := strconv.ParseUint(version, 10, 64)
	return n
}

func (r *told) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { r.add("added", obj) },
		UpdateFunc: func(_, obj any) { r.add("updated", obj) },
		DeleteFunc: func(obj any) { r.add("deleted", obj) },
	}
}

// is compares what was told with what is there.
func (r *told) is(there map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 {
		return fmt.Errorf("%d wrong: %v", len(r.wrong), r.wrong)
	}
	return same("told", r.known, there)
}

func same(what string, got, want map[string]string) error {
	if !maps.Equal(got, want) {
		return fmt.Errorf("%s: %v\nis not\n%v", what, got, want)
	}
	return nil
}

// asked counts requests by their kind.
type asked struct {
	mu    sync.Mutex
	count map[string]int
	under http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.count[kindOf(r.URL.Query())]++
	a.mu.Unlock()
	return a.under.RoundTrip(r)
}

func kindOf(query url.Values) string {
	switch {
	case query.Get("sendInitialEvents") == "true":
		return "watch-list"
	case query.Get("watch") != "":
		return "watch"
	default:
		return "list"
	}
}

// TestInformers: shared informers of two kinds, of whole objects and of metadata only,
// live through the death of the daemon: everything that was acknowledged arrives, nothing
// is added twice, and in the end their caches are what a fresh list is.
func TestInformers(t *testing.T) {
	d := daemon.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	config := d.REST()
	requests := &asked{count: map[string]int{}}
	watching := rest.CopyConfig(config)
	watching.Wrap(func(under http.RoundTripper) http.RoundTripper {
		requests.under = under
		return requests
	})
	writer, err := dynamic.NewForConfig(config)
	must(t, err)
	whole, err := dynamic.NewForConfig(watching)
	must(t, err)
	partial, err := metadata.NewForConfig(config)
	must(t, err)

	dynamics := dynamicinformer.NewDynamicSharedInformerFactory(whole, 0)
	partials := metadatainformer.NewSharedInformerFactory(partial, 0)
	informers := map[string]cache.SharedIndexInformer{
		"sandboxes": dynamics.ForResource(sandboxes).Informer(), "secrets": dynamics.ForResource(secrets).Informer(),
		"metadata of sandboxes": partials.ForResource(sandboxes).Informer(), "metadata of secrets": partials.ForResource(secrets).Informer(),
	}
	records := map[string]*told{}
	for name, informer := range informers {
		records[name] = newTold()
		_, err := informer.AddEventHandler(records[name].handler())
		must(t, err)
	}
	makeSecret(t, writer, "before")
	dynamics.Start(ctx.Done())
	partials.Start(ctx.Done())
	for name, informer := range informers {
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			t.Fatalf("the cache of %s never has all", name)
		}
	}
	if requests.count["watch-list"] < 2 || requests.count["list"] > 0 {
		t.Errorf("the first lists were asked for as %v: a current client-go asks for lists by watches", requests.count)
	}

	ends := []func(){d.Kill, d.Stop, d.Kill}
	for round, end := range ends {
		work(t, writer, round, "up")
		var dying sync.WaitGroup
		dying.Go(func() { work(t, writer, round, "dying") })
		end()
		d.Resume()
		dying.Wait()
		eventually(t, fmt.Sprintf("after death %d all is known", round), func() error { return all(writer, informers, records) })
	}
	for name, r := range records {
		if r.counts["added"] == 0 || r.counts["updated"] == 0 || r.counts["deleted"] == 0 {
			t.Errorf("informer of %s was told %v", name, r.counts)
		}
		t.Logf("informer of %s: %v", name, r.counts)
	}
}

// all holds every informer's cache, and what it told, against a fresh list.
func all(client dynamic.Interface, informers map[string]cache.SharedIndexInformer, records map[string]*told) error {
	for name, informer := range informers {
		resource := secrets
		if name == "sandboxes" || name == "metadata of sandboxes" {
			resource = sandboxes
		}
		list, err := client.Resource(resource).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		there, cached := map[string]string{}, map[string]string{}
		for _, o := range list.Items {
			there[o.GetNamespace()+"/"+o.GetName()] = o.GetResourceVersion()
		}
		for _, obj := range informer.GetStore().List() {
			o, err := meta.Accessor(obj)
			if err != nil {
				return err
			}
			cached[o.GetNamespace()+"/"+o.GetName()] = o.GetResourceVersion()
		}
		if err := same("cache of "+name, cached, there); err != nil {
			return err
		}
		if err := records[name].is(there); err != nil {
			return fmt.Errorf("informer of %s: %w", name, err)
		}
	}
	return nil
}

func makeSecret(t testing.TB, client dynamic.Interface, name string) {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name}}}
	acknowledged(t, "create secret "+name, func(ctx context.Context) error {
		_, err := client.Resource(secrets).Namespace("default").Create(ctx, o, metav1.CreateOptions{})
		return err
	}, apierrors.IsAlreadyExists)
}

// work creates, changes and deletes objects of both kinds; every write is repeated until
// it is acknowledged.
func work(t testing.TB, client dynamic.Interface, round int, when string) {
	for i := range 20 {
		name := fmt.Sprintf("%s-%d-%d", when, round, i)
		makeSecret(t, client, name)
		sandbox := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox", "metadata": map[string]any{"name": name},
			"spec": map[string]any{"image": "none", "powerState": "Stopped"},
		}}
		acknowledged(t, "create sandbox "+name, func(ctx context.Context) error {
			_, err := client.Resource(sandboxes).Namespace("default").Create(ctx, sandbox, metav1.CreateOptions{})
			return err
		}, apierrors.IsAlreadyExists)
		for _, resource := range []schema.GroupVersionResource{secrets, sandboxes} {
			objects := client.Resource(resource).Namespace("default")
			acknowledged(t, "label "+name, func(ctx context.Context) error {
				_, err := objects.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"round":"`+strconv.Itoa(round)+`"}}}`), metav1.PatchOptions{})
				return err
			})
			if i%2 == 0 {
				acknowledged(t, "delete "+name, func(ctx context.Context) error { return objects.Delete(ctx, name, metav1.DeleteOptions{}) }, apierrors.IsNotFound)
			}
		}
	}
}
