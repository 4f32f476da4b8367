package crash_test

import (
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// What users write.

func goldenImage(name string) *v1.GoldenImage {
	return &v1.GoldenImage{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.GoldenImageSpec{Source: v1.ImageSource{Disk: &v1.DiskSource{Path: "golden.qcow2"}}},
	}
}

func promoted(name, sandbox string) *v1.GoldenImage {
	img := goldenImage(name)
	img.Spec.Source = v1.ImageSource{Sandbox: &v1.SandboxSource{Namespace: "default", Name: sandbox}}
	return img
}

func built(name string) *v1.GoldenImage {
	img := goldenImage(name)
	img.Spec.Provision = []v1.ProvisionStep{
		{Name: "one", Script: "echo one >>/opt/built"},
		{Name: "two", File: &v1.ProvisionFile{Path: "/opt/two", Content: "2"}},
		{Name: "three", Script: "echo three >>/opt/built"},
	}
	return img
}

func sandbox(name string, changes ...func(*v1.Sandbox)) *v1.Sandbox {
	s := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.SandboxSpec{Image: "golden"}}
	for _, change := range changes {
		change(s)
	}
	return s
}

func newSnapshot(name, sandbox string, memory bool) *v1.SandboxSnapshot {
	return &v1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       v1.SandboxSnapshotSpec{Sandbox: sandbox, Memory: memory},
	}
}

func of(image string) func(*v1.Sandbox) { return func(s *v1.Sandbox) { s.Spec.Image = image } }

func natted(guestPorts ...int32) func(*v1.Sandbox) {
	return func(s *v1.Sandbox) {
		s.Spec.Network = v1.Network{Mode: v1.NetworkNAT}
		for _, p := range guestPorts {
			s.Spec.Network.PortForwards = append(s.Spec.Network.PortForwards, v1.PortForward{Name: fmt.Sprint("p", p), GuestPort: p})
		}
	}
}

func keyed(key string) func(*v1.Sandbox) {
	return func(s *v1.Sandbox) { s.Spec.CloudInit.SSHAuthorizedKeys = []string{key} }
}

func revertTo(snapshot string) func(*v1.Sandbox) {
	return func(s *v1.Sandbox) { s.Spec.RevertTo = &v1.RevertTo{Snapshot: snapshot, Request: "1"} }
}

// How they write it. A write that was not acknowledged may have been made.

func nothing(stage) error { return nil }

func create(o client.Object) func(stage) error {
	return func(s stage) error {
		return client.IgnoreAlreadyExists(s.client.Create(s.ctx, o.DeepCopyObject().(client.Object)))
	}
}

func remove(o client.Object) func(stage) error {
	return func(s stage) error {
		return client.IgnoreNotFound(s.client.Delete(s.ctx, o.DeepCopyObject().(client.Object)))
	}
}

func update(name string, change func(*v1.Sandbox)) func(stage) error {
	return func(s stage) error {
		box := sandbox(name)
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(box), box); err != nil {
			return err
		}
		before := box.DeepCopy()
		change(box)
		return s.client.Patch(s.ctx, box, client.MergeFrom(before))
	}
}

func power(name string, to v1.PowerState) func(stage) error {
	return update(name, func(s *v1.Sandbox) { s.Spec.PowerState = to })
}

func retarget(image, path string) func(stage) error {
	return func(s stage) error {
		img := goldenImage(image)
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(img), img); err != nil {
			return err
		}
		before := img.DeepCopy()
		img.Spec.Source.Disk.Path = path
		return s.client.Patch(s.ctx, img, client.MergeFrom(before))
	}
}

// What must become of it.

func all(checks ...func(stage) error) func(stage) error {
	return func(s stage) error {
		for _, check := range checks {
			if err := check(s); err != nil {
				return err
			}
		}
		return nil
	}
}

// object gets one of the names that operations use.
func (s stage) object(name string) (client.Object, []metav1.Condition, int64, error) {
	key := client.ObjectKey{Namespace: "default", Name: name}
	switch name {
	case "golden", "second", "made":
		img := &v1.GoldenImage{}
		err := s.client.Get(s.ctx, client.ObjectKey{Name: name}, img)
		return img, img.Status.Conditions, img.Status.ObservedGeneration, err
	case "snap":
		snap := &v1.SandboxSnapshot{}
		err := s.client.Get(s.ctx, key, snap)
		return snap, snap.Status.Conditions, snap.Status.ObservedGeneration, err
	}
	box := &v1.Sandbox{}
	err := s.client.Get(s.ctx, key, box)
	return box, box.Status.Conditions, box.Status.ObservedGeneration, err
}

func (s stage) sandbox(name string) (*v1.Sandbox, error) {
	o, _, _, err := s.object(name)
	return o.(*v1.Sandbox), err
}

// isReady waits for Ready; of an image, until its build is done with, too.
func isReady(name string) func(stage) error {
	return func(s stage) error {
		o, conditions, observed, err := s.object(name)
		if err != nil {
			return err
		}
		if observed != o.GetGeneration() {
			return fmt.Errorf("%s: generation %d is observed, not %d", name, observed, o.GetGeneration())
		}
		if img, ok := o.(*v1.GoldenImage); ok && img.Status.Build != nil && img.Status.Build.Phase != v1.BuildDone {
			return fmt.Errorf("%s: its build is %s", name, img.Status.Build.Phase)
		}
		for _, c := range conditions {
			if c.Type == v1.ConditionReady && c.Status == metav1.ConditionTrue && c.ObservedGeneration == o.GetGeneration() {
				return nil
			}
		}
		return fmt.Errorf("%s: not ready: %+v", name, conditions)
	}
}

