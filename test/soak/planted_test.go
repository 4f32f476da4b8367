package soak

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// planted runs a daemon with one fault planted, and demands that the audit finds it.
// With none it must find nothing.
func planted(t *testing.T, finds string, prepare func(*host), plant func(*users)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, 1)
		u := newUsers(h, 1, 10)
		if prepare != nil {
			prepare(h)
		}
		h.start()
		defer func() { h.end() }()
		u.image("golden", disk("golden.qcow2"))
		for range 5 {
			u.box()
		}
		time.Sleep(time.Hour)
		if wrong := auditOf(u); len(wrong) > 0 {
			t.Fatalf("found before anything was planted: %q", wrong)
		}
		plant(u)
		time.Sleep(bound)
		wrong := auditOf(u)
		if finds == "" && len(wrong) > 0 || finds != "" && !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, finds) }) {
			t.Errorf("found %q, want %q", wrong, finds)
		}
	})
}

// box makes a sandbox that is nothing special.
func (u *users) box() {
	u.add(&v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: u.name("box")}, Spec: v1.SandboxSpec{Image: "golden"}})
}

// TestAuditFindsNothing where nothing is planted.
func TestAuditFindsNothing(t *testing.T) { planted(t, "", nil, func(*users) {}) }

// TestAuditFindsOrphans has a machine without an object, and nobody who sweeps.
func TestAuditFindsOrphans(t *testing.T) {
	planted(t, "orphan: machine", func(h *host) { h.sweep = 1000 * time.Hour }, func(u *users) {
		img := &v1.GoldenImage{}
		must(u.t, u.client.Get(context.Background(), types.NamespacedName{Name: "golden"}, img))
		must(u.t, u.provider().EnsureMachine(context.Background(), providers.MachineSpec{
			ID: "22222222-0000-4000-8000-000000000000", Namespace: "default", Name: "gone", CPUs: 1, MemoryBytes: 128 << 20,
			Image: providers.ImageRef{UID: img.UID, Revision: img.Status.Revision}, Network: v1.Network{Mode: v1.NetworkNone},
		}))
	})
}

// TestAuditFindsStuckObjects has an object that somebody holds, and one that the
// weather keeps from running.
func TestAuditFindsStuckObjects(t *testing.T) {
	planted(t, "box-7 is stuck: it is not deleted", nil, func(u *users) {
		held := &v1.Sandbox{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "box-7", Finalizers: []string{"example.com/held"}},
			Spec:       v1.SandboxSpec{Image: "golden"},
		}
		u.add(held)
		must(u.t, u.client.Delete(context.Background(), held))
	})
	planted(t, "is stuck: False InsufficientCapacity", nil, func(u *users) {
		u.weather.set(false, true)
		u.box()
	})
}

// TestAuditFindsSpinningRetries has a backoff that does not back off.
func TestAuditFindsSpinningRetries(t *testing.T) {
	spin := func(h *host) {
		h.limiter = func() workqueue.TypedRateLimiter[reconcile.Request] {
			return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, time.Second)
		}
	}
	planted(t, fmt.Sprintf("where the backoff allows %d", worstMinute), spin, func(u *users) {
		u.weather.set(false, true)
		u.box()
	})
}
