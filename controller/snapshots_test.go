package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

func newSnapshot(name, sandbox string, memory bool) *v1.SandboxSnapshot {
	return &v1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       v1.SandboxSnapshotSpec{Sandbox: sandbox, Memory: memory},
	}
}

func fork(name, of string) *v1.Sandbox {
	return newSandbox(name, func(s *v1.Sandbox) { s.Spec.FromSnapshot = of })
}

func saying(t, reason, words string) func(*v1.SandboxSnapshot) bool {
	return func(s *v1.SandboxSnapshot) bool {
		c := condition(s, t)
		return c.Reason == reason && strings.Contains(c.Message, words)
	}
}

// file reads a file of a guest; "" when there is none.
func (d *daemon) file(sbx *v1.Sandbox, path string) string {
	d.t.Helper()
	var out strings.Builder
	if _, err := d.provider().ReadFile(d.t.Context(), sbx.UID, path, &out); err != nil && !errors.Is(err, providers.ErrNotFound) {
		d.t.Fatal(err)
	}
	return out.String()
}

func (d *daemon) put(sbx *v1.Sandbox, path, content string) {
	d.t.Helper()
	must(d.t, d.provider().WriteFile(d.t.Context(), sbx.UID, path, 0o600, strings.NewReader(content)))
}

// revert reverts a sandbox and waits until it is ready again.
func (d *daemon) revert(sbx *v1.Sandbox, to, request string) {
	d.t.Helper()
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: to, Request: request} })
	until(d, sbx, "reverted", func(s *v1.Sandbox) bool {
		return ready(s) && s.Status.Revert != nil && s.Status.Revert.Request == request
	})
}

func (d *daemon) remove(objects ...client.Object) {
	d.t.Helper()
	for _, o := range objects {
		must(d.t, d.client.Delete(d.t.Context(), o))
	}
}

func TestSnapshotLife(t *testing.T) {
	d := host(t, fake.Options{Latency: fake.Latency{Boot: 50 * time.Millisecond}})
	d.start()
	sbx, snap := newSandbox("web"), newSnapshot("s", "web", false)
	d.create(snap) // before its sandbox
	until(d, snap, "waiting for its sandbox", saying(v1.ConditionReady, v1.ReasonSandboxNotFound, `waits for sandbox "web" to be made`))
	d.create(goldenImage("golden"), sbx)
	until(d, snap, "ready", ready)
	until(d, sbx, "ready", ready)
	st := snap.Status
	if st.Phase != v1.SnapshotReady || st.MachineID != string(sbx.UID) || st.Provider != v1.ProviderKVM || st.Image != "golden" ||
		st.ImageRevision != sbx.Status.ImageRevision || st.TakenAt == nil || st.Size == nil || st.ObservedGeneration != snap.Generation {
		t.Errorf("status: %+v", st)
	}
	if o := snap.OwnerReferences; len(o) != 1 || o[0].UID != sbx.UID || o[0].Kind != "Sandbox" {
		t.Errorf("owner references: %+v", o)
	}
	if sbx.Status.Restarts != 0 {
		t.Errorf("%d restarts", sbx.Status.Restarts)
	}

	d.put(sbx, "/root/mark", "after")
	d.revert(sbx, "s", "1")
	if got := d.file(sbx, "/root/mark"); got != "" {
		t.Errorf("the mark survived the revert: %q", got)
	}
	d.revert(sbx, v1.SnapshotGolden, "2")
	d.put(sbx, "/root/mark", "after")
	d.revert(sbx, "s", "3")
	if got := d.file(sbx, "/root/mark"); got != "" || sbx.Status.Restarts != 0 {
		t.Errorf("the mark survived the second revert: %q; %d restarts", got, sbx.Status.Restarts)
	}
	d.remove(snap)
	d.gone(snap)
	if !slices.ContainsFunc(d.leftovers(), func(r providers.Resource) bool { return slices.Contains(r.Owners, sbx.UID) }) {
		t.Error("the machine went with its snapshot")
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: "s", Request: "4"} })
	until(d, sbx, "told that there is none", because(v1.ConditionReady, v1.ReasonSnapshotNotFound))
	if condition(sbx, v1.ConditionPoweredOn).Status != metav1.ConditionTrue {
		t.Error("a revert that waits stopped the machine")
	}
}

func TestSnapshotWithMemory(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx, snap := newSandbox("web"), newSnapshot("s", "web", true)
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	d.put(sbx, "/run/mark", "in memory")
	started := sbx.Status.StartedAt
	d.create(snap)
	until(d, snap, "ready", ready)
	until(d, sbx, "ready", ready)
	if sbx.Status.Restarts != 0 || !sbx.Status.StartedAt.Equal(started) {
		t.Errorf("taking it was taken for an end: %+v", sbx.Status)
	}
	boot := d.file(sbx, "/proc/sys/kernel/random/boot_id")
	d.put(sbx, "/run/mark", "changed")
	d.revert(sbx, "s", "1")
	if got := d.file(sbx, "/run/mark"); got != "in memory" {
		t.Errorf("memory after the revert: %q", got)
	}
	if got := d.file(sbx, "/proc/sys/kernel/random/boot_id"); got != boot || sbx.Status.Restarts != 0 {
		t.Errorf("booted again: %q, want %q; %d restarts", got, boot, sbx.Status.Restarts)
	}

	// A machine that is off has no memory; the wait is over when it runs.
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
	until(d, sbx, "stopped", because(v1.ConditionReady, v1.ReasonStopped))
	late := newSnapshot("late", "web", true)
	d.create(late)
	until(d, late, "waiting", saying(v1.ConditionReady, v1.ReasonSandboxNotReady, "is off, and has no memory"))

	// To be reverted to what is not taken yet keeps nobody waiting for the other.
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: "late", Request: "2"} })
	until(d, sbx, "waiting", because(v1.ConditionReady, v1.ReasonSnapshotNotReady))
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning })
	until(d, late, "ready", ready)
	until(d, sbx, "reverted", func(s *v1.Sandbox) bool { return ready(s) && s.Status.Revert.Request == "2" })
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerSuspended })
	until(d, sbx, "suspended", because(v1.ConditionReady, v1.ReasonSuspended))
	asleep := newSnapshot("asleep", "web", true)
	d.create(asleep)
	until(d, asleep, "ready", ready)
	if m, err := d.provider().GetMachine(t.Context(), sbx.UID); err != nil || m.Power != providers.PowerSaved {
		t.Errorf("it was suspended, and is %s (%v)", m.Power, err)
	}
}

