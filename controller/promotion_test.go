package controller_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/intercept"
)

func promoted(name, sandbox, snapshot string) *v1.GoldenImage {
	img := goldenImage(name)
	img.Spec.Source = v1.ImageSource{Sandbox: &v1.SandboxSource{Namespace: "default", Name: sandbox, Snapshot: snapshot}}
	return img
}

func imageReady(i *v1.GoldenImage) bool {
	return condition(i, v1.ConditionReady).Status == "True" && i.Status.ObservedGeneration == i.Generation
}

// TestPromote makes an image of a sandbox that runs at first.
func TestPromote(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	box, img := newSandbox("box"), promoted("from-box", "box", "")
	d.create(img)
	until(d, img, "waiting for the sandbox", func(i *v1.GoldenImage) bool {
		return condition(i, v1.ConditionReady).Reason == providers.ReasonSourceNotFound
	})
	d.create(goldenImage("golden"), box)
	until(d, box, "running", func(s *v1.Sandbox) bool { return condition(s, v1.ConditionReady).Status == "True" })
	until(d, img, "asking to stop it", func(i *v1.GoldenImage) bool {
		c := condition(i, v1.ConditionReady)
		return c.Reason == v1.ReasonSandboxOn && strings.Contains(c.Message, "stop it, or name one of its snapshots")
	})
	must(t, d.provider().WriteFile(t.Context(), box.UID, "/root/mine", 0o644, strings.NewReader("mine")))
	d.update(box, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
	until(d, img, "made", imageReady)
	first, digest := img.Status.Revision, img.Status.Digest
	if origin := img.Status.Origin; origin == nil || origin.UID != string(box.UID) || digest == "" ||
		img.Status.Revisions[0].Source != "sandbox default/box" {
		t.Errorf("the image is %s", show(img))
	}

	// What the image was made of may go, and another take its name.
	must(t, d.client.Delete(t.Context(), box))
	d.gone(box)
	clone := newSandbox("clone", func(s *v1.Sandbox) { s.Spec.Image = "from-box" })
	box = newSandbox("box")
	d.create(clone, box)
	until(d, clone, "running", func(s *v1.Sandbox) bool { return condition(s, v1.ConditionReady).Status == "True" })
	var out strings.Builder
	if _, err := d.provider().ReadFile(t.Context(), clone.UID, "/root/mine", &out); err != nil || out.String() != "mine" {
		t.Errorf("the clone has %q, %v", out.String(), err)
	}
	d.stop()
	d.start()
	until(d, img, "as it was", func(i *v1.GoldenImage) bool {
		return imageReady(i) && i.Status.Revision == first && i.Status.Digest == digest && i.Status.Clones == 1
	})
}

// TestPromoteAnother follows the source to another sandbox and back to the first
// name, under which there is another one by then.
func TestPromoteAnother(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	stopped := func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped }
	one, two, img := newSandbox("one", stopped), newSandbox("two", stopped), promoted("made", "one", "")
	img.Spec.RevisionHistoryLimit = 2
	d.create(goldenImage("golden"), one, two, img)
	until(d, img, "made of the first", imageReady)
	revisions := map[string]bool{img.Status.Revision: true}
	source := func(name string) {
		t.Helper()
		must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(img), img))
		before := img.DeepCopy()
		img.Spec.Source.Sandbox.Name = name
		must(t, d.client.Patch(t.Context(), img, client.MergeFrom(before)))
		until(d, img, "made of "+name, func(i *v1.GoldenImage) bool {
			return imageReady(i) && i.Status.Origin.Source.Name == name
		})
		revisions[img.Status.Revision] = true
	}
	source("two")
	source("one") // as before: nothing is copied again
	if len(revisions) != 2 || len(img.Status.Revisions) != 2 {
		t.Errorf("the revisions are %v, %s", revisions, show(img))
	}
	must(t, d.client.Delete(t.Context(), one))
	d.gone(one)
	d.create(newSandbox("one", stopped))
	source("two")
	source("one")
	if len(revisions) != 3 {
		t.Errorf("another sandbox of the same name was taken for the first: %v", revisions)
	}
	if len(img.Status.Revisions) != 3 {
		t.Errorf("with a limit of 2 there are %s", show(img))
	}

	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(img), img))
	before := img.DeepCopy()
	img.Annotations = map[string]string{v1.AnnotationPruneBefore: time.Now().Add(time.Hour).Format(time.RFC3339)}
	must(t, d.client.Patch(t.Context(), img, client.MergeFrom(before)))
	until(d, img, "pruned", func(i *v1.GoldenImage) bool { return imageReady(i) && len(i.Status.Revisions) == 1 })
}

