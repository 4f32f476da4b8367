package apiserver_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/apiserver"
)

func coreEvent(name, about string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"name":%q,"creationTimestamp":null},"involvedObject":{"kind":"Sandbox","namespace":"default","name":%q},
		"reason":"Started","message":"it runs","type":"Normal","source":{"component":"c"},"firstTimestamp":"2026-01-01T00:00:00Z","lastTimestamp":"2026-01-01T00:00:01Z","count":2,"eventTime":null,"reportingComponent":"c","reportingInstance":"i"}`, name, about)
}

func TestEvents(t *testing.T) {
	a := newAPI(t)
	a.do("POST", events, coreEvent("one", "a")).want(201)
	view := a.get(eventsView + "/one").want(200)
	for path, want := range map[string]any{
		"apiVersion": "events.k8s.io/v1", "note": "it runs", "reason": "Started", "regarding.name": "a",
		"deprecatedSource.component": "c", "deprecatedCount": int64(2), "reportingController": "c", "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z",
	} {
		if got := view.field(strings.Split(path, ".")...); got != want {
			t.Errorf("%s is %v in the other form where %v was expected", path, got, want)
		}
	}
	if view.field("message") != nil || view.field("involvedObject") != nil {
		t.Errorf("the other form is %s", view.body)
	}
	a.do("POST", eventsView, `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"two"},"eventTime":"2026-01-01T00:00:00.123456Z","reportingController":"c",
		"reportingInstance":"i","action":"Start","reason":"Failed","note":"it does not run","type":"Warning","regarding":{"kind":"Sandbox","namespace":"default","name":"b"}}`).want(201)
	core := a.get(events + "/two").want(200)
	if core.field("message") != "it does not run" || core.field("involvedObject", "name") != "b" || core.field("eventTime") != "2026-01-01T00:00:00.123456Z" {
		t.Errorf("the core form is %s", core.body)
	}
	// kubectl sorts by a time only where some event has it, if only as null.
	for _, name := range []string{"firstTimestamp", "lastTimestamp"} {
		if !strings.Contains(string(core.body), `"`+name+`":null`) {
			t.Errorf("the core form has no %s: %s", name, core.body)
		}
	}
	for query, want := range map[string][]string{
		events + "?fieldSelector=involvedObject.name=a":                               {"one"},
		events + "?fieldSelector=involvedObject.kind=Sandbox,type=Warning":            {"two"},
		events + "?fieldSelector=reason=Started":                                      {"one"},
		eventsView + "?fieldSelector=regarding.name=b":                                {"two"},
		eventsView + "?fieldSelector=reportingController=c":                           {"one", "two"},
		"/apis/events.k8s.io/v1/events?fieldSelector=type=Normal":                     {"one"},
		"/api/v1/events?fieldSelector=involvedObject.uid=,metadata.namespace=default": {"one", "two"},
	} {
		if got := a.get(query).want(200).names(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s lists %v where %v was expected", query, got, want)
		}
	}
	if got := a.get(eventsView).want(200); got.field("kind") != "EventList" || got.field("apiVersion") != "events.k8s.io/v1" || got.field("items").([]any)[0].(map[string]any)["note"] != "it runs" {
		t.Errorf("the list is %s", got.body)
	}
	a.get(events+"?fieldSelector=regarding.name=a").refused(400, "BadRequest")
	a.do("POST", events, strings.Replace(coreEvent("three", "a"), `"namespace":"default"`, `"namespace":"other"`, 1)).refused(422, "Invalid", "does not match the event's namespace default")
	a.do("POST", events, strings.Replace(coreEvent("image", "a"), `"namespace":"default",`, ``, 1)).want(201)

	a.patch(mergePatch, events+"/one", `{"count":3}`).want(200)
	u := a.get(eventsView + "/one").object()
	u.Object["note"] = "changed"
	a.do("PUT", eventsView+"/one", u.Object).want(200)
	if got := a.get(events + "/one"); got.field("message") != "changed" || got.field("count") != int64(3) {
		t.Errorf("the event is %s", got.body)
	}
	shown := a.do("GET", events, nil, "Accept", asTable).want(200).table()
	if !reflect.DeepEqual(shown.columns(), []string{"Last Seen", "Type", "Reason", "Object", "First Seen", "Count", "Name", "Message"}) {
		t.Errorf("the columns are %v", shown.columns())
	}
	if cells := shown.Rows[1].Cells; cells[1] != "Normal" || cells[3] != "sandbox/a" || cells[5] != float64(3) {
		t.Errorf("the cells are %v", cells)
	}
	a.do("DELETE", eventsView+"/one", nil).want(200)
	a.get(events+"/one").refused(404, "NotFound")
}

func TestEventWatchView(t *testing.T) {
	a, server := newWatched(t)
	w := watch(t, server, eventsView+"?watch=true&fieldSelector=regarding.name=a")
	a.do("POST", events, coreEvent("other", "b")).want(201)
	a.do("POST", events, coreEvent("one", "a")).want(201)
	a.do("DELETE", events+"/one", nil).want(200)
	got := w.want("ADDED one", "DELETED one")
	if got[0].Object["note"] != "it runs" || got[0].Object["apiVersion"] != "events.k8s.io/v1" {
		t.Errorf("the event is %v", got[0])
	}
}

// TestEventsExpire checks that events go some time after their last write, and
// that the sweeper sleeps in between.
func TestEventsExpire(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	a := newAPI(t, func(o *apiserver.Options) { o.Clock, o.EventTTL = clock, time.Hour })
	if clock.HasWaiters() {
		t.Error("the sweeper waits although there are no events")
	}
	a.do("POST", events, coreEvent("old", "a")).want(201)
	eventually(t, "the sweeper waits", clock.HasWaiters)
	clock.Step(40 * time.Minute)
	a.do("POST", events, coreEvent("young", "a")).want(201)
	clock.Step(21 * time.Minute)
	eventually(t, "the old event is gone", func() bool { return reflect.DeepEqual(a.get(events).names(), []string{"young"}) })
	eventually(t, "the sweeper waits", clock.HasWaiters)
	clock.Step(40 * time.Minute)
	eventually(t, "the young event is gone", func() bool { return len(a.get(events).names()) == 0 })
	eventually(t, "the sweeper sleeps", func() bool { return !clock.HasWaiters() })
}

// TestEventsAreBounded: an object that is told of in ever new words pushes out its own
// oldest events, while nobody waits for their time.
func TestEventsAreBounded(t *testing.T) {
	a := newAPI(t)
	a.do("POST", events, coreEvent("quiet", "b")).want(201)
	const written, most = 600, 64 + 128
	for i := range written {
		a.do("POST", events, coreEvent(fmt.Sprintf("e%d", i), "a")).want(201)
	}
	eventually(t, "there are few events", func() bool { return len(a.get(events).want(200).names()) <= most })
	a.get(events + "/quiet").want(200)
	a.get(fmt.Sprintf("%s/e%d", events, written-1)).want(200)
	a.get(events+"/e0").refused(404, "NotFound")
}
