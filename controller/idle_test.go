package controller_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/fake"
)

// TestIdle: sandboxes that nobody uses expire, and those that are used do not, also
// over a restart of the daemon.
func TestIdle(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	idle := func(action v1.ExpiryAction) func(*v1.Sandbox) {
		return func(s *v1.Sandbox) {
			s.Spec.Lifecycle = v1.Lifecycle{IdleTimeout: &metav1.Duration{Duration: 3 * time.Second}, OnExpiry: action}
		}
	}
	deleted, stopped, used := newSandbox("deleted", idle(v1.ExpiryDelete)), newSandbox("stopped", idle(v1.ExpiryStop)), newSandbox("used")
	d.create(goldenImage("golden"), used)
	end := d.usage.Begin(used.UID) // before it has a timeout, and longer than that
	d.update(used, idle(v1.ExpiryDelete))
	d.create(deleted, stopped)
	until(d, stopped, "stopped", because(v1.ConditionReady, v1.ReasonExpired))
	d.gone(deleted)
	until(d, used, "ready, and in use", func(s *v1.Sandbox) bool { return ready(s) && s.Status.LastUsedAt != nil && s.Status.ExpiresAt != nil })
	if !used.Status.ExpiresAt.After(used.Status.LastUsedAt.Time) {
		t.Errorf("used at %v, expires at %v", used.Status.LastUsedAt, used.Status.ExpiresAt)
	}
	d.stop()
	d.start()
	until(d, stopped, "still stopped", because(v1.ConditionReady, v1.ReasonExpired))
	d.update(stopped, func(s *v1.Sandbox) { s.Spec.Lifecycle.IdleTimeout.Duration = time.Hour })
	until(d, stopped, "ready again", ready)
	end()
	d.gone(used)
}
