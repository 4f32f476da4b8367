package cli

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	if text == "" {
		return nil
	}
	u := &unstructured.Unstructured{}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// sbx is a sandbox of generation 2 with a spec and conditions.
func sbx(spec, conditions string) string {
	return `{apiVersion: sandboxd.dev/v1, kind: Sandbox, metadata: {name: x, uid: u1, generation: 2}, spec: {` + spec +
		`}, status: {phase: Running, observedGeneration: 2, conditions: [` + conditions + `]}}`
}

// deleting is a sandbox that is being deleted.
func deleting(conditions string) string {
	return strings.Replace(sbx("", conditions), "uid: u1", `uid: u1, deletionTimestamp: "2026-01-02T03:04:05Z"`, 1)
}

func TestGoals(t *testing.T) {
	const (
		ready    = `{type: Ready, status: "True", observedGeneration: 2}`
		notReady = `{type: Ready, status: "False", observedGeneration: 2, message: the guest boots}`
		oldReady = `{type: Ready, status: "True", observedGeneration: 1}`
		stalled  = `{type: Stalled, status: "True", observedGeneration: 2, message: it is wrong}`
		oldStall = `{type: Stalled, status: "True", observedGeneration: 1, message: it was wrong}`
		stopped  = `{type: PoweredOn, status: "False", reason: Stopped, observedGeneration: 2}`
		exited   = `{type: PoweredOn, status: "False", reason: Exited, observedGeneration: 2}`
	)
	unseen := `{apiVersion: sandboxd.dev/v1, kind: Sandbox, metadata: {name: x, generation: 2}, status: {observedGeneration: 1, conditions: [` + ready + `]}}`
	const applied = "applied"
	for name, c := range map[string]struct {
		goal, object string
		met, stuck   bool
		why          string
	}{
		"ready":                         {goal: applied, object: sbx("", ready), met: true},
		"not ready":                     {goal: applied, object: sbx("", notReady), why: "the guest boots"},
		"an old version was ready":      {goal: applied, object: unseen, why: "the daemon has not looked at it yet"},
		"stalled":                       {goal: applied, object: sbx("", notReady+","+stalled), stuck: true, why: "it is wrong"},
		"an old version was stalled":    {goal: applied, object: sbx("", notReady+","+oldStall), why: "the guest boots"},
		"off, as asked":                 {goal: applied, object: sbx("powerState: Stopped", notReady+","+stopped), met: true},
		"off, not as asked":             {goal: applied, object: sbx("powerState: Running", notReady+","+stopped), why: "the guest boots"},
		"still on, and to be off":       {goal: applied, object: sbx("powerState: Stopped", ready), why: "its machine is on"},
		"exited is not stopped":         {goal: applied, object: sbx("powerState: Stopped", notReady+","+exited), why: "the guest boots"},
		"stopped is not suspended":      {goal: applied, object: sbx("powerState: Suspended", notReady+","+stopped), why: "the guest boots"},
		"deleted meanwhile":             {goal: applied, stuck: true, why: "it was deleted meanwhile"},
		"a kind without conditions":     {goal: applied, object: `{apiVersion: v1, kind: Namespace, metadata: {name: x}}`, met: true},
		"condition":                     {goal: "condition=Ready", object: sbx("", ready), met: true},
		"condition, any case":           {goal: "condition=ready=TRUE", object: sbx("", ready), met: true},
		"condition of an old version":   {goal: "condition=Ready", object: sbx("", oldReady)},
		"condition false":               {goal: "condition=Ready=false", object: sbx("", notReady), met: true},
		"condition not met":             {goal: "condition=Ready", object: sbx("", notReady), why: "the guest boots"},
		"condition absent":              {goal: "condition=Nosuch", object: sbx("", notReady), why: "the guest boots"},
		"condition of a stalled object": {goal: "condition=Ready", object: sbx("", notReady+","+stalled), stuck: true, why: "it is wrong"},
		"condition Stalled":             {goal: "condition=Stalled", object: sbx("", notReady+","+stalled), met: true},
		"condition of nothing":          {goal: "condition=Ready", stuck: true, why: "it does not exist"},
		"gone":                          {goal: "delete", met: true},
		"not being deleted":             {goal: "delete", object: sbx("", notReady), why: "it exists and is not being deleted"},
		"not gone":                      {goal: "delete", object: deleting(notReady), why: "the guest boots"},
		"not gone, nothing is known":    {goal: "delete", object: deleting(""), why: "it is being deleted"},
		"exists":                        {goal: "create", object: sbx("", ""), met: true},
		"does not exist":                {goal: "create", why: "it does not exist yet"},
		"path":                          {goal: "jsonpath={.status.phase}=Running", object: sbx("", ""), met: true},
		"value in quotes":               {goal: `jsonpath={.status.phase}='Running'`, object: sbx("", ""), met: true},
		"path, another value":           {goal: "jsonpath={.status.phase}=Stopped", object: sbx("", ""), why: `the value is "Running"`},
		"path, any value":               {goal: "jsonpath={.status.phase}", object: sbx("", ""), met: true},
		"path to nothing":               {goal: "jsonpath={.status.nosuch}", object: sbx("", ""), why: `the value is ""`},
		"path to a number":              {goal: "jsonpath={.metadata.generation}=2", object: sbx("", ""), met: true},
		"path to a map":                 {goal: "jsonpath={.status}", object: sbx("", ""), why: `the value is ""`},
		"path with a filter":            {goal: `jsonpath={.status.conditions[?(@.type=="Ready")].status}=True`, object: sbx("", ready), met: true},
		"path of a stalled object":      {goal: "jsonpath={.status.phase}=Stopped", object: sbx("", stalled), stuck: true, why: "it is wrong"},
		"malformed conditions":          {goal: "condition=Ready", object: `{apiVersion: sandboxd.dev/v1, kind: Sandbox, metadata: {name: x}, status: {conditions: [1, {type: 5}]}}`, why: "it has no condition Ready yet"},
	} {
		t.Run(name, func(t *testing.T) {
			judge := goal(goalApplied)
			if c.goal != applied {
				var err error
				if judge, err = parseGoal(c.goal); err != nil {
					t.Fatal(err)
				}
			}
			got := judge(object(t, c.object))
			got.since = time.Time{}
			if want := (state{met: c.met, why: c.why, stuck: c.stuck}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	if s := goalGone("another")(object(t, sbx("", ""))); !s.met {
		t.Errorf("an object of the same name that came later: got %+v", s)
	}
}

// TestSince: what is waited for says for how long it has been so.
func TestSince(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const notReady = `{type: Ready, status: "False", observedGeneration: 2, message: the guest boots, lastTransitionTime: "2026-01-02T03:04:05Z"}`
	for name, s := range map[string]state{
		"applied":   goalApplied(object(t, sbx("", notReady))),
		"condition": goalCondition("Ready", "True")(object(t, sbx("", notReady))),
		"gone":      goalGone("")(object(t, deleting(notReady))),
	} {
		if got := s.words(at.Add(3 * time.Minute)); got != "the guest boots (for 3m)" {
			t.Errorf("%s: %q", name, got)
		}
		if got := s.words(at); got != "the guest boots" {
			t.Errorf("%s, just now: %q", name, got)
		}
	}
}

func TestBadGoals(t *testing.T) {
	for _, text := range []string{"", "ready", "condition", "condition=", "condition==True", "delete=x", "jsonpath=.a", "jsonpath={.a", "jsonpath={.a}b", "jsonpath={.a}="} {
		if _, err := parseGoal(text); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
