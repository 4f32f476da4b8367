package apiserver_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/store/bolt"
)

// TestWatchExpired checks the answer to a version that the log has lost.
func TestWatchExpired(t *testing.T) {
	st, err := bolt.Open(t.TempDir()+"/store.db", bolt.Options{WatchEvents: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	a, server := newWatched(t, func(o *apiserver.Options) { o.Store = st })
	version := a.do("POST", sandboxes, sandbox("a")).want(201).object().GetResourceVersion()
	for i := range 10 {
		a.patch(mergePatch, sandboxes+"/a", fmt.Sprintf(`{"metadata":{"labels":{"i":"%d"}}}`, i)).want(200)
	}
	w := watch(t, server, sandboxes+"?watch=true&resourceVersion="+version)
	if e := w.want("ERROR Expired")[0]; e.Object["code"] != float64(410) || e.Object["kind"] != "Status" {
		t.Errorf("the error is %v", e)
	}
	w.ended()
}

func TestWatchTimeout(t *testing.T) {
	_, server := newWatched(t)
	watch(t, server, sandboxes+"?watch=true&timeoutSeconds=1").ended()
}

// TestWatchDeadlines checks that each write of a watch gets time of its own,
// and so does the end of the stream, however long nothing happened.
func TestWatchDeadlines(t *testing.T) {
	a := newAPI(t)
	a.do("POST", sandboxes, sandbox("a")).want(201)
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	a.handler.ServeHTTP(w, httptest.NewRequest("GET", sandboxes+"?watch=true&timeoutSeconds=1", nil))
	if n := len(w.write); n < 3 {
		t.Fatalf("%d deadlines were set", n)
	}
	if idle := w.write[len(w.write)-1].Sub(w.write[0]); idle < time.Second {
		t.Errorf("the end of the stream has the deadline of what was written before it: %v later", idle)
	}
}

// TestSlowWatcher checks that a client that reads nothing neither holds up
// writers nor makes the server keep what it does not read.
func TestSlowWatcher(t *testing.T) {
	st, err := bolt.Open(t.TempDir()+"/store.db", bolt.Options{WatchEvents: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	counted := &countingStore{Store: st}
	a, server := newWatched(t, func(o *apiserver.Options) { o.Store = counted })
	slow := watch(t, server, sandboxes+"?watch=true")
	big := strings.Repeat("x", 200_000)
	const writes = 100 // far more than the buffers of a connection
	a.do("POST", sandboxes, with(sandbox("a"), big, "metadata", "annotations", "big")).want(201)
	for i := range writes {
		a.patch(mergePatch, sandboxes+"/a", fmt.Sprintf(`{"metadata":{"labels":{"i":"%d"}}}`, i)).want(200)
	}
	// When it reads at last, its watch has been dropped.
	events := 0
	for {
		var e event
		if err := slow.decoder.Decode(&e); err != nil {
			break
		}
		events++
	}
	if events > writes {
		t.Errorf("a watcher that read nothing got all %d events", events)
	}
	eventually(t, "the watch is closed", func() bool { return counted.open.Load() == 0 })
}

// countingStore counts the watches that are open.
type countingStore struct {
	store.Store
	open atomic.Int64
}

func (s *countingStore) Watch(ctx context.Context, resource string, after int64) (store.Watcher, error) {
	w, err := s.Store.Watch(ctx, resource, after)
	if err != nil {
		return nil, err
	}
	s.open.Add(1)
	return &countedWatcher{Watcher: w, done: func() { s.open.Add(-1) }}, nil
}

type countedWatcher struct {
	store.Watcher
	done    func()
	stopped atomic.Bool
}

func (w *countedWatcher) Stop() {
	if w.stopped.CompareAndSwap(false, true) {
		w.done()
	}
	w.Watcher.Stop()
}

// TestWatchClosed checks that the store's watch ends with the client's.
func TestWatchClosed(t *testing.T) {
	counted := &countingStore{Store: openStore(t)}
	a, server := newWatched(t, func(o *apiserver.Options) { o.Store = counted })
	a.do("POST", sandboxes, sandbox("a")).want(201)
	var watchers []*watcher
	for range 10 {
		w := watch(t, server, sandboxes+"?watch=true")
		w.want("ADDED a")
		watchers = append(watchers, w)
	}
	if n := counted.open.Load(); n != 10 {
		t.Errorf("%d watches are open", n)
	}
	for _, w := range watchers {
		w.stop()
	}
	eventually(t, "all watches are closed", func() bool { return counted.open.Load() == 0 })
}

// TestWatchOrder checks that a watch that begins anywhere tells the same story
// as the lists do.
func TestWatchOrder(t *testing.T) {
	a, server := newWatched(t)
	const writers, each = 4, 15
	done := make(chan struct{})
	go func() {
		defer close(done)
		finished := make(chan struct{})
		for w := range writers {
			go func() {
				defer func() { finished <- struct{}{} }()
				for i := range each {
					name := fmt.Sprintf("w%d-%d", w, i)
					a.do("POST", sandboxes, sandbox(name))
					a.patch(mergePatch, sandboxes+"/"+name, `{"spec":{"cpus":2}}`)
					if i%2 == 0 {
						a.do("DELETE", sandboxes+"/"+name, nil)
					}
				}
			}()
		}
		for range writers {
			<-finished
		}
	}()
	time.Sleep(20 * time.Millisecond) // into the middle of it
	w := watch(t, server, sandboxes+"?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan")
	<-done
	final := a.get(sandboxes)
	wanted := map[string]string{}
	for _, item := range final.field("items").([]any) {
		meta := item.(map[string]any)["metadata"].(map[string]any)
		wanted[meta["name"].(string)] = meta["resourceVersion"].(string)
	}
	a.do("POST", sandboxes, sandbox("end")).want(201)
	seen := map[string]string{}
	for {
		e := w.next()
		if e.Type == "BOOKMARK" {
			continue
		}
		name := e.Object["metadata"].(map[string]any)["name"].(string)
		if name == "end" {
			break
		}
		_, known := seen[name]
		switch {
		case e.Type == "ADDED" && !known, e.Type == "MODIFIED" && known:
			seen[name] = e.version()
		case e.Type == "DELETED" && known:
			delete(seen, name)
		default:
			t.Fatalf("%v of an object that is known: %v", e, known)
		}
	}
	if !reflect.DeepEqual(seen, wanted) {
		t.Errorf("the watch tells of\n%v and the list of\n%v", seen, wanted)
	}
}
