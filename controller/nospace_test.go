package controller_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// TestGuestWithoutSpace: a guest that the host has no space for is told of as that,
// and goes on by itself once there is space; no restart is counted.
func TestGuestWithoutSpace(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("hungry")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	must(t, d.world.Starve(sbx.UID))
	until(d, sbx, "out of space", func(s *v1.Sandbox) bool {
		c, powered := condition(s, v1.ConditionReady), condition(s, v1.ConditionPoweredOn)
		return c.Status == metav1.ConditionFalse && c.Reason == v1.ReasonCapacity && strings.Contains(c.Message, "no space") &&
			powered.Status == metav1.ConditionFalse && powered.Reason == v1.ReasonCapacity
	})
	must(t, d.world.Feed(sbx.UID))
	// The next try is due half a minute after the last one.
	before := sbx.DeepCopy()
	sbx.Status.StartedAt = &metav1.Time{Time: time.Now().Add(-time.Minute)}
	must(t, d.client.Status().Patch(t.Context(), sbx, client.MergeFrom(before)))
	until(d, sbx, "ready again", ready)
	if sbx.Status.Restarts != 0 {
		t.Errorf("%d restarts were counted", sbx.Status.Restarts)
	}
	if m, err := d.provider().GetMachine(t.Context(), sbx.UID); err != nil || m.Power != providers.PowerRunning || m.Paused != "" {
		t.Errorf("the machine is %+v, %v", m, err)
	}
}
