package controller_test

import (
	"maps"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/fake"
)

// TestEventsWakeOwners: what happens to a machine is noticed at once, not at the next
// look at everything, also by a daemon that found the sandbox when it started. Nobody
// who writes statuses meanwhile takes away what is not read here.
func TestEventsWakeOwners(t *testing.T) {
	t.Parallel()
	d := host(t, fake.Options{})
	d.resync = time.Hour
	d.start()
	sbx := newSandbox("box")
	labels, annotations := map[string]string{"app": "web"}, map[string]string{"example.com/owner": "me"}
	sbx.Labels, sbx.Annotations = labels, annotations
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	must(t, d.world.Crash(sbx.UID))
	until(d, sbx, "started again", func(s *v1.Sandbox) bool { return s.Status.Restarts == 1 && ready(s) })
	d.stop()
	d.start()
	until(d, sbx, "ready after a restart of the daemon", ready)
	must(t, d.world.Crash(sbx.UID))
	until(d, sbx, "started again by another daemon", func(s *v1.Sandbox) bool { return s.Status.Restarts == 2 && ready(s) })
	if !maps.Equal(sbx.Labels, labels) || !maps.Equal(sbx.Annotations, annotations) {
		t.Errorf("labels %v, annotations %v", sbx.Labels, sbx.Annotations)
	}
}
