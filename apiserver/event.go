package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sandboxd.dev/sandboxd/store"
)

// eventNames pairs the names of the same field in core/v1 and events.k8s.io/v1.
var eventNames = [][2]string{
	{"involvedObject", "regarding"},
	{"message", "note"},
	{"source", "deprecatedSource"},
	{"firstTimestamp", "deprecatedFirstTimestamp"},
	{"lastTimestamp", "deprecatedLastTimestamp"},
	{"count", "deprecatedCount"},
	{"reportingComponent", "reportingController"},
}

// eventView shows core/v1 Events as events.k8s.io/v1 Events.
func eventView(of *resource) *view {
	rename := func(obj map[string]any, apiVersion string, from, to int) {
		obj["apiVersion"] = apiVersion
		for _, names := range eventNames {
			if v, ok := obj[names[from]]; ok {
				delete(obj, names[from])
				obj[names[to]] = v
			}
		}
	}
	return &view{
		of:   of,
		to:   func(obj map[string]any) { rename(obj, "events.k8s.io/v1", 0, 1) },
		from: func(obj map[string]any) { rename(obj, "v1", 1, 0) },
	}
}

// checkEvent refuses an event that lies in another namespace than the object
// that it is about. Those about cluster-scoped objects lie in default.
func checkEvent(u, _ *unstructured.Unstructured) field.ErrorList {
	about, _, _ := unstructured.NestedString(u.Object, "involvedObject", "namespace")
	if about == u.GetNamespace() || (about == "" && u.GetNamespace() == metav1.NamespaceDefault) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), about,
		fmt.Sprintf("does not match the event's namespace %s", u.GetNamespace()))}
}

// eventColumns are the columns of events, whose fields have other names in the
// other group.
func eventColumns(about, message, first, last, count string) []column {
	text := func(name, description string, priority int32, path ...string) column {
		return column{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: name, Type: "string", Description: description, Priority: priority},
			cell: func(obj map[string]any, _ time.Time) any {
				s, _, _ := unstructured.NestedString(obj, path...)
				return s
			},
		}
	}
	since := func(name, description string, priority int32, paths ...[]string) column {
		return column{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: name, Type: "string", Description: description, Priority: priority},
			cell: func(obj map[string]any, now time.Time) any {
				for _, path := range paths {
					if s, _, _ := unstructured.NestedString(obj, path...); s != "" {
						return age(s, now)
					}
				}
				return "<unknown>"
			},
		}
	}
	name := nameColumn()
	name.Priority = 1
	return []column{
		since("Last Seen", "When the event was last seen.", 0, []string{"series", "lastObservedTime"}, []string{last}, []string{"eventTime"}, []string{first}),
		text("Type", "Normal or Warning.", 0, "type"),
		text("Reason", "The reason in one word.", 0, "reason"),
		{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: "Object", Type: "string", Description: "The object that the event is about."},
			cell: func(obj map[string]any, _ time.Time) any {
				kind, _, _ := unstructured.NestedString(obj, about, "kind")
				name, _, _ := unstructured.NestedString(obj, about, "name")
				return strings.ToLower(kind) + "/" + name
			},
		},
		since("First Seen", "When the event was first seen.", 1, []string{first}, []string{"eventTime"}),
		{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: "Count", Type: "integer", Description: "How often the event was seen.", Priority: 1},
			cell: func(obj map[string]any, _ time.Time) any {
				if n, ok, _ := unstructured.NestedInt64(obj, "series", "count"); ok {
					return n
				}
				if n, ok, _ := unstructured.NestedInt64(obj, count); ok {
					return n
				}
				return int64(1)
			},
		},
		name,
		text("Message", "What happened.", 0, message),
	}
}

// sweeper removes events some time after their last write. Without events it
// sleeps until one is written.
type sweeper struct {
	s       *Server
	ttl     time.Duration
	written chan struct{} // one slot
}

func newSweeper(s *Server, ttl time.Duration) *sweeper {
	return &sweeper{s: s, ttl: ttl, written: make(chan struct{}, 1)}
}

// wrote wakes the sweeper if it has nothing to wait for.
func (w *sweeper) wrote() {
	select {
	case w.written <- struct{}{}:
	default:
	}
}

func (w *sweeper) run(ctx context.Context) {
	for {
		next, err := w.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			w.s.log.Error(err, "Events could not be swept")
		}
		if next == 0 {
			select {
			case <-w.written:
				continue
			case <-ctx.Done():
				return
			}
		}
		timer := w.s.clock.NewTimer(next)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// sweep removes the events whose time is up, and tells when the next ones'
// will be: 0 when there are none. Sweeps are at least a tenth of the lifetime
// apart, so that events are removed in batches.
func (w *sweeper) sweep(ctx context.Context) (time.Duration, error) {
	snapshot, err := w.s.store.List(ctx, eventsKey, "")
	if err != nil {
		return w.ttl / 10, err
	}
	now := w.s.clock.Now()
	var next time.Duration
	for _, entry := range snapshot.Entries {
		left := lastWritten(entry.Value).Add(w.ttl).Sub(now)
		if left <= 0 {
			// One that was written meanwhile stays.
			if _, err := w.s.remove(ctx, entry); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
				return w.ttl / 10, err
			}
			continue
		}
		if next == 0 || left < next {
			next = left
		}
	}
	if next == 0 {
		return 0, nil
	}
	return max(next, w.ttl/10), nil
}

// lastWritten is when an event was last written, by the server's own clock: an
// event's timestamps are its reporter's claim. A value that cannot be read
// counts as written long ago.
func lastWritten(value []byte) time.Time {
	var event struct {
		Metadata struct {
			CreationTimestamp metav1.Time
			ManagedFields     []struct{ Time metav1.Time }
		}
	}
	if err := json.Unmarshal(value, &event); err != nil {
		return time.Time{}
	}
	last := event.Metadata.CreationTimestamp.Time
	for _, f := range event.Metadata.ManagedFields {
		if f.Time.After(last) {
			last = f.Time.Time
		}
	}
	return last
}