func TestRevertsThatCannotBe(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	one, two, snap := newSandbox("one"), newSandbox("two"), newSnapshot("s", "two", false)
	d.create(goldenImage("golden"), one, two, snap)
	until(d, snap, "ready", ready)
	until(d, one, "ready", ready)
	d.update(one, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: "s", Request: "1"} })
	until(d, one, "stalled", because(v1.ConditionStalled, v1.ReasonInvalid))
	if m := condition(one, v1.ConditionStalled).Message; !strings.Contains(m, `is of sandbox "two"`) {
		t.Error(m)
	}
	own := newSnapshot("own", "one", false)
	d.update(one, func(s *v1.Sandbox) { s.Spec.RevertTo.Snapshot = "own" })
	until(d, one, "waiting", because(v1.ConditionReady, v1.ReasonSnapshotNotFound))
	d.create(own)
	until(d, one, "reverted", func(s *v1.Sandbox) bool { return ready(s) && s.Status.Revert != nil })
}

func TestLostSnapshotIsNotTakenAgain(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx, snap := newSandbox("web"), newSnapshot("s", "web", false)
	d.create(goldenImage("golden"), sbx, snap)
	until(d, snap, "ready", ready)
	ref := providers.SnapshotRef{Machine: sbx.UID, ID: snap.UID}
	must(t, d.provider().DeleteSnapshot(t.Context(), ref))
	until(d, snap, "lost", saying(v1.ConditionStalled, v1.ReasonLost, "kvm has it no more"))
	if snap.Status.Phase != v1.SnapshotFailed || ready(snap) {
		t.Errorf("status: %+v", snap.Status)
	}
	d.stop()
	d.start()
	until(d, sbx, "ready", ready)
	if _, err := d.provider().GetSnapshot(t.Context(), ref); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("taken again: %v", err)
	}
	d.remove(snap)
	d.gone(snap)
}

func TestSnapshotsGoWithTheirSandbox(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web")
	snap, pending := newSnapshot("s", "web", false), newSnapshot("pending", "nobody", false)
	d.create(goldenImage("golden"), sbx, snap, pending)
	until(d, snap, "ready", ready)
	d.remove(sbx)
	d.gone(sbx)
	d.gone(snap)
	until(d, pending, "waiting", saying(v1.ConditionReady, v1.ReasonSandboxNotFound, ""))
	again := newSandbox("web")
	d.create(again)
	until(d, again, "ready", ready)
	if err := d.client.Get(t.Context(), client.ObjectKeyFromObject(snap), snap); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("another sandbox of the name brought the snapshot back: %v", err)
	}
}

// TestSandboxIsLeftAloneWhileItIsKept stops in the middle of taking a snapshot, while
// the machine stands still, and looks whether its sandbox is taken for crashed.
func TestSandboxIsLeftAloneWhileItIsKept(t *testing.T) {
	d := host(t, fake.Options{Latency: fake.Latency{Step: 20 * time.Millisecond}})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	started := sbx.Status.StartedAt
	for i := range 5 {
		snap := newSnapshot(fmt.Sprintf("s%d", i), "web", true)
		d.create(snap)
		until(d, snap, "ready", ready)
	}
	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
	if sbx.Status.Restarts != 0 || !sbx.Status.StartedAt.Equal(started) || !ready(sbx) {
		t.Errorf("status: %+v", sbx.Status)
	}
}

// TestSnapshotDeletedWhileItIsTaken: the machine that stands still goes on, and that is
// no restart.
func TestSnapshotDeletedWhileItIsTaken(t *testing.T) {
	d := host(t, fake.Options{Latency: fake.Latency{Step: 100 * time.Millisecond}})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	paused := 0
	for i, deadline := 0, time.Now().Add(patience); i < 10 || paused == 0 && time.Now().Before(deadline); i++ {
		snap := newSnapshot(fmt.Sprintf("s%d", i), "web", true)
		d.create(snap)
		d.eventually("standing still, or taken", func() error {
			m, err := d.provider().GetMachine(t.Context(), sbx.UID)
			if err == nil && m.Power == providers.PowerPaused {
				paused++
				return nil
			}
			if err := d.client.Get(t.Context(), client.ObjectKeyFromObject(snap), snap); err != nil || ready(snap) {
				return err
			}
			return fmt.Errorf("it is %s (%v)", m.Power, err)
		})
		d.remove(snap)
		d.gone(snap)
		until(d, sbx, "ready", ready)
		d.eventually("running", func() error {
			if m, err := d.provider().GetMachine(t.Context(), sbx.UID); err != nil || m.Power != providers.PowerRunning {
				return fmt.Errorf("it is %s (%v)", m.Power, err)
			}
			return nil
		})
	}
	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(sbx), sbx))
	if paused == 0 || sbx.Status.Restarts != 0 {
		t.Errorf("%d were interrupted, %d restarts", paused, sbx.Status.Restarts)
	}
}
