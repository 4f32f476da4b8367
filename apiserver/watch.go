package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"

	"sandboxd.dev/sandboxd/store"
)

const (
	// watchWriteTimeout ends a watch whose client takes nothing for so long.
	watchWriteTimeout = 30 * time.Second
	// maxWatchTimeout is the longest a watch lasts when the client names no
	// shorter time. Ends are spread so that watches do not all return at once.
	maxWatchTimeout = time.Hour
	// maxSnapshotTries bounds how often a watch that begins with a snapshot
	// starts over because the log no longer reached back to it.
	maxSnapshotTries = 8
)

// watchOptions are the parameters of a watch.
type watchOptions struct {
	after     int64 // watch from behind this revision; meaningless with initial
	initial   bool  // begin with the objects there are
	announce  bool  // end those with a bookmark that says so
	bookmarks bool
	timeout   time.Duration
}

// newWatchOptions reads the parameters of a watch:
//
//	resourceVersion  sendInitialEvents  begins with
//	"" or 0          unset              the objects there are
//	"" or 0          false              what happens from now on
//	any              true               the objects there are, then a bookmark
//	N                unset, false       what happened behind revision N
func newWatchOptions(query url.Values) (watchOptions, error) {
	o := watchOptions{timeout: maxWatchTimeout}
	var err error
	if o.after, err = queryRevision(query.Get("resourceVersion")); err != nil {
		return o, err
	}
	if o.bookmarks, err = queryBool(query, "allowWatchBookmarks"); err != nil {
		return o, err
	}
	if text := query.Get("timeoutSeconds"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if err != nil || seconds < 0 {
			return o, apierrors.NewBadRequest(fmt.Sprintf("timeoutSeconds %q is not a number of seconds", text))
		}
		if timeout := time.Duration(seconds) * time.Second; timeout > 0 && timeout < o.timeout {
			o.timeout = timeout
		}
	}
	if err := checkListOptions(query, true); err != nil {
		return o, err
	}
	if !query.Has("sendInitialEvents") {
		o.initial = o.after == 0
		return o, nil
	}
	if o.initial, err = queryBool(query, "sendInitialEvents"); err != nil {
		return o, err
	}
	o.announce = o.initial && o.bookmarks
	return o, nil
}

// watch streams the changes of a collection until the client, the time limit
// or the store ends it.
func (s *Server) watch(w http.ResponseWriter, rq *request) error {
	o, err := newWatchOptions(rq.query)
	if err != nil {
		return err
	}
	if err := s.checkReached(rq.query.Get("resourceVersion")); err != nil {
		return err
	}
	sel, err := newSelector(rq.resource, rq.namespace, rq.query)
	if err != nil {
		return err
	}
	if rq.accept.yaml {
		return notAcceptable(rq.Header.Get("Accept"), mediaJSON)
	}
	done, err := s.roomForWatch(rq.Request)
	if err != nil {
		return err
	}
	defer done()
	snapshot, watcher, err := s.openWatch(rq, o)
	if errors.Is(err, store.ErrCompacted) {
		// As an event, so that clients list again at once.
		stream := newStream(s, w, rq, sel)
		return stream.fail(expiredError(o.after))
	}
	if err != nil {
		return storeError(err, rq.resource.groupResource(), rq.name)
	}
	defer watcher.Stop()
	stream := newStream(s, w, rq, sel)
	// What net/http writes to end the stream needs time too, however long ago
	// the last event was.
	defer stream.extend()
	if o.initial {
		if err := stream.snapshot(snapshot, o.announce); err != nil {
			return stream.fail(err)
		}
	}
	if err := stream.flush(); err != nil {
		return nil // the client is gone
	}
	stream.seen, stream.told = o.after, o.after
	if o.initial {
		stream.seen = snapshot.Revision
	}
	if o.announce {
		stream.told = snapshot.Revision
	}
	return stream.follow(watcher, o)
}

