package controller_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/intercept"
)

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

// TestHeldForForks: a sandbox that is off and waits for its forks to go has only its disk
// reserved, and says nothing of a next try of what it wanted before.
func TestHeldForForks(t *testing.T) {
	d := host(t, fake.Options{})
	d.capacity = roomFor(10)
	var failing atomic.Bool
	d.wrap = func(p providers.Provider) providers.Provider {
		return intercept.Wrap(p, func(_ context.Context, at intercept.Point) error {
			if at.When == intercept.Before && at.Verb == "Suspend" && failing.Load() {
				return providers.Errorf(providers.ErrBusy, "machine", "not now")
			}
			return nil
		})
	}
	d.start()
	src, snap := newSandbox("src"), newSnapshot("s", "src", false)
	a := fork("a", "s")
	d.create(goldenImage("golden"), src, snap, a)
	until(d, a, "ready", ready)
	failing.Store(true)
	d.power(src, v1.PowerSuspended)
	until(d, src, "failing", func(s *v1.Sandbox) bool { return s.Status.NextTryAt != nil })
	d.remove(src)
	until(d, src, "held", func(s *v1.Sandbox) bool { return condition(s, v1.ConditionReady).Reason == v1.ReasonInUse })
	has := src.Status.Reserved // with room for the memory that was to be saved
	if c := condition(src, v1.ConditionAdmitted); has == nil || has.Memory != nil || has.CPUs != 0 || has.Disk == nil || c.Message != "reserved: 1.3Gi disk" {
		t.Errorf("reserved while it is off: %+v, %+v", has, c)
	}
	if src.Status.NextTryAt != nil {
		t.Errorf("it is said to be tried again at %v", src.Status.NextTryAt)
	}
}
