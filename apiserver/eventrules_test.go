package apiserver_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestEventRules: what a real API server refuses of a reporter is refused here.
func TestEventRules(t *testing.T) {
	a := newAPI(t)
	good := func() map[string]any {
		return map[string]any{
			"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": map[string]any{"generateName": "e-"},
			"eventTime": "2026-01-01T00:00:00.123456Z", "reportingController": "test.dev/c", "reportingInstance": "i",
			"action": "Start", "reason": "Failed", "note": strings.Repeat("n", 1024), "type": "Warning",
			"regarding": map[string]any{"kind": "Sandbox", "namespace": "default", "name": "b"},
			"series":    map[string]any{"count": 2, "lastObservedTime": "2026-01-01T00:00:00.123456Z"},
		}
	}
	a.do("POST", eventsView, good()).want(201)
	for _, c := range []struct {
		name    string
		value   any
		message string
	}{
		{"note", strings.Repeat("n", 1025), "note: Invalid value"},
		{"eventTime", nil, "eventTime: Required value"},
		{"type", "Awful", `type: Unsupported value: "Awful"`},
		{"reportingController", "", "reportingController: Required value"},
		{"reportingController", "a b", "reportingController: Invalid value"},
		{"reportingInstance", strings.Repeat("i", 129), "reportingInstance: Invalid value"},
		{"action", nil, "action: Required value"},
		{"reason", "", "reason: Required value"},
		{"series", map[string]any{"count": 1}, "series.count: Invalid value"},
	} {
		e := good()
		e[c.name] = c.value
		refusal := a.do("POST", eventsView, e).refused(422, "Invalid", c.message)
		if causes, _ := refusal.field("details", "causes").([]any); len(causes) == 0 {
			raw, _ := json.Marshal(c)
			t.Errorf("%s: no cause is named", raw)
		}
	}
	// The older form knows no such rules.
	old := strings.Replace(coreEvent("old", "a"), "it runs", strings.Repeat("n", 2000), 1)
	a.do("POST", events, old).want(201)
}