// openWatch opens the store's watch and, when the client wants the objects
// there are, reads the snapshot that it goes on from.
func (s *Server) openWatch(rq *request, o watchOptions) (store.Snapshot, store.Watcher, error) {
	key := rq.resource.base().key
	if !o.initial {
		watcher, err := s.store.Watch(rq.Context(), key, o.after)
		return store.Snapshot{}, watcher, err
	}
	for try := 1; ; try++ {
		snapshot, err := s.store.List(rq.Context(), key, rq.namespace)
		if err != nil {
			return store.Snapshot{}, nil, err
		}
		watcher, err := s.store.Watch(rq.Context(), key, snapshot.Revision)
		if !errors.Is(err, store.ErrCompacted) || try == maxSnapshotTries {
			return snapshot, watcher, err
		}
	}
}

// stream writes watch events.
type stream struct {
	s       *Server
	w       http.ResponseWriter
	control *http.ResponseController
	rq      *request
	sel     *selector
	buf     []byte
	begun   bool // an event was sent: tables have had their headers
	// seen is the revision up to which everything was looked at, and told the one
	// that the client knows of. They differ when what happens is not selected.
	seen, told int64
}

func newStream(s *Server, w http.ResponseWriter, rq *request, sel *selector) *stream {
	h := w.Header()
	h.Set("Content-Type", mediaJSON)
	h.Set("Cache-Control", "no-cache, private")
	if rq.ProtoMajor < 2 {
		// The connection keeps the last deadline, so nothing else may follow. Of
		// HTTP/2 each stream has its own, and this would end all of them.
		h.Set("Connection", "close")
	}
	w.WriteHeader(http.StatusOK)
	return &stream{s: s, w: w, control: http.NewResponseController(w), rq: rq, sel: sel}
}

// snapshot sends the objects there are and, when asked, says that these were
// all.
func (st *stream) snapshot(snapshot store.Snapshot, announce bool) error {
	for _, e := range snapshot.Entries {
		ok, u, err := st.sel.matches(e.Key, e.Value, e.Revision)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
		if !ok {
			continue
		}
		if err := st.send(watch.Added, e.Value, e.Revision, u); err != nil {
			return err
		}
	}
	if !announce {
		return nil
	}
	return st.bookmark(snapshot.Revision, map[string]string{metav1.InitialEventsAnnotationKey: "true"})
}

// bookmarkEvery is how often a client that wants it is told how far it is, as in
// Kubernetes. It can go on from there later, although nothing that it selects
// happened.
const bookmarkEvery = time.Minute

// follow sends what the store's watch delivers.
func (st *stream) follow(watcher store.Watcher, o watchOptions) error {
	limit := time.NewTimer(o.timeout)
	defer limit.Stop()
	var bookmark clock.Timer
	var mark <-chan time.Time
	if o.bookmarks {
		bookmark = st.s.clock.NewTimer(bookmarkEvery)
		defer bookmark.Stop()
		mark = bookmark.C()
	}
	for {
		var err error
		select {
		case event, open := <-watcher.Events():
			if !open {
				return st.ended(watcher.Err())
			}
			err = st.burst(event, watcher)
		case <-mark:
			bookmark.Reset(bookmarkEvery)
			err = st.keepUp()
		case <-limit.C:
			if o.bookmarks && st.keepUp() == nil {
				_ = st.flush() // the stream ends either way
			}
			return nil
		case <-draining(st.rq.Context()):
			return nil
		case <-st.rq.Context().Done():
			return nil
		}
		if err != nil {
			return st.fail(err)
		}
		if err := st.flush(); err != nil {
			return nil // the client is gone
		}
	}
}

// keepUp tells the client how far it is, unless it knows.
func (st *stream) keepUp() error {
	if st.seen <= st.told {
		return nil
	}
	return st.bookmark(st.seen, nil)
}

// maxBurst bounds how many events wait for one flush.
const maxBurst = 64

// burst sends an event and those right behind it, so that they share a packet.
func (st *stream) burst(event store.Event, watcher store.Watcher) error {
	for range maxBurst {
		if err := st.change(event); err != nil {
			return err
		}
		runtime.Gosched() // the sender may be about to send the next one
		select {
		case next, open := <-watcher.Events():
			if !open {
				return nil // follow finds it closed too
			}
			event = next
		default:
			return nil
		}
	}
	return st.change(event)
}

