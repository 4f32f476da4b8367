package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
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

func TestForks(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img, src, snap := goldenImage("golden"), newSandbox("src"), newSnapshot("s", "src", false)
	early := fork("early", "s") // before there is anything to begin from
	d.create(img, early, src)
	until(d, early, "waiting", because(v1.ConditionReady, v1.ReasonSnapshotNotFound))
	until(d, src, "ready", ready)
	d.update(src, func(s *v1.Sandbox) { s.Spec.CloudInit.SSHAuthorizedKeys = []string{"ssh-ed25519 AAAA source"} })
	until(d, src, "ready with its key", func(s *v1.Sandbox) bool {
		return ready(s) && s.Status.ObservedGeneration == s.Generation && d.file(s, "/root/.ssh/authorized_keys") != ""
	})
	d.put(src, "/root/mark", "of the source")
	d.create(snap)
	until(d, early, "ready", ready)
	late, wrong := fork("late", "s"), fork("wrong", "s")
	wrong.Spec.Image = "other"
	other := goldenImage("other")
	other.Spec.Source.Disk.Path = "other-golden.qcow2"
	d.create(other, late, wrong)
	until(d, late, "ready", ready)
	until(d, wrong, "stalled", because(v1.ConditionStalled, v1.ReasonInvalid))
	if m := condition(wrong, v1.ConditionStalled).Message; !strings.Contains(m, `of image "golden"`) {
		t.Error(m)
	}
	until(d, snap, "seen to have two forks", func(s *v1.SandboxSnapshot) bool { return s.Status.Forks == 2 })

	// A new revision of the image is for others: a fork stays on the snapshot's.
	patched := img.DeepCopy()
	patched.Spec.Source.Disk.Path = "other-golden.qcow2"
	must(t, d.client.Patch(t.Context(), patched, client.MergeFrom(img)))
	until(d, img, "two revisions", func(i *v1.GoldenImage) bool { return ready(i) && len(i.Status.Revisions) == 2 })
	later := fork("later", "s")
	d.create(later)
	until(d, later, "ready", ready)

	ids := map[string]bool{}
	for _, f := range []*v1.Sandbox{early, late, later} {
		if got := d.file(f, "/root/mark"); got != "of the source" || f.Status.ImageRevision != src.Status.ImageRevision {
			t.Errorf("%s: mark %q, revision %s, want %s", f.Name, got, f.Status.ImageRevision, src.Status.ImageRevision)
		}
		ids[d.file(f, "/proc/sys/kernel/random/boot_id")] = true
		if got := strings.TrimSpace(d.file(f, "/root/.ssh/authorized_keys")); got != "" {
			t.Errorf("%s lets in who was let in to the source: %q", f.Name, got)
		}
		d.put(f, "/root/mark", f.Name)
	}
	if got := d.file(src, "/root/mark"); got != "of the source" || len(ids) != 3 {
		t.Errorf("the source's mark is %q; %d boots", got, len(ids))
	}

	// The golden state of a fork is the one that it was cloned in.
	d.revert(late, v1.SnapshotGolden, "1")
	if got := d.file(late, "/root/mark"); got != "of the source" {
		t.Errorf("reverted to its beginning: mark %q", got)
	}
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

// TestDeletionInAnyOrder deletes a sandbox, its snapshot and its forks in every
// order, and demands that what is held says by whom and that all converges.
func TestDeletionInAnyOrder(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img := goldenImage("golden")
	d.create(img)
	for i, order := range permutations([]int{0, 1, 2, 3}) {
		src, snap := newSandbox(fmt.Sprintf("src%d", i)), newSnapshot(fmt.Sprintf("s%d", i), fmt.Sprintf("src%d", i), i%2 == 0)
		a, b := fork(fmt.Sprintf("a%d", i), snap.Name), fork(fmt.Sprintf("b%d", i), snap.Name)
		d.create(src, snap, a, b)
		until(d, a, "ready", ready)
		until(d, b, "ready", ready)
		until(d, snap, "seen to have forks", func(s *v1.SandboxSnapshot) bool { return s.Status.Forks == 2 })
		for n, which := range order {
			d.remove([]client.Object{src, snap, a, b}[which])
			if n > 0 {
				continue
			}
			both := fmt.Sprintf("2 forks a%d, b%d are gone", i, i)
			switch which {
			case 0:
				until(d, src, "held", func(s *v1.Sandbox) bool {
					c := condition(s, v1.ConditionReady)
					return c.Reason == v1.ReasonInUse && strings.Contains(c.Message, both) && s.Status.Phase == v1.SandboxTerminating
				})
				if m, err := d.provider().GetMachine(t.Context(), src.UID); err != nil || m.Power != providers.PowerOff {
					t.Errorf("it is held and %s (%v), want it off", m.Power, err)
				}
			case 1:
				until(d, snap, "held", saying(v1.ConditionReady, v1.ReasonInUse, "to be deleted once its "+both))
			}
		}
		for _, o := range []client.Object{src, snap, a, b} {
			d.gone(o)
		}
	}
	d.remove(img)
	d.gone(img)
	if left := d.leftovers(); len(left) != 0 {
		t.Errorf("left over: %+v", left)
	}
}

func permutations(of []int) [][]int {
	if len(of) == 0 {
		return [][]int{nil}
	}
	var all [][]int
	for i, first := range of {
		rest := append(slices.Clone(of[:i]), of[i+1:]...)
		for _, p := range permutations(rest) {
			all = append(all, append([]int{first}, p...))
		}
	}
	return all
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
	for i := range 10 {
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

// TestKilledAnywhere kills the daemon at every call of a provider in a life with a
// snapshot, a revert and a fork, and demands of the next one that it converges: with
// the data that is to be there, without a restart that was none, and with nothing
// left in the end.
func TestKilledAnywhere(t *testing.T) {
	count := fault.NewDeath(0)
	killedLife(t, count)
	points := count.Points()
	if points < 20 {
		t.Fatalf("only %d points", points)
	}
	step := int64(1)
	if testing.Short() {
		step = 7
	}
	for n := int64(1); n <= points; n += step {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			killedLife(t, fault.NewDeath(n))
		})
	}
}

func killedLife(t *testing.T, death *fault.Death) {
	d := host(t, fake.Options{})
	d.wrap = func(p providers.Provider) providers.Provider { return fault.Wrap(p, death.Hook) }
	d.start()
	// Dying lasts until the daemon is stopped; the next one lives.
	revive := func() {
		d.wrap = nil
		d.stop()
		d.start()
	}
	var dead bool
	settle := func(what string, ok func() error) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			err := ok()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %v", what, err)
			}
			select {
			case <-death.Died():
				if !dead {
					dead = true
					revive()
				}
			default:
			}
		}
	}
	img, src, snap, child := goldenImage("golden"), newSandbox("src"), newSnapshot("s", "src", true), fork("child", "s")
	become := func(o client.Object, ok func() bool) {
		t.Helper()
		settle(o.GetName()+" as wanted", func() error {
			if err := d.client.Get(context.Background(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			if !ok() {
				return errors.New(show(o))
			}
			return nil
		})
	}
	d.create(img, src)
	become(src, func() bool { return ready(src) })
	outside := func(f func(id types.UID, p providers.Provider) error) { must(t, f(src.UID, d.provider())) }
	outside(func(id types.UID, p providers.Provider) error {
		return p.WriteFile(context.Background(), id, "/root/mark", 0o600, strings.NewReader("kept"))
	})
	d.create(snap)
	become(snap, func() bool { return ready(snap) })
	become(src, func() bool { return ready(src) })
	outside(func(id types.UID, p providers.Provider) error {
		return p.WriteFile(context.Background(), id, "/root/mark", 0o600, strings.NewReader("lost"))
	})
	d.update(src, func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: "s", Request: "1"} })
	d.create(child)
	become(src, func() bool { return ready(src) && src.Status.Revert != nil })
	become(child, func() bool { return ready(child) })
	for _, s := range []*v1.Sandbox{src, child} {
		if got := d.file(s, "/root/mark"); got != "kept" || s.Status.Restarts != 0 {
			t.Errorf("%s: mark %q, %d restarts", s.Name, got, s.Status.Restarts)
		}
	}
	d.remove(snap, src, child, img)
	for _, o := range []client.Object{snap, src, child, img} {
		settle(o.GetName()+" gone", func() error {
			err := d.client.Get(context.Background(), client.ObjectKeyFromObject(o), o)
			if err == nil {
				return errors.New(show(o))
			}
			return client.IgnoreNotFound(err)
		})
	}
	if left := d.leftovers(); len(left) != 0 {
		t.Errorf("left over: %+v", left)
	}
}