func is(name string, phase v1.SandboxPhase) func(stage) error {
	return func(s stage) error {
		box, err := s.sandbox(name)
		if err == nil && (box.Status.Phase != phase || box.Status.ObservedGeneration != box.Generation) {
			err = fmt.Errorf("%s: %s, want %s: %+v", name, box.Status.Phase, phase, box.Status.Conditions)
		}
		return err
	}
}

func reverted(name string) func(stage) error {
	return all(isReady(name), func(s stage) error {
		box, err := s.sandbox(name)
		if err == nil && (box.Status.Revert == nil || box.Status.Revert.Request != "1") {
			err = fmt.Errorf("%s: not reverted: %+v", name, box.Status)
		}
		return err
	})
}

func gone(o client.Object) func(stage) error {
	return func(s stage) error {
		got := o.DeepCopyObject().(client.Object)
		err := s.client.Get(s.ctx, client.ObjectKeyFromObject(o), got)
		if err == nil {
			return fmt.Errorf("%s: still there", o.GetName())
		}
		return client.IgnoreNotFound(err)
	}
}

const markPath = "/root/mark"

// marked writes into a guest once it is ready.
func marked(name, content string) func(stage) error {
	return all(isReady(name), func(s stage) error {
		box, err := s.sandbox(name)
		if err != nil {
			return err
		}
		return s.host.write(s.ctx, box.UID, markPath, content)
	})
}

// holds tells whether what was written in a guest is as it must be.
func holds(name, content string) func(stage) error { return contains(name, markPath, content) }

func contains(name, path, content string) func(stage) error {
	return func(s stage) error {
		box, err := s.sandbox(name)
		if err != nil {
			return err
		}
		got, err := s.host.read(s.ctx, box.UID, path)
		if err == nil && got != content {
			err = fmt.Errorf("%s: %s holds %q, want %q", name, path, got, content)
		}
		return err
	}
}

func admits(name, key string) func(stage) error {
	return func(s stage) error {
		box, err := s.sandbox(name)
		if err != nil {
			return err
		}
		got, err := s.host.read(s.ctx, box.UID, "/root/.ssh/authorized_keys")
		if err == nil && strings.Count(got, "ssh-") != 1 || !strings.Contains(got, key) {
			err = fmt.Errorf("%s: lets in %q, want %q alone: %w", name, got, key, errors.Join(err))
		}
		return err
	}
}

func processors(name, n string) func(stage) error {
	return func(s stage) error {
		box, err := s.sandbox(name)
		if err != nil {
			return err
		}
		got, err := s.host.read(s.ctx, box.UID, "/proc/cpuinfo")
		if cpus := fmt.Sprint(strings.Count(got, "processor")); err == nil && cpus != n {
			err = fmt.Errorf("%s: it has %s processors, want %s", name, cpus, n)
		}
		return err
	}
}

func forwards(name string, guestPorts ...int32) func(stage) error {
	return func(s stage) error {
		box, err := s.sandbox(name)
		if err != nil {
			return err
		}
		m, err := s.host.machine(s.ctx, box.UID)
		if err != nil {
			return err
		}
		for _, list := range [][]v1.PortForward{m.PortForwards, box.Status.PortForwards} {
			same := len(list) == len(guestPorts)
			for i := range min(len(list), len(guestPorts)) {
				same = same && list[i].GuestPort == guestPorts[i] && list[i].HostPort != 0
			}
			if !same {
				return fmt.Errorf("%s: forwards to %v: it has %+v", name, guestPorts, list)
			}
		}
		return nil
	}
}

func powered(name string, power providers.Power) func(stage) error {
	return func(s stage) error {
		box, err := s.sandbox(name)
		if err != nil {
			return err
		}
		m, err := s.host.machine(s.ctx, box.UID)
		if err == nil && m.Power != power {
			err = fmt.Errorf("%s: its machine is %s, want %s", name, m.Power, power)
		}
		return err
	}
}

// revisions waits for an image to have so many.
func revisions(image string, n int) func(stage) error {
	return all(isReady(image), func(s stage) error {
		o, _, _, err := s.object(image)
		if err == nil && len(o.(*v1.GoldenImage).Status.Revisions) != n {
			err = fmt.Errorf("%s: %d revisions, want %d", image, len(o.(*v1.GoldenImage).Status.Revisions), n)
		}
		return err
	})
}

// apart tells whether two sandboxes are of different revisions.
func apart(one, two string) func(stage) error {
	return func(s stage) error {
		a, err := s.sandbox(one)
		if err != nil {
			return err
		}
		b, err := s.sandbox(two)
		if err == nil && (a.Status.ImageRevision == b.Status.ImageRevision || b.Status.ImageRevision == "") {
			err = fmt.Errorf("%s and %s are of revision %q", one, two, b.Status.ImageRevision)
		}
		return err
	}
}
