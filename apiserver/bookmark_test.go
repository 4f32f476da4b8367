package apiserver_test

import (
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/apiserver"
)

// TestBookmarks: a client that selects little learns how far it is.
func TestBookmarks(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	a, server := newWatched(t, func(o *apiserver.Options) { o.Clock = clock })
	first := a.do("POST", sandboxes, sandbox("one")).want(201).object().GetResourceVersion()
	base := sandboxes + "?watch=true&fieldSelector=metadata.name%3Dother&resourceVersion=" + first
	w := watch(t, server, base+"&allowWatchBookmarks=true")
	quiet := watch(t, server, base+"&timeoutSeconds=1")
	last := a.do("POST", sandboxes, sandbox("two")).want(201).object().GetResourceVersion()
	// The event may not have been looked at yet when the time comes.
	events := make(chan event, 1)
	go func() { events <- w.next() }()
	eventually(t, "a bookmark came", func() bool {
		select {
		case e := <-events:
			if e.String() != "BOOKMARK <nil>" || e.version() != last || e.Object["kind"] != "Sandbox" {
				t.Errorf("the event is %v", e)
			}
			return true
		default:
			clock.Step(time.Minute)
			return false
		}
	})
	quiet.ended() // it asked for no bookmarks
	// The end of a watch says how far it went, if it had the time to go anywhere.
	eventually(t, "the end of a watch says how far it went", func() bool {
		end := watch(t, server, base+"&allowWatchBookmarks=true&timeoutSeconds=1")
		var e event
		if err := end.decoder.Decode(&e); err != nil {
			return false
		}
		if e.String() != "BOOKMARK <nil>" || e.version() != last {
			t.Errorf("the event is %v", e)
		}
		end.ended()
		return true
	})
}
