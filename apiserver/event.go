package apiserver

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

// prepareEvent writes the times that an event does not have as null, as Kubernetes does:
// kubectl sorts events by a field only where one has it.
func prepareEvent(obj, _ map[string]any) {
	for _, name := range []string{"firstTimestamp", "lastTimestamp", "eventTime"} {
		if _, ok := obj[name]; !ok {
			obj[name] = nil
		}
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

// The limits of events.k8s.io/v1, in bytes. core/v1 has none: old clients know of
// none.
const (
	maxEventNote = 1024
	maxEventWord = 128
)

// checkEventView refuses an event of events.k8s.io/v1 that a real API server
// refuses: reporters that were only ever tried here would be mute there.
func checkEventView(u, _ *unstructured.Unstructured) field.ErrorList {
	var errs field.ErrorList
	text := func(name string) string {
		s, _, _ := unstructured.NestedString(u.Object, name)
		return s
	}
	if text("eventTime") == "" {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if kind := text("type"); kind != corev1.EventTypeNormal && kind != corev1.EventTypeWarning {
		errs = append(errs, field.NotSupported(field.NewPath("type"), kind, []string{corev1.EventTypeNormal, corev1.EventTypeWarning}))
	}
	controller := text("reportingController")
	if controller == "" {
		errs = append(errs, field.Required(field.NewPath("reportingController"), ""))
	} else {
		for _, message := range validation.IsQualifiedName(controller) {
			errs = append(errs, field.Invalid(field.NewPath("reportingController"), controller, message))
		}
	}
	for _, name := range []string{"reportingInstance", "action", "reason"} {
		switch value := text(name); {
		case value == "":
			errs = append(errs, field.Required(field.NewPath(name), ""))
		case len(value) > maxEventWord:
			errs = append(errs, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %d characters", maxEventWord)))
		}
	}
	if len(text("note")) > maxEventNote {
		errs = append(errs, field.Invalid(field.NewPath("note"), "", fmt.Sprintf("can have at most %d characters", maxEventNote)))
	}
	if series, ok := u.Object["series"].(map[string]any); ok {
		if count, _, _ := unstructured.NestedInt64(series, "count"); count < 2 {
			errs = append(errs, field.Invalid(field.NewPath("series", "count"), count, "should be at least 2"))
		}
		if last, _, _ := unstructured.NestedString(series, "lastObservedTime"); last == "" {
			errs = append(errs, field.Required(field.NewPath("series", "lastObservedTime"), ""))
		}
	}
	return errs
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
