package storetest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/store"
)

// envBug names the bug of the reference store in a process made to fail.
const envBug = "SANDBOXD_STORETEST_BUG"

func TestReference(t *testing.T) {
	bug := os.Getenv(envBug)
	Run(t, func(t *testing.T) Backend {
		dir := t.TempDir()
		b := Backend{
			Open:      func() (store.Store, error) { return openReference(dir, bug) },
			LogEvents: logEvents,
		}
		if bug != "" {
			b.Patience = time.Second // it is spent on purpose
		}
		return b
	})
}

func TestReferenceCrash(t *testing.T) {
	Crash(t, func(dir string) (store.Store, error) { return openReference(dir, os.Getenv(envBug)) })
}

// TestMutants runs the suite on the reference store with one bug at a time: the
// check that is there for it must fail.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("starts some fifty processes")
	}
	mutants := []struct{ bug, check string }{
		{"creation overwrites", "put"},
		{"update of nothing creates", "put"},
		{"stale update", "put"},
		{"put at any revision", "put"},
		{"stale deletion", "delete"},
		{"deletion only says so", "delete"},
		{"deletion takes no revision", "revisions"},
		{"failure takes a revision", "failed writes change nothing"},
		{"failure makes an event", "failed writes change nothing"},
		{"absent is empty", "get and list of nothing"},
		{"list by name", "list order and scope"},
		{"resources by prefix", "list order and scope"},
		{"namespaces by prefix", "list order and scope"},
		{"past without end", "list the past"},
		{"the deleted stay gone", "list the past"},
		{"the past at today's revision", "list the past"},
		{"slashes in names", "keys"},
		{"short names only", "keys"},
		{"keeps the caller's value", "values stay as they are"},
		{"updates in place", "values stay as they are"},
		{"room behind values", "values stay as they are"},
		{"empty is nil", "value sizes"},
		{"no size limit", "value sizes"},
		{"no previous value", "watch history"},
		{"event twice", "watch history"},
		{"event lost", "watch history"},
		{"events of all resources", "watch history"},
		{"the revision itself again", "watch history"},
		{"from now is from the beginning", "watch from now"},
		{"waits for the future", "watch the future"},
		{"log without end", "watch the compacted past"},
		{"log too short", "watch the compacted past"},
		{"gap instead of compacted", "watch the compacted past"},
		{"slow watcher misses events", "slow watcher"},
		{"stop leaves the channel open", "stop a watch"},
		{"stop is an error", "stop a watch"},
		{"writes when cancelled", "contexts"},
		{"outlives its context", "contexts"},
		{"close leaves watchers", "close"},
		{"close is no reason", "close"},
		{"closes twice", "close"},
		{"get after close", "close"},
		{"forgets writes", "close under load"},
		{"deletion is not written", "reopen"},
		{"revision of what is left", "reopen"},
		{"new instance when reopened", "reopen"},
		{"all stores are one", "instances"},
		{"no lock between check and write", "one creator wins"},
		{"no lock between check and write", "no update is lost"},
		{"torn list", "snapshots under load"},
		{"publishes without the lock", "watchers under load"},
		{"no previous value", "watchers under load"},
		{"event lost", "cancelled writes"},
		{"every third revision", "model"},
		{"no previous value", "model"},
		{"event twice", "model"},
		{"revision of what is left", "model"},
		{"the deleted stay gone", "model"},
	}
	for _, m := range mutants {
		t.Run(m.check+"/"+m.bug, func(t *testing.T) {
			t.Parallel()
			expectFailure(t, m.bug, "^TestReference$/^"+strings.ReplaceAll(m.check, " ", "_")+"$")
		})
	}
	t.Run("crash/answers before it writes", func(t *testing.T) {
		t.Parallel()
		expectFailure(t, "answers before it writes", "^TestReferenceCrash$/^writing$")
	})
	t.Run("crash/birth is not written", func(t *testing.T) {
		t.Parallel()
		expectFailure(t, "birth is not written", "^TestReferenceCrash$/^creating$")
	})
}

func expectFailure(t *testing.T, bug, run string) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, "-test.run="+run, "-test.v", "-test.timeout=5m",
		"-rapid.nofailfile", "-rapid.shrinktime=1ms")
	c.Env = append(os.Environ(), envBug+"="+bug)
	output, err := c.CombinedOutput()
	if err == nil {
		t.Fatalf("the suite passes a store with this bug:\n%s", output)
	}
	if !bytes.Contains(output, []byte("--- FAIL: TestReference")) || bytes.Contains(output, []byte("panic: test timed out")) {
		t.Fatalf("the suite should fail by itself, not so (%v):\n%s", err, output)
	}
}