// ended decides what the end of the store's watch means for the client: after
// ErrSlowWatcher and ErrClosed it goes on from the last version that it saw.
func (st *stream) ended(err error) error {
	if err == nil || errors.Is(err, store.ErrSlowWatcher) || errors.Is(err, store.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return st.fail(err)
}

// change sends one write of the store as the selector sees it: an object that
// begins to match is added, one that no longer does is deleted.
func (st *stream) change(event store.Event) error {
	st.seen = event.Revision
	is, u, err := st.sel.matches(event.Key, event.Value, event.Revision)
	if err != nil {
		return fmt.Errorf("%s: %w", event.Key, err)
	}
	was, before, err := st.sel.matches(event.Key, event.Previous, event.Revision)
	if err != nil {
		return fmt.Errorf("%s: %w", event.Key, err)
	}
	switch {
	case is && was:
		return st.send(watch.Modified, event.Value, event.Revision, u)
	case is:
		return st.send(watch.Added, event.Value, event.Revision, u)
	case was && event.Value != nil: // the newest state, which no longer matches
		return st.send(watch.Deleted, event.Value, event.Revision, nil)
	case was: // the last state, at the revision of the deletion
		return st.send(watch.Deleted, event.Previous, event.Revision, before)
	}
	return nil
}

// send writes one event. A stored value is copied as it is; u is its decoded
// object, if it is at hand.
func (st *stream) send(kind watch.EventType, value []byte, revision int64, u *unstructured.Unstructured) error {
	st.told = revision
	b := append(st.buf[:0], `{"type":"`...)
	b = append(b, kind...)
	b = append(b, `","object":`...)
	if st.rq.accept.form == formObject && st.rq.resource.view == nil {
		rest, err := servedRest(value)
		if err != nil {
			return err
		}
		b = appendServedHead(b, revision)
		b = append(b, rest...)
	} else {
		raw, err := st.s.render(st.rq, value, revision, u, !st.begun)
		if err != nil {
			return err
		}
		b = append(b, raw...)
	}
	return st.write(append(b, "}\n"...))
}

// bookmark tells the client that it has seen everything up to a revision.
func (st *stream) bookmark(revision int64, annotations map[string]string) error {
	st.told = revision
	apiVersion, kind := st.rq.resource.gvk.ToAPIVersionAndKind()
	mark := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiVersion, Kind: kind},
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: formatRevision(revision), Annotations: annotations},
	}
	var object any = mark
	switch st.rq.accept.form {
	case formPartial:
		mark.TypeMeta = metav1.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: "PartialObjectMetadata"}
	case formTable:
		raw, err := json.Marshal(mark)
		if err != nil {
			return err
		}
		table, err := tableFor(st.rq.resource, nil, "", !st.begun, st.s.clock.Now())
		if err != nil {
			return err
		}
		table.ResourceVersion = formatRevision(revision)
		row := metav1.TableRow{Cells: []any{}}
		row.Object.Raw = raw
		table.Rows = append(table.Rows, row)
		object = table
	}
	return st.event(watch.Bookmark, object)
}

// fail ends the stream with an error event.
func (st *stream) fail(err error) error {
	if st.event(watch.Error, statusOf(err)) == nil {
		_ = st.flush() // the stream ends either way
	}
	return nil
}

func (st *stream) event(kind watch.EventType, object any) error {
	raw, err := json.Marshal(map[string]any{"type": kind, "object": object})
	if err != nil {
		return err
	}
	return st.write(append(raw, '\n'))
}

// write hands bytes on within a bounded time: a client that takes nothing is
// dropped instead of keeping memory.
func (st *stream) write(b []byte) error {
	st.buf = b[:0]
	st.begun = true
	st.extend()
	_, err := st.w.Write(b)
	return err
}

func (st *stream) flush() error {
	st.extend()
	return st.control.Flush()
}

// extend gives the client time to take what is written next.
func (st *stream) extend() {
	// Not every writer has deadlines (a test's recorder has none).
	_ = st.control.SetWriteDeadline(time.Now().Add(watchWriteTimeout))
}
