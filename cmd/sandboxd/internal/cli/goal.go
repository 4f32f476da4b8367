package cli

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// state is how far an object is on the way to a goal.
type state struct {
	met bool
	// why it is not met yet, in words; may be empty.
	why string
	// stuck: it will not be met until somebody changes something.
	stuck bool
	// since when that is so; zero when it is not known.
	since time.Time
}

// words say why it is not met, and for how long that has been so.
func (s state) words(now time.Time) string {
	if s.why == "" || s.since.IsZero() || now.Sub(s.since) < time.Second {
		return s.why
	}
	return s.why + " (for " + duration.HumanDuration(now.Sub(s.since)) + ")"
}

// goal judges an object; nil means that there is none.
type goal func(u *unstructured.Unstructured) state

// conditionsOf reads an object's conditions. Malformed ones are passed over.
func conditionsOf(u *unstructured.Unstructured) []metav1.Condition {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	var conditions []metav1.Condition
	for _, item := range list {
		var c metav1.Condition
		m, ok := item.(map[string]any)
		if ok && runtime.DefaultUnstructuredConverter.FromUnstructured(m, &c) == nil {
			conditions = append(conditions, c)
		}
	}
	return conditions
}

func findCondition(u *unstructured.Unstructured, name string) (metav1.Condition, bool) {
	for _, c := range conditionsOf(u) {
		if strings.EqualFold(c.Type, name) {
			return c, true
		}
	}
	return metav1.Condition{}, false
}

// stalled tells whether the daemon has given an object up, and why. What it
// said of an earlier version of the object does not count.
func stalled(u *unstructured.Unstructured) (string, bool) {
	c, ok := findCondition(u, v1.ConditionStalled)
	return c.Message, ok && c.Status == metav1.ConditionTrue && c.ObservedGeneration == u.GetGeneration()
}

// unready is what keeps an object from being ready, as its condition says it.
func unready(u *unstructured.Unstructured) state {
	if c, ok := findCondition(u, v1.ConditionReady); ok && c.Status != metav1.ConditionTrue {
		return because(c)
	}
	return state{}
}

func because(c metav1.Condition) state {
	return state{why: c.Message, since: c.LastTransitionTime.Time}
}

// goalApplied: the object is as its manifest says. Kinds that have no
// conditions are so at once.
func goalApplied(u *unstructured.Unstructured) state {
	switch {
	case u == nil:
		return state{why: "it was deleted meanwhile", stuck: true}
	case u.GroupVersionKind().Group != v1.GroupName:
		return state{met: true}
	}
	if message, ok := stalled(u); ok {
		return state{why: message, stuck: true}
	}
	seen, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	if seen < u.GetGeneration() {
		return state{why: "the daemon has not looked at it yet"}
	}
	off, down := reasonWhenOff(u)
	if c, ok := findCondition(u, v1.ConditionReady); ok && c.Status == metav1.ConditionTrue {
		if down { // and can still be used: its guest has not ended
			return state{why: "its machine is on"}
		}
		return state{met: true}
	}
	if down {
		c, found := findCondition(u, v1.ConditionPoweredOn)
		if found && c.Status == metav1.ConditionFalse && c.Reason == off {
			return state{met: true}
		}
	}
	return unready(u)
}

// reasonWhenOff is the reason that tells that a sandbox that is to be off is
// so.
func reasonWhenOff(u *unstructured.Unstructured) (string, bool) {
	power, _, _ := unstructured.NestedString(u.Object, "spec", "powerState")
	switch v1.PowerState(power) {
	case v1.PowerStopped:
		return v1.ReasonStopped, true
	case v1.PowerSuspended:
		return v1.ReasonSuspended, true
	default:
		return "", false
	}
}

