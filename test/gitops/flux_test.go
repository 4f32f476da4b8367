package gitops_test

import (
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/ssa"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"

	"sandboxd.dev/sandboxd/test/daemon"
)

// TestFlux does with Flux's engine what its kustomize-controller does: apply in
// stages, wait, apply again, put drift back, and delete what left the source.
func TestFlux(t *testing.T) {
	h := start(t)
	poller := polling.NewStatusPoller(h.client, h.mapper, polling.Options{})
	m := ssa.NewResourceManager(h.client, poller, ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"})
	wait := ssa.WaitOptions{Interval: 200 * time.Millisecond, Timeout: daemon.Patience}
	apply := func(all []*unstructured.Unstructured) map[string]ssa.Action {
		t.Helper()
		m.SetOwnerLabels(all, "sandboxes", "flux-system")
		set, err := m.ApplyAllStaged(t.Context(), all, ssa.DefaultApplyOptions())
		must(t, err)
		actions := map[string]ssa.Action{}
		for _, e := range set.Entries {
			actions[e.Subject] = e.Action
		}
		return actions
	}

	all := load(t)
	for subject, action := range apply(all) {
		if action != ssa.CreatedAction {
			t.Errorf("%s: %s", subject, action)
		}
	}
	// The one that is off is Ready at no time, see healthCheckExprs in the example.
	until(t, "the daemon has looked at everything", func() bool {
		for _, u := range all {
			if u.GetKind() != "Namespace" && !seen(h.get(t, u.GetKind(), u.GetNamespace(), u.GetName())) {
				return false
			}
		}
		return true
	})
	must(t, m.Wait(without(all, "Sandbox", "asleep"), wait))
	until(t, "the sandbox that is to be off is off", func() bool {
		asleep := h.get(t, "Sandbox", "default", "asleep")
		phase, _, _ := unstructured.NestedString(asleep.Object, "status", "phase")
		return phase == "Stopped"
	})
	if got := judge(t, h.get(t, "Sandbox", "default", "asleep")); got != status.InProgressStatus {
		t.Errorf("kstatus says of a sandbox that is off: %s", got)
	}
	for subject, action := range apply(load(t)) {
		if action != ssa.UnchangedAction {
			t.Errorf("applied again, %s is %s", subject, action)
		}
	}

	// A change changes what it is about, and is waited for.
	all = load(t)
	must(t, unstructured.SetNestedField(find(t, all, "Sandbox", "worker").Object, int64(2), "spec", "cpus"))
	for subject, action := range apply(all) {
		if want := map[bool]ssa.Action{true: ssa.ConfiguredAction, false: ssa.UnchangedAction}[strings.HasPrefix(subject, "Sandbox/team-a/worker")]; action != want {
			t.Errorf("%s: %s, want %s", subject, action, want)
		}
	}
	must(t, m.Wait([]*unstructured.Unstructured{find(t, all, "Sandbox", "worker")}, wait))

	// What somebody changes by hand is put back.
	must(t, retry.RetryOnConflict(retry.DefaultBackoff, func() error { // the daemon writes its status meanwhile
		worker := h.get(t, "Sandbox", "team-a", "worker")
		must(t, unstructured.SetNestedField(worker.Object, int64(4), "spec", "cpus"))
		return h.client.Update(t.Context(), worker)
	}))
	apply(all)
	if cpus, _, _ := unstructured.NestedInt64(h.get(t, "Sandbox", "team-a", "worker").Object, "spec", "cpus"); cpus != 2 {
		t.Errorf("the sandbox has %d cpus", cpus)
	}

	// What cannot be fails at once, and not when its time is up.
	impossible := parse(t, stalled)
	apply(impossible)
	// An object that nobody has looked at yet is taken for current, see the docs.
	until(t, "the daemon has looked at the sandbox", func() bool {
		return judge(t, h.get(t, "Sandbox", "default", "impossible")) != status.CurrentStatus
	})
	begin := time.Now()
	fast := wait
	fast.FailFast = true
	if err := m.Wait(impossible, fast); err == nil || time.Since(begin) > daemon.Patience {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	if got := judge(t, h.get(t, "Sandbox", "default", "impossible")); got != status.FailedStatus {
		t.Errorf("kstatus says of a sandbox that cannot be: %s", got)
	}

	// Everything leaves the source. An image is deleted when its clones are gone, so
	// that takes more than one try, as the controller makes them.
	gone := append(load(t), impossible...)
	options := ssa.DefaultDeleteOptions()
	options.Inclusions = m.GetOwnerLabels("sandboxes", "flux-system")
	until(t, "everything was deleted", func() bool {
		_, err := m.DeleteAll(t.Context(), gone, options)
		if err != nil {
			t.Log("tried again: ", err)
		}
		return err == nil
	})
	must(t, m.WaitForTermination(gone, wait))
	if h.get(t, "GoldenImage", "", "tiny") != nil || h.get(t, "Namespace", "", "team-a") != nil {
		t.Error("something is left")
	}
}

// seen tells whether an object has a status.
func seen(u *unstructured.Unstructured) bool {
	n, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	return n > 0
}

// judge is kstatus' judgement of an object.
func judge(t *testing.T, u *unstructured.Unstructured) status.Status {
	t.Helper()
	r, err := status.Compute(u)
	must(t, err)
	return r.Status
}
