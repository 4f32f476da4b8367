package controller_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/intercept"
)

// TestLogsNameTheReconciliation: whatever is said in a reconciliation, by a provider
// and in a job too, names the object and the reconciliation; a wait is said once, and
// is no error.
func TestLogsNameTheReconciliation(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	d := host(t, fake.Options{})
	d.log = funcr.NewJSON(func(line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}, funcr.Options{Verbosity: 1})
	var refused atomic.Int32
	d.wrap = func(p providers.Provider) providers.Provider {
		return intercept.Wrap(p, func(ctx context.Context, at intercept.Point) error {
			if at.When != intercept.Before {
				return nil
			}
			switch at.Verb {
			case "ImportImage", "Start":
				providers.Logger(ctx, logr.Discard()).Info("provider", "verb", at.Verb)
			case "EnsureMachine":
				if refused.Add(1) <= 3 {
					return providers.Errorf(providers.ErrCapacity, "machine", "too little of everything")
				}
			}
			return nil
		})
	}
	d.start()
	sbx := newSandbox("spoken-of")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	d.stop()
	mu.Lock()
	defer mu.Unlock()
	said := map[string]int{}
	for _, line := range lines {
		var fields struct{ Logger, Msg, Object, ReconcileID, Verb, Error string }
		var level struct{ Level *int }
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if err := json.Unmarshal([]byte(line), &level); err != nil {
			t.Fatal(err)
		}
		said[fields.Msg+fields.Verb]++
		of := strings.Split(fields.Logger, "/")
		reconciles := of[0] == "sandbox" || of[0] == "goldenimage" || of[0] == "snapshot"
		if level.Level == nil {
			if reconciles {
				t.Errorf("an error: %s", line)
			}
			continue // of the writer of events, when it is stopped
		}
		if fields.Object == "" && (fields.Verb != "" || reconciles && *level.Level == 0) || fields.Object != "" && fields.ReconcileID == "" {
			t.Errorf("it does not name the object and the reconciliation: %s", line)
		}
	}
	if said["providerStart"] != 1 || said["providerImportImage"] != 1 || said["waits"] != 1 {
		t.Errorf("said was %v", said)
	}
	if c := condition(sbx, v1.ConditionReady); c.Reason != v1.ReasonAsSpecified {
		t.Errorf("%+v", c)
	}
}
