package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"sandboxd.dev/sandboxd/apiserver"
)

// event is a watch event as clients read it.
type event struct {
	Type   string
	Object map[string]any
}

// String is the event in short: its type, name and whether it says something
// special.
func (e event) String() string {
	meta, _ := e.Object["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	switch e.Type {
	case "BOOKMARK":
		annotations, _ := meta["annotations"].(map[string]any)
		return fmt.Sprintf("BOOKMARK %v", annotations["k8s.io/initial-events-end"])
	case "ERROR":
		return fmt.Sprintf("ERROR %v", e.Object["reason"])
	}
	return e.Type + " " + name
}

func (e event) version() string {
	return e.Object["metadata"].(map[string]any)["resourceVersion"].(string)
}

// watcher reads the events of a watch over a real connection.
type watcher struct {
	t       *testing.T
	decoder *json.Decoder
	stop    func()
}

// watch opens a watch, which must be answered with 200.
func watch(t *testing.T, server *httptest.Server, path string, headers ...string) *watcher {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 200 {
		t.Fatalf("%s was answered with %d", path, response.StatusCode)
	}
	w := &watcher{t: t, decoder: json.NewDecoder(response.Body), stop: func() { cancel(); _ = response.Body.Close() }}
	t.Cleanup(w.stop)
	return w
}

// next reads one event.
func (w *watcher) next() event {
	w.t.Helper()
	var e event
	if err := w.decoder.Decode(&e); err != nil {
		w.t.Fatalf("the watch ended: %v", err)
	}
	return e
}

// want reads events and compares them in short.
func (w *watcher) want(wanted ...string) []event {
	w.t.Helper()
	var events []event
	for _, short := range wanted {
		e := w.next()
		if e.String() != short {
			w.t.Fatalf("the event is %q where %q was expected: %v", e, short, e.Object)
		}
		events = append(events, e)
	}
	return events
}

// ended fails the test unless the watch ends without another event.
func (w *watcher) ended() {
	w.t.Helper()
	var e event
	if err := w.decoder.Decode(&e); err == nil {
		w.t.Fatalf("the watch goes on with %v", e)
	}
}

// served is a server with a handler to send requests to, and to watch.
func newWatched(t *testing.T, change ...func(*apiserver.Options)) (api, *httptest.Server) {
	t.Helper()
	a := newAPI(t, change...)
	server := httptest.NewServer(a.handler)
	t.Cleanup(server.Close)
	return a, server
}