// TestPromoteSnapshot makes an image of a snapshot of a machine that runs.
func TestPromoteSnapshot(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	box := newSandbox("box")
	d.create(goldenImage("golden"), box)
	until(d, box, "running", func(s *v1.Sandbox) bool { return condition(s, v1.ConditionReady).Status == "True" })
	img := promoted("from-snapshot", "box", "clean")
	d.create(img)
	until(d, img, "waiting for the snapshot", func(i *v1.GoldenImage) bool {
		return condition(i, v1.ConditionReady).Reason == providers.ReasonSourceNotFound
	})
	snap := &v1.SandboxSnapshot{Spec: v1.SandboxSnapshotSpec{Sandbox: "box"}}
	snap.Namespace, snap.Name = "default", "clean"
	d.create(snap)
	_, err := d.provider().TakeSnapshot(t.Context(), providers.SnapshotSpec{
		SnapshotRef: providers.SnapshotRef{Machine: box.UID, ID: snap.UID}, Namespace: "default", Name: "clean",
	})
	must(t, err)
	d.eventually("snapshot taken", func() error {
		if err := d.client.Get(t.Context(), client.ObjectKeyFromObject(snap), snap); err != nil {
			return err
		}
		snap.Status.Conditions = []metav1.Condition{{
			Type: v1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1.ReasonAsSpecified,
			LastTransitionTime: metav1.Now(),
		}}
		return d.client.Status().Update(t.Context(), snap)
	})
	until(d, img, "made", imageReady)
	if got := img.Status.Origin; got == nil || types.UID(got.SnapshotUID) != snap.UID {
		t.Errorf("the image is %s", show(img))
	}
}

// TestPromoteVanished: a sandbox that vanishes when its copy has just ended, before
// anybody has looked, also if the daemon dies then, leaves an image that is ready.
func TestPromoteVanished(t *testing.T) {
	for name, dies := range map[string]bool{"the daemon goes on": false, "the daemon dies": true} {
		t.Run(name, func(t *testing.T) {
			d := host(t, fake.Options{})
			copied, goOn := make(chan struct{}), make(chan struct{})
			var once sync.Once
			var promoting atomic.Bool
			d.wrap = func(p providers.Provider) providers.Provider {
				return intercept.Wrap(p, func(ctx context.Context, at intercept.Point) error {
					if at.When == intercept.After && at.Verb == "ImportImage" && at.Err == nil && promoting.Load() {
						once.Do(func() { close(copied) })
						select {
						case <-goOn:
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					return nil
				})
			}
			d.start()
			box := newSandbox("box", func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
			d.create(goldenImage("golden"), box)
			until(d, box, "made", func(s *v1.Sandbox) bool { return condition(s, v1.ConditionProvisioned).Status == "True" })
			promoting.Store(true)
			img := promoted("from-box", "box", "")
			d.create(img)
			<-copied
			must(t, d.client.Delete(t.Context(), box))
			d.gone(box)
			if dies {
				d.stop()
				promoting.Store(false)
				d.start()
			}
			close(goOn)
			until(d, img, "ready", imageReady)
			if o := img.Status.Origin; o == nil || o.UID != string(box.UID) || len(img.Status.Revisions) != 1 {
				t.Errorf("the image is %s", show(img))
			}
		})
	}
}

// TestPromoteAfterAFailure: a sandbox that could not be copied is deleted and made anew
// under its name, and the image is made of the new one.
func TestPromoteAfterAFailure(t *testing.T) {
	d := host(t, fake.Options{})
	var broken atomic.Bool
	d.wrap = func(p providers.Provider) providers.Provider {
		return intercept.Wrap(p, func(_ context.Context, at intercept.Point) error {
			if at.When == intercept.Before && at.Verb == "ImportImage" && broken.Load() {
				return providers.Errorf(providers.ErrInvalid, "disk", "it is damaged")
			}
			return nil
		})
	}
	d.start()
	stopped := func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped }
	box, img := newSandbox("box", stopped), promoted("from-box", "box", "")
	d.create(goldenImage("golden"), box)
	until(d, box, "made", func(s *v1.Sandbox) bool { return condition(s, v1.ConditionProvisioned).Status == "True" })
	broken.Store(true)
	d.create(img)
	until(d, img, "stalled", func(i *v1.GoldenImage) bool { return condition(i, v1.ConditionStalled).Status == "True" })
	broken.Store(false)
	must(t, d.client.Delete(t.Context(), box))
	d.gone(box)
	box = newSandbox("box", stopped)
	d.create(box)
	until(d, img, "made of the new one", func(i *v1.GoldenImage) bool {
		return imageReady(i) && i.Status.Origin != nil && i.Status.Origin.UID == string(box.UID)
	})
}