// goalCondition: a condition has a status.
func goalCondition(name string, status metav1.ConditionStatus) goal {
	return func(u *unstructured.Unstructured) state {
		if u == nil {
			return state{why: "it does not exist", stuck: true}
		}
		c, found := findCondition(u, name)
		fresh := c.ObservedGeneration == 0 || c.ObservedGeneration == u.GetGeneration()
		if found && fresh && strings.EqualFold(string(c.Status), string(status)) {
			return state{met: true}
		}
		if message, ok := stalled(u); ok {
			return state{why: message, stuck: true}
		}
		if found && c.Message != "" && !strings.EqualFold(string(c.Status), string(status)) {
			return because(c)
		}
		if s := unready(u); s.why != "" || found {
			return s
		}
		return state{why: "it has no condition " + name + " yet"}
	}
}

// goalGone: the object of a UID does not exist any more. An empty UID means
// whichever there is.
func goalGone(uid string) goal {
	return func(u *unstructured.Unstructured) state {
		if u == nil || uid != "" && string(u.GetUID()) != uid {
			return state{met: true}
		}
		deleting := u.GetDeletionTimestamp()
		if deleting == nil {
			return state{why: "it exists and is not being deleted"}
		}
		s := unready(u)
		if s.why == "" {
			s.why = "it is being deleted"
		}
		s.since = deleting.Time
		return s
	}
}

// goalExists: there is an object.
func goalExists(u *unstructured.Unstructured) state {
	if u == nil {
		return state{why: "it does not exist yet"}
	}
	return state{met: true}
}

// goalPath: what a JSONPath finds is a value or, without one, anything.
func goalPath(path *jsonpath.JSONPath, value *string) goal {
	return func(u *unstructured.Unstructured) state {
		if u == nil {
			return state{why: "it does not exist", stuck: true}
		}
		found, ok := findPath(path, u.Object)
		if ok && (value == nil && found != "" || value != nil && found == *value) {
			return state{met: true}
		}
		if message, ok := stalled(u); ok {
			return state{why: message, stuck: true}
		}
		return state{why: fmt.Sprintf("the value is %q", found)}
	}
}

func findPath(path *jsonpath.JSONPath, object map[string]any) (string, bool) {
	results, err := path.FindResults(object)
	if err != nil {
		return "", false
	}
	flat := slices.Concat(results...)
	if len(flat) != 1 || !flat[0].IsValid() || !flat[0].CanInterface() {
		return "", false
	}
	switch v := flat[0].Interface(); reflect.ValueOf(v).Kind() {
	case reflect.Map, reflect.Slice, reflect.Invalid:
		return "", false
	default:
		return fmt.Sprint(v), true
	}
}

// parseGoal reads the value of --for.
func parseGoal(text string) (goal, error) {
	kind, rest, _ := strings.Cut(text, "=")
	switch kind {
	case "delete":
		if rest == "" {
			return goalGone(""), nil
		}
	case "create":
		if rest == "" {
			return goalExists, nil
		}
	case "condition":
		name, status, ok := strings.Cut(rest, "=")
		if !ok {
			status = string(metav1.ConditionTrue)
		}
		if name != "" && status != "" {
			return goalCondition(name, metav1.ConditionStatus(status)), nil
		}
	case "jsonpath":
		return parsePathGoal(rest)
	}
	return nil, fmt.Errorf("--for %q is not one of condition=NAME, condition=NAME=STATUS, create, delete, jsonpath='{PATH}' and jsonpath='{PATH}'=VALUE", text)
}

func parsePathGoal(text string) (goal, error) {
	text = strings.TrimSpace(text)
	end := strings.LastIndex(text, "}")
	if !strings.HasPrefix(text, "{") || end < 0 {
		return nil, fmt.Errorf("the JSONPath %q is not in braces: write jsonpath='{.status.phase}'=Running", text)
	}
	path := jsonpath.New("for").AllowMissingKeys(true)
	if err := path.Parse(text[:end+1]); err != nil {
		return nil, fmt.Errorf("the JSONPath %q is wrong: %w", text[:end+1], err)
	}
	rest := text[end+1:]
	if rest == "" {
		return goalPath(path, nil), nil
	}
	value, ok := strings.CutPrefix(rest, "=")
	if !ok || value == "" {
		return nil, fmt.Errorf("behind the JSONPath only =VALUE may follow, not %q", rest)
	}
	value = strings.Trim(value, `'"`)
	return goalPath(path, &value), nil
}