func TestWatch(t *testing.T) {
	a, server := newWatched(t)
	a.do("POST", sandboxes, sandbox("old")).want(201)
	version := a.get(sandboxes).object().GetResourceVersion()

	fromStart := watch(t, server, sandboxes+"?watch=true")
	fromZero := watch(t, server, sandboxes+"?watch&resourceVersion=0")
	since := watch(t, server, sandboxes+"?watch=1&resourceVersion="+version)
	everywhere := watch(t, server, allSandboxes+"?watch=true&resourceVersion="+version)
	elsewhere := watch(t, server, "/apis/sandboxd.dev/v1/namespaces/other/sandboxes?watch=true&resourceVersion="+version)
	fromStart.want("ADDED old")
	fromZero.want("ADDED old")

	held := sandbox("new")
	held.SetFinalizers([]string{"example.com/a"})
	created := a.do("POST", sandboxes, held).want(201).object()
	changed := a.patch(mergePatch, sandboxes+"/new/status", `{"status":{"phase":"Running"}}`).want(200).object()
	a.do("DELETE", sandboxes+"/new", nil).want(200)
	a.patch(mergePatch, sandboxes+"/new", `{"metadata":{"finalizers":null}}`).want(200)
	a.do("DELETE", sandboxes+"/old", nil).want(200)
	for _, w := range []*watcher{fromStart, fromZero, since, everywhere} {
		events := w.want("ADDED new", "MODIFIED new", "MODIFIED new", "DELETED new", "DELETED old")
		if got := events[0].version(); got != created.GetResourceVersion() {
			t.Errorf("the creation has version %s where %s was expected", got, created.GetResourceVersion())
		}
		if got := events[1]; got.version() != changed.GetResourceVersion() || got.Object["status"].(map[string]any)["phase"] != "Running" || got.Object["kind"] != "Sandbox" {
			t.Errorf("the change is %v", got)
		}
		// A deletion has the version of the deletion, later than any before.
		var last int64
		for _, e := range events {
			var version int64
			if _, err := fmt.Sscan(e.version(), &version); err != nil || version <= last {
				t.Errorf("version %q follows %d", e.version(), last)
			}
			last = version
		}
	}
	a.do("POST", namespaces, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"other"}}`).want(201)
	a.do("POST", "/apis/sandboxd.dev/v1/namespaces/other/sandboxes", sandbox("there")).want(201)
	elsewhere.want("ADDED there")
	everywhere.want("ADDED there")
}

func TestWatchSelectors(t *testing.T) {
	a, server := newWatched(t)
	a.do("POST", sandboxes, with(sandbox("a"), "red", "metadata", "labels", "color")).want(201)
	a.do("POST", sandboxes, sandbox("b")).want(201)
	red := watch(t, server, sandboxes+"?watch=true&labelSelector=color=red")
	named := watch(t, server, sandboxes+"?watch=true&fieldSelector=metadata.name=b")
	imaged := watch(t, server, sandboxes+"?watch=true&fieldSelector=spec.image=tiny,metadata.name!=a")
	red.want("ADDED a")
	named.want("ADDED b")
	imaged.want("ADDED b")

	a.patch(mergePatch, sandboxes+"/b", `{"metadata":{"labels":{"color":"red"}}}`).want(200) // begins to match
	left := a.patch(mergePatch, sandboxes+"/a", `{"metadata":{"labels":{"color":"blue"}}}`).want(200).object()
	a.patch(mergePatch, sandboxes+"/a", `{"spec":{"cpus":2}}`).want(200) // never matched
	a.patch(mergePatch, sandboxes+"/b", `{"spec":{"cpus":2}}`).want(200)
	a.do("DELETE", sandboxes+"/a", nil).want(200)
	a.do("DELETE", sandboxes+"/b", nil).want(200)
	events := red.want("ADDED b", "DELETED a", "MODIFIED b", "DELETED b")
	// One that ceases to match is deleted as it is now.
	if got := events[1]; got.version() != left.GetResourceVersion() || got.Object["metadata"].(map[string]any)["labels"].(map[string]any)["color"] != "blue" {
		t.Errorf("what ceases to match is deleted as %v", got)
	}
	named.want("MODIFIED b", "MODIFIED b", "DELETED b")
	imaged.want("MODIFIED b", "MODIFIED b", "DELETED b")
}

func TestWatchList(t *testing.T) {
	a, server := newWatched(t)
	a.do("POST", sandboxes, sandbox("a")).want(201)
	a.do("POST", sandboxes, sandbox("b")).want(201)
	version := a.get(sandboxes).object().GetResourceVersion()
	for _, query := range []string{"", "&resourceVersion=0", "&resourceVersion=1"} {
		w := watch(t, server, sandboxes+"?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"+query)
		events := w.want("ADDED a", "ADDED b", "BOOKMARK true")
		mark := events[2]
		if mark.version() != version || mark.Object["kind"] != "Sandbox" || mark.Object["apiVersion"] != "sandboxd.dev/v1" {
			t.Errorf("the bookmark is %v where version %s was expected", mark, version)
		}
	}
	// Without leave for bookmarks there is none; false means from now on.
	quiet := watch(t, server, sandboxes+"?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
	none := watch(t, server, sandboxes+"?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan")
	partial := watch(t, server, sandboxes+"?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan", "Accept", asPartial)
	quiet.want("ADDED a", "ADDED b")
	if mark := partial.want("ADDED a", "ADDED b", "BOOKMARK true")[2]; mark.Object["kind"] != "PartialObjectMetadata" || mark.version() != version {
		t.Errorf("the bookmark is %v", mark)
	}
	a.do("DELETE", sandboxes+"/a", nil).want(200)
	for _, w := range []*watcher{quiet, none, partial} {
		w.want("DELETED a")
	}
}

func TestWatchRefused(t *testing.T) {
	a := newAPI(t)
	cases := []struct {
		query        string
		code         int
		reason, part string
	}{
		{"resourceVersion=99999", 504, "Timeout", "Too large resource version"},
		{"resourceVersion=x", 400, "BadRequest", "not a version"},
		{"timeoutSeconds=x", 400, "BadRequest", "timeoutSeconds"},
		{"sendInitialEvents=true", 422, "Invalid", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{"resourceVersionMatch=NotOlderThan", 422, "Invalid", "forbidden for watch unless sendInitialEvents"},
		{"allowWatchBookmarks=maybe", 400, "BadRequest", "neither true nor false"},
		{"fieldSelector=spec.cpus=1", 400, "BadRequest", "cannot be selected"},
	}
	for _, c := range cases {
		a.get(sandboxes+"?watch=true&"+c.query).refused(c.code, c.reason, c.part)
	}
	a.do("GET", sandboxes+"?watch=true", nil, "Accept", "application/yaml").refused(406, "NotAcceptable", "application/json")
}

func TestWatchTable(t *testing.T) {
	a, server := newWatched(t)
	a.do("POST", sandboxes, sandbox("a")).want(201)
	w := watch(t, server, sandboxes+"?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan", "Accept", asTable)
	row := func(e event) (columns int, cells []any) {
		if e.Object["kind"] != "Table" {
			t.Fatalf("no table: %v", e)
		}
		return len(e.Object["columnDefinitions"].([]any)), e.Object["rows"].([]any)[0].(map[string]any)["cells"].([]any)
	}
	first := w.next()
	if columns, cells := row(first); first.Type != "ADDED" || columns != 12 || cells[0] != "a" {
		t.Errorf("the first event is %v", first)
	}
	mark := w.next()
	if mark.Type != "BOOKMARK" || mark.version() == "" {
		t.Errorf("the bookmark is %v", mark)
	}
	carried := mark.Object["rows"].([]any)[0].(map[string]any)["object"].(map[string]any)
	if carried["metadata"].(map[string]any)["annotations"].(map[string]any)["k8s.io/initial-events-end"] != "true" {
		t.Errorf("the bookmark carries %v", carried)
	}
	a.do("POST", sandboxes, sandbox("b")).want(201)
	second := w.next()
	if columns, cells := row(second); second.Type != "ADDED" || columns != 0 || cells[0] != "b" {
		t.Errorf("the second event is %v", second)
	}
}
