package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

func TestSandboxLife(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img, sbx := goldenImage("golden"), newSandbox("web")
	d.create(sbx) // before its image
	until(d, sbx, "waiting for its image", because(v1.ConditionReady, v1.ReasonImageNotFound))
	d.create(img)
	until(d, sbx, "ready", ready)
	until(d, img, "ready", ready)

	m, err := d.provider().GetMachine(t.Context(), sbx.UID)
	must(t, err)
	if m.Power != providers.PowerRunning || !m.Network.Isolated {
		t.Errorf("Ready, but the machine is %+v", m)
	}
	for _, c := range []string{v1.ConditionImageReady, v1.ConditionProvisioned, v1.ConditionNetworkIsolated, v1.ConditionPoweredOn, v1.ConditionGuestReady} {
		if condition(sbx, c).Status != metav1.ConditionTrue {
			t.Errorf("Ready, but %s is %+v", c, condition(sbx, c))
		}
	}
	if sbx.Status.Phase != v1.SandboxRunning || sbx.Status.MachineID != string(sbx.UID) || sbx.Status.Provider != v1.ProviderKVM || sbx.Status.StartedAt == nil {
		t.Errorf("status: %+v", sbx.Status)
	}
	if img.Status.Digest != "sha256:"+strings.Repeat("a", 64) || len(img.Status.Revisions) != 1 {
		t.Errorf("image status: %+v", img.Status)
	}
	until(d, img, "used by one", func(i *v1.GoldenImage) bool { return i.Status.Clones == 1 })

	must(t, d.client.Delete(t.Context(), sbx))
	d.gone(sbx)
	must(t, d.client.Delete(t.Context(), img))
	d.gone(img)
	if left := d.leftovers(); len(left) != 0 {
		t.Errorf("left over: %+v", left)
	}
}

func TestPowerStates(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "created stopped", because(v1.ConditionReady, v1.ReasonStopped))
	if sbx.Status.StartedAt != nil || sbx.Status.Phase != v1.SandboxStopped {
		t.Errorf("never started, but %+v", sbx.Status)
	}
	for range 2 {
		d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning })
		until(d, sbx, "running", ready)
		d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerSuspended })
		until(d, sbx, "suspended", because(v1.ConditionPoweredOn, v1.ReasonSuspended))
		d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning })
		until(d, sbx, "resumed", ready)
		d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
		until(d, sbx, "stopped", because(v1.ConditionReady, v1.ReasonStopped))
	}
	if sbx.Status.Restarts != 0 {
		t.Errorf("restarts: got %d for starts that were asked for", sbx.Status.Restarts)
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning })
	until(d, sbx, "running", ready)
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerSuspended })
	until(d, sbx, "suspended", because(v1.ConditionPoweredOn, v1.ReasonSuspended))
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
	until(d, sbx, "its saved state discarded", because(v1.ConditionReady, v1.ReasonStopped))
}

func TestRestartPolicies(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	policy := func(p v1.RestartPolicy) func(*v1.Sandbox) {
		return func(s *v1.Sandbox) { s.Spec.RestartPolicy = p }
	}
	always, onFailure, never := newSandbox("always", policy(v1.RestartAlways)), newSandbox("on-failure", policy(v1.RestartOnFailure)), newSandbox("never", policy(v1.RestartNever))
	d.create(goldenImage("golden"), always, onFailure, never)
	for _, s := range []*v1.Sandbox{always, onFailure, never} {
		until(d, s, "ready", ready)
		must(t, d.world.Crash(s.UID))
	}
	until(d, never, "left off", because(v1.ConditionReady, v1.ReasonCrashed))
	for _, s := range []*v1.Sandbox{always, onFailure} {
		until(d, s, "restarted", func(s *v1.Sandbox) bool { return ready(s) && s.Status.Restarts == 1 })
	}
	must(t, d.world.ShutDownGuest(onFailure.UID))
	until(d, onFailure, "left off after shutting down", because(v1.ConditionReady, v1.ReasonExited))

	// Off by itself, then off and on again on purpose.
	d.update(never, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
	until(d, never, "stopped", because(v1.ConditionReady, v1.ReasonStopped))
	d.update(never, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning })
	until(d, never, "started again", ready)
}

func TestNetworkIsWhatTheSpecSays(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) {
		s.Spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{{Name: "ssh", GuestPort: 22}}}
	})
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	if f := sbx.Status.PortForwards; len(f) != 1 || f[0].HostPort == 0 {
		t.Errorf("port forwards: %+v, want a real host port", f)
	}
	before := sbx.Status.StartedAt
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.Network.PortForwards[0].GuestPort = 2222 })
	until(d, sbx, "forwarding elsewhere", func(s *v1.Sandbox) bool {
		return ready(s) && len(s.Status.PortForwards) == 1 && s.Status.PortForwards[0].GuestPort == 2222
	})
	if !sbx.Status.StartedAt.Equal(before) {
		t.Error("a changed port forward restarted the machine")
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.Network = v1.Network{Mode: v1.NetworkNone} })
	until(d, sbx, "on no network", func(s *v1.Sandbox) bool {
		return ready(s) && s.Status.ObservedGeneration == s.Generation && len(s.Status.PortForwards) == 0
	})
	m, err := d.provider().GetMachine(t.Context(), sbx.UID)
	must(t, err)
	want := providers.MachineSpec{Network: v1.Network{Mode: v1.NetworkNone}}.Hashes().Network
	if m.Hashes.Network != want {
		t.Error("the running machine is not on the network that the spec names")
	}

	must(t, d.world.SetNetworkFault(sbx.UID, "bridge sbx0 has a second port"))
	until(d, sbx, "not isolated", func(s *v1.Sandbox) bool {
		c := condition(s, v1.ConditionNetworkIsolated)
		return !ready(s) && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "second port")
	})
	must(t, d.world.SetNetworkFault(sbx.UID, ""))
	until(d, sbx, "ready again", ready)
}

func TestHardwareChangesWaitForAStart(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.CPUs = 4 })
	until(d, sbx, "drifted", because(v1.ConditionDrifted, v1.ReasonRestartRequired))
	if !ready(sbx) {
		t.Error("a machine with outdated cpus can still be used")
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
	until(d, sbx, "stopped", because(v1.ConditionReady, v1.ReasonStopped))
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerRunning })
	until(d, sbx, "ready with 4 cpus", func(s *v1.Sandbox) bool {
		return ready(s) && condition(s, v1.ConditionDrifted).Type == ""
	})
}

func TestGuestSettings(t *testing.T) {
	const keyA, keyB = "ssh-ed25519 AAAA a", "ssh-ed25519 BBBB b"
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) {
		s.Spec.CloudInit.SSHAuthorizedKeys = []string{keyA}
		s.Spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: d.dir + "/share"}}
	})
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	keys := func() string {
		var out strings.Builder
		_, err := d.provider().Exec(t.Context(), sbx.UID, providers.ExecRequest{Command: []string{"cat", "/root/.ssh/authorized_keys"}, Stdout: &out})
		must(t, err)
		return strings.TrimSpace(out.String())
	}
	if got := keys(); got != keyA {
		t.Errorf("keys in the guest: %q, want %q", got, keyA)
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.CloudInit.SSHAuthorizedKeys = []string{keyB} })
	until(d, sbx, "reconciled", func(s *v1.Sandbox) bool { return s.Status.ObservedGeneration == s.Generation && ready(s) })
	if got := keys(); got != keyB {
		t.Errorf("keys in the guest after the change: %q, want %q", got, keyB)
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.CloudInit.SSHAuthorizedKeys = nil; s.Spec.SharedFolders = nil })
	d.eventually("no keys", func() error {
		if got := keys(); got != "" {
			return fmt.Errorf("keys in the guest: %q", got)
		}
		return nil
	})
}

func TestHostPathOutsideOfRoots(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) {
		s.Spec.SharedFolders = []v1.SharedFolder{{Name: "in", HostPath: "/etc"}}
	})
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "stalled", because(v1.ConditionStalled, v1.ReasonHostPathForbidden))
	if sbx.Status.Phase != v1.SandboxFailed {
		t.Errorf("phase %s, want Failed", sbx.Status.Phase)
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.SharedFolders[0].HostPath = d.dir + "/share" })
	until(d, sbx, "ready once mended", func(s *v1.Sandbox) bool { return ready(s) && condition(s, v1.ConditionStalled).Type == "" })
}

func TestArtifactsOutsideOfRoots(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web", func(s *v1.Sandbox) {
		s.Spec.Artifacts = []v1.Artifact{{Name: "out", Path: "/result", HostPath: "/etc"}}
	})
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "stalled", because(v1.ConditionStalled, v1.ReasonHostPathForbidden))
	if sbx.Status.MachineID != "" {
		t.Errorf("machine %s was made", sbx.Status.MachineID)
	}
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.Artifacts[0].HostPath = d.dir + "/share" })
	until(d, sbx, "ready once mended", func(s *v1.Sandbox) bool { return ready(s) && condition(s, v1.ConditionStalled).Type == "" })
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.Artifacts[0].HostPath = "/etc" })
	until(d, sbx, "stalled again", because(v1.ConditionStalled, v1.ReasonHostPathForbidden))
}

func TestRevert(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	for i := range 2 {
		must(t, d.provider().WriteFile(t.Context(), sbx.UID, "/root/mark", 0o600, strings.NewReader("x")))
		d.update(sbx, func(s *v1.Sandbox) {
			s.Spec.RevertTo = &v1.RevertTo{Snapshot: v1.SnapshotGolden, Request: fmt.Sprint(i)}
		})
		until(d, sbx, "reverted", func(s *v1.Sandbox) bool {
			return ready(s) && s.Status.Revert != nil && s.Status.Revert.Request == fmt.Sprint(i)
		})
		if _, err := d.provider().ReadFile(t.Context(), sbx.UID, "/root/mark", new(strings.Builder)); err == nil {
			t.Error("the mark survived the revert")
		}
	}
}

func TestTTL(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	ttl := func(action v1.ExpiryAction) func(*v1.Sandbox) {
		return func(s *v1.Sandbox) {
			s.Spec.Lifecycle = v1.Lifecycle{TTL: &metav1.Duration{Duration: 2 * time.Second}, OnExpiry: action}
		}
	}
	deleted, stopped := newSandbox("deleted", ttl(v1.ExpiryDelete)), newSandbox("stopped", ttl(v1.ExpiryStop))
	d.create(goldenImage("golden"), deleted, stopped)
	d.gone(deleted)
	until(d, stopped, "stopped", because(v1.ConditionReady, v1.ReasonExpired))
	if stopped.Status.ExpiresAt == nil {
		t.Error("status.expiresAt is not set")
	}
}

// TestImageInUseIsHeld: an image that is deleted stays as long as the sandboxes that
// were there before use it.
func TestImageInUseIsHeld(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img, sbx := goldenImage("golden"), newSandbox("web")
	d.create(img, sbx)
	until(d, sbx, "ready", ready)
	must(t, d.client.Delete(t.Context(), img))
	until(d, img, "held", func(i *v1.GoldenImage) bool {
		c := condition(i, v1.ConditionReady)
		return c.Reason == v1.ReasonInUse && strings.Contains(c.Message, "default/web")
	})
	until(d, sbx, "told", func(s *v1.Sandbox) bool {
		c := condition(s, v1.ConditionImageReady)
		return ready(s) && c.Status == metav1.ConditionTrue && strings.Contains(c.Message, "is being deleted")
	})

	// It lives on, whatever happens, and no other comes.
	must(t, d.world.Undefine(sbx.UID))
	d.eventually("made again", func() error {
		m, err := d.provider().GetMachine(t.Context(), sbx.UID)
		if err == nil && m.Power != providers.PowerRunning {
			err = fmt.Errorf("it is %s", m.Power)
		}
		return err
	})
	time.Sleep(time.Until(img.DeletionTimestamp.Add(time.Second))) // objects have the time in seconds
	late := newSandbox("late")
	d.create(late)
	until(d, late, "told", func(s *v1.Sandbox) bool {
		return strings.Contains(condition(s, v1.ConditionReady).Message, "waiting for another GoldenImage")
	})
	must(t, d.client.Delete(t.Context(), sbx))
	d.gone(img)
	until(d, late, "without an image", because(v1.ConditionReady, v1.ReasonImageNotFound))
	d.create(goldenImage("golden"))
	until(d, late, "ready", ready)
}

// TestImageThatIsNotImported goes at once when it is deleted: who waits for it could
// only wait for ever.
func TestImageThatIsNotImported(t *testing.T) {
	for name, spoil := range map[string]func(*v1.GoldenImageSpec){
		"another digest":   func(i *v1.GoldenImageSpec) { i.Source.Disk.SHA256 = strings.Repeat("b", 64) },
		"no such provider": func(i *v1.GoldenImageSpec) { i.Provider = v1.ProviderVirtualBox },
	} {
		t.Run(name, func(t *testing.T) {
			d := host(t, fake.Options{})
			d.start()
			img, sbx := goldenImage("golden"), newSandbox("web")
			spoil(&img.Spec)
			d.create(img, sbx)
			until(d, img, "stalled", func(i *v1.GoldenImage) bool { return condition(i, v1.ConditionStalled).Type != "" })
			must(t, d.client.Delete(t.Context(), img))
			d.gone(img)
			until(d, sbx, "without an image", because(v1.ConditionReady, v1.ReasonImageNotFound))
		})
	}
}

func TestChangedSourceMakesANewRevision(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img, old := goldenImage("golden"), newSandbox("old")
	d.create(img, old)
	until(d, old, "ready", ready)
	before := old.Status.ImageRevision

	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(img), img))
	patched := img.DeepCopy()
	patched.Spec.Source.Disk.Path = "other-golden.qcow2"
	must(t, d.client.Patch(t.Context(), patched, client.MergeFrom(img)))
	until(d, img, "two revisions", func(i *v1.GoldenImage) bool {
		return ready(i) && len(i.Status.Revisions) == 2 && i.Status.Revision != before
	})
	fresh := newSandbox("fresh")
	d.create(fresh)
	until(d, fresh, "ready", ready)
	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(old), old))
	if fresh.Status.ImageRevision != img.Status.Revision || old.Status.ImageRevision != before {
		t.Errorf("revisions: fresh %s (want %s), old %s (want %s)", fresh.Status.ImageRevision, img.Status.Revision, old.Status.ImageRevision, before)
	}
	must(t, d.client.Delete(t.Context(), old))
	d.gone(old)
	until(d, img, "one revision", func(i *v1.GoldenImage) bool { return len(i.Status.Revisions) == 1 && ready(i) })
	if _, err := d.provider().GetImage(t.Context(), providers.ImageRef{UID: img.UID, Revision: before}); err == nil {
		t.Error("the old revision is still on the host")
	}
}

func TestBadImages(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(refusing.Close)
	d := host(t, fake.Options{})
	d.start()
	tests := map[string]struct {
		change func(*v1.GoldenImage)
		reason string
	}{
		"wrong-digest": {func(i *v1.GoldenImage) { i.Spec.Source.Disk.SHA256 = strings.Repeat("b", 64) }, providers.ReasonDigestMismatch},
		"missing":      {func(i *v1.GoldenImage) { i.Spec.Source.Disk.Path = "nothing.raw" }, providers.ReasonSourceNotFound},
		"forbidden":    {func(i *v1.GoldenImage) { i.Spec.Source.Disk.Path = "/etc/passwd" }, v1.ReasonHostPathForbidden},
		"no-provider":  {func(i *v1.GoldenImage) { i.Spec.Provider = v1.ProviderVirtualBox }, v1.ReasonUnsupported},
		"url":          {func(i *v1.GoldenImage) { i.Spec.Source.Disk = &v1.DiskSource{URL: refusing.URL} }, v1.ReasonInvalid},
		"layout": {func(i *v1.GoldenImage) {
			i.Spec.Source = v1.ImageSource{OCI: &v1.OCISource{Layout: "/etc"}}
		}, v1.ReasonHostPathForbidden},
		"no-layout": {func(i *v1.GoldenImage) {
			i.Spec.Source = v1.ImageSource{OCI: &v1.OCISource{Layout: "nothing"}}
		}, providers.ReasonSourceNotFound},
	}
	for name, tt := range tests {
		img := goldenImage(name)
		tt.change(img)
		d.create(img)
		until(d, img, "stalled", func(i *v1.GoldenImage) bool { return condition(i, v1.ConditionStalled).Reason == tt.reason })
		if ready(img) || img.Status.Phase != v1.ImageFailed {
			t.Errorf("%s: status %+v", name, img.Status)
		}
		must(t, d.client.Delete(t.Context(), img))
		d.gone(img)
	}
	if left := d.leftovers(); len(left) != 0 {
		t.Errorf("left over: %+v", left)
	}
}

func TestEventsTellOfImports(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	good, bad := goldenImage("golden"), goldenImage("bad")
	bad.Spec.Source.Disk.SHA256 = strings.Repeat("b", 64)
	d.create(good, bad)
	until(d, good, "ready", ready)
	for name, want := range map[string][]string{
		"golden": {v1.ReasonImporting, v1.ReasonImported},
		"bad":    {v1.ReasonImporting, providers.ReasonDigestMismatch},
	} {
		d.eventually("events of "+name, func() error {
			var list corev1.EventList
			must(t, d.client.List(t.Context(), &list, client.InNamespace("default")))
			var got []string
			for _, e := range list.Items {
				if e.InvolvedObject.Kind == "GoldenImage" && e.InvolvedObject.Name == name {
					got = append(got, e.Reason)
				}
			}
			for _, reason := range want {
				if !slices.Contains(got, reason) {
					return fmt.Errorf("got %q, want %q", got, want)
				}
			}
			if len(got) != len(want) {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			return nil
		})
	}
}

func TestBadSourceIsReadOnce(t *testing.T) {
	d := host(t, fake.Options{})
	var imports atomic.Int32
	d.wrap = func(p providers.Provider) providers.Provider {
		return fault.Wrap(p, func(_ context.Context, at fault.Point) error {
			if at.Verb == "ImportImage" && at.When == fault.Before {
				imports.Add(1)
			}
			return nil
		})
	}
	d.start()
	img := goldenImage("golden")
	img.Spec.Source.Disk.SHA256 = strings.Repeat("b", 64)
	d.create(img)
	stalled := func(i *v1.GoldenImage) bool {
		return condition(i, v1.ConditionStalled).Reason == providers.ReasonDigestMismatch && i.Status.ObservedGeneration == i.Generation
	}
	until(d, img, "stalled", stalled)
	// Sandboxes that come and go wake the image's reconciler.
	for i := range int32(3) {
		d.create(newSandbox(fmt.Sprintf("s%d", i)))
		until(d, img, "told of its sandbox", func(img *v1.GoldenImage) bool { return img.Status.Clones == i+1 && stalled(img) })
	}
	if n := imports.Load(); n != 1 {
		t.Errorf("the bad source was imported %d times", n)
	}
	// A change of the spec, even one that leaves the source alone, is tried.
	before := img.DeepCopy()
	img.Spec.Machine.CPUs = 2
	must(t, d.client.Patch(t.Context(), img, client.MergeFrom(before)))
	until(d, img, "stalled again", stalled)
	if n := imports.Load(); n != 2 {
		t.Errorf("after the change it was imported %d times in all", n)
	}
	before = img.DeepCopy()
	img.Spec.Source.Disk.SHA256 = ""
	must(t, d.client.Patch(t.Context(), img, client.MergeFrom(before)))
	until(d, img, "ready", ready)
}

func TestOutageOfTheHypervisor(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	d.world.LoseHypervisor()
	late := newSandbox("late")
	d.create(late)
	until(d, late, "told of the outage", func(s *v1.Sandbox) bool {
		return condition(s, v1.ConditionReady).Reason == v1.ReasonUnavailable && condition(s, v1.ConditionStalled).Type == ""
	})
	d.world.RestoreHypervisor()
	until(d, late, "ready", ready)
	until(d, sbx, "ready", ready)
}

func TestMachineThatDisappearsIsMadeAgain(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	must(t, d.world.Undefine(sbx.UID))
	d.eventually("made again", func() error {
		m, err := d.provider().GetMachine(t.Context(), sbx.UID)
		if err == nil && m.Power != providers.PowerRunning {
			return fmt.Errorf("it is %s", m.Power)
		}
		return err
	})
	until(d, sbx, "ready", ready)
}

func TestOrphansAreCollectedAndOthersAreNot(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	sbx := newSandbox("web")
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "ready", ready)
	must(t, d.world.AddForeign("11111111-1111-4111-8111-111111111111", "somebody-else"))

	img := &v1.GoldenImage{}
	must(t, d.client.Get(t.Context(), client.ObjectKey{Name: "golden"}, img))
	orphan := providers.MachineSpec{
		ID: "22222222-2222-4222-8222-222222222222", Namespace: "default", Name: "orphan",
		Image: providers.ImageRef{UID: img.UID, Revision: img.Status.Revision},
		CPUs:  1, MemoryBytes: 64 << 20, Firmware: v1.FirmwareBIOS, Network: v1.Network{Mode: v1.NetworkNone},
		Seed: providers.Seed{Hostname: "orphan", User: "root"},
	}
	must(t, d.provider().EnsureMachine(t.Context(), orphan))
	d.eventually("orphan collected", func() error {
		for _, r := range d.leftovers() {
			for _, owner := range r.Owners {
				if owner == orphan.ID {
					return fmt.Errorf("still there: %+v", r)
				}
			}
		}
		return nil
	})
	if _, err := d.provider().GetMachine(t.Context(), sbx.UID); err != nil {
		t.Errorf("the living sandbox: %v", err)
	}
	must(t, d.world.RemoveForeign("11111111-1111-4111-8111-111111111111")) // fails if it was touched
}

func TestRestartOfTheDaemon(t *testing.T) {
	d := host(t, fake.Options{Latency: fake.Latency{Boot: 50 * time.Millisecond, Import: 50 * time.Millisecond}})
	d.start()
	var all []*v1.Sandbox
	d.create(goldenImage("golden"))
	for i := range 20 {
		sbx := newSandbox(fmt.Sprintf("s%d", i))
		all = append(all, sbx)
		d.create(sbx)
	}
	d.stop() // in the middle of whatever it does
	d.start()
	for _, sbx := range all {
		until(d, sbx, "ready", ready)
		if sbx.Status.Restarts != 0 {
			t.Errorf("%s: the restart of the daemon restarted its machine", sbx.Name)
		}
	}
	for _, sbx := range all {
		must(t, d.client.Delete(t.Context(), sbx))
	}
	d.stop()
	d.start()
	for _, sbx := range all {
		d.gone(sbx)
	}
	img := &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: "golden"}}
	must(t, d.client.Delete(context.Background(), img))
	d.gone(img)
	if left := d.leftovers(); len(left) != 0 {
		t.Errorf("left over: %+v", left)
	}
}

func TestLogTellsOfSandboxesNotOfTheLibrary(t *testing.T) {
	d := host(t, fake.Options{})
	var mu sync.Mutex
	var lines []string
	d.log = funcr.New(func(prefix, args string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, prefix+" "+args)
	}, funcr.Options{}) // no detail
	d.start()
	tooSmall := resource.MustParse("1Mi")
	good, bad := newSandbox("good"), newSandbox("bad", func(s *v1.Sandbox) { s.Spec.DiskSize = &tooSmall })
	d.create(goldenImage("golden"), good, bad)
	until(d, good, "ready", ready)
	until(d, bad, "stalled", because(v1.ConditionStalled, v1.ReasonInvalid))
	ofStalled := func(line string) bool {
		return strings.Contains(line, `"msg"="stalled"`) && strings.Contains(line, "default/bad")
	}
	d.eventually("in the log", func() error { // after it is in the status
		mu.Lock()
		defer mu.Unlock()
		if !slices.ContainsFunc(lines, ofStalled) {
			return errors.New("the stalled sandbox is not in the log")
		}
		return nil
	})
	d.stop()
	mu.Lock()
	defer mu.Unlock()
	for _, line := range lines {
		switch {
		case ofStalled(line):
		case strings.Contains(line, "looking at everything again"): // a provider that was reached
		case strings.HasPrefix(line, "events "): // one that was about to be written at the end
		default:
			t.Errorf("logged: %s", line)
		}
	}
}

// blind is a provider that shows its machines only once it is told to.
type blind struct {
	providers.Provider
	see chan struct{}
}

func (b blind) GetMachine(ctx context.Context, id types.UID) (providers.Machine, error) {
	select {
	case <-b.see:
		return b.Provider.GetMachine(ctx, id)
	case <-ctx.Done():
		return providers.Machine{}, ctx.Err()
	}
}

func TestNothingIsClaimedAfterARestartBeforeItIsSeen(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	on := newSandbox("on")
	off := newSandbox("off", func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped })
	d.create(goldenImage("golden"), on, off)
	until(d, on, "ready", ready)
	until(d, off, "off", because(v1.ConditionReady, v1.ReasonStopped))
	d.stop()
	see := make(chan struct{})
	d.wrap = func(p providers.Provider) providers.Provider { return blind{p, see} }
	d.start()
	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(on), on))
	for _, claim := range []string{v1.ConditionReady, v1.ConditionNetworkIsolated} {
		if c := condition(on, claim); c.Status != metav1.ConditionUnknown || c.Reason != v1.ReasonNotObserved {
			t.Errorf("nobody has looked, but %s is %+v", claim, c)
		}
	}
	must(t, d.client.Get(t.Context(), client.ObjectKeyFromObject(off), off))
	if c := condition(off, v1.ConditionReady); c.Status != metav1.ConditionFalse || c.Reason != v1.ReasonStopped {
		t.Errorf("what claims nothing has become %+v", c)
	}
	close(see)
	until(d, on, "ready again", ready)
	if c := condition(on, v1.ConditionNetworkIsolated); c.Status != metav1.ConditionTrue {
		t.Errorf("ready, but the network is %+v", c)
	}
}

func TestStalledSandboxesEndInTime(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	tooSmall := resource.MustParse("1Mi")
	sbx := newSandbox("web", func(s *v1.Sandbox) { s.Spec.DiskSize = &tooSmall })
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "stalled", because(v1.ConditionStalled, v1.ReasonInvalid))
	// Its time is up in a while, however long it took to get here.
	d.update(sbx, func(s *v1.Sandbox) {
		s.Spec.Lifecycle.TTL = &metav1.Duration{Duration: (time.Since(s.CreationTimestamp.Time) + 3*time.Second).Round(time.Second)}
	})
	d.gone(sbx)
}

func TestStalledSandboxesCanBeStopped(t *testing.T) {
	for name, stop := range map[string]func(*v1.Sandbox){
		"asked": func(s *v1.Sandbox) { s.Spec.PowerState = v1.PowerStopped },
		"expired": func(s *v1.Sandbox) {
			s.Spec.Lifecycle = v1.Lifecycle{TTL: &metav1.Duration{Duration: time.Second}, OnExpiry: v1.ExpiryStop}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := host(t, fake.Options{})
			d.start()
			sbx := newSandbox("web", func(s *v1.Sandbox) {
				s.Spec.SharedFolders = []v1.SharedFolder{{Name: "share", HostPath: filepath.Join(d.dir, "share")}}
			})
			d.create(goldenImage("golden"), sbx)
			until(d, sbx, "ready", ready)
			must(t, os.Remove(filepath.Join(d.dir, "share")))
			d.update(sbx, stop)
			until(d, sbx, "off", func(s *v1.Sandbox) bool {
				return condition(s, v1.ConditionPoweredOn).Reason == v1.ReasonStopped &&
					condition(s, v1.ConditionStalled).Reason == v1.ReasonHostPathNotFound
			})
			if m, err := d.provider().GetMachine(t.Context(), sbx.UID); err != nil || m.Power != providers.PowerOff {
				t.Errorf("said to be off, but it is %s (%v)", m.Power, err)
			}
		})
	}
}

func TestImageWithoutAgent(t *testing.T) {
	d := host(t, fake.Options{Source: func(string) (fake.Source, bool) {
		return fake.Source{SHA256: strings.Repeat("a", 64), Agentless: true}, true
	}})
	d.start()
	img, sbx := goldenImage("golden"), newSandbox("web")
	img.Spec.Guest.Agent = v1.GuestAgentNone
	d.create(img, sbx)
	until(d, sbx, "told that it cannot become ready so", func(s *v1.Sandbox) bool {
		return condition(s, v1.ConditionReady).Reason == v1.ReasonUnsupported && condition(s, v1.ConditionPoweredOn).Reason == v1.ReasonRunning
	})
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.Readiness.Mode = v1.ReadinessNone })
	until(d, sbx, "ready", ready)
}

// sshGuests are guests that ssh reaches, as they were set up, or the reason why it
// does not reach them.
type sshGuests struct {
	mu   sync.Mutex
	err  error
	keys map[types.UID]string
}

func (g *sshGuests) AuthorizedKey() (string, error) { return "ssh-ed25519 AAAA sandboxd", nil }

func (g *sshGuests) ConfigureGuest(_ context.Context, _ providers.Provider, sbx *v1.Sandbox, _ *v1.GoldenImage, cfg providers.GuestConfig) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.keys[sbx.UID] = strings.Join(cfg.SSHAuthorizedKeys, "\n")
	}
	return g.err
}

func (g *sshGuests) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

// TestGuestsSetUpOverSSH: keys and mounts of guests without an agent.
func TestGuestsSetUpOverSSH(t *testing.T) {
	d := host(t, fake.Options{Source: func(string) (fake.Source, bool) {
		return fake.Source{SHA256: strings.Repeat("a", 64), Agentless: true}, true
	}})
	guests := &sshGuests{keys: map[types.UID]string{}}
	d.ssh = guests
	d.start()
	const one, two = "ssh-ed25519 AAAA one", "ssh-ed25519 AAAA two"
	img, sbx := goldenImage("golden"), newSandbox("web", func(s *v1.Sandbox) {
		s.Spec.Readiness.Mode = v1.ReadinessNone
		s.Spec.CloudInit.SSHAuthorizedKeys = []string{one}
	})
	img.Spec.Guest.Agent = v1.GuestAgentNone
	d.create(img, sbx)
	has := func(want string) func(*v1.Sandbox) bool {
		return func(s *v1.Sandbox) bool {
			guests.mu.Lock()
			defer guests.mu.Unlock()
			return ready(s) && guests.keys[s.UID] == want
		}
	}
	until(d, sbx, "ready with the key", has(one))
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.CloudInit.SSHAuthorizedKeys = []string{two} })
	until(d, sbx, "ready with the other key", has(two))

	guests.fail(providers.Errorf(providers.ErrUnavailable, "sandbox", "not now"))
	d.update(sbx, func(s *v1.Sandbox) { s.Spec.CloudInit.SSHAuthorizedKeys = []string{one} })
	until(d, sbx, "told that the key is not there", because(v1.ConditionReady, v1.ReasonGuestConfigFailed))

	// Where there is no way in, the keys of the seed will do, but not for mounts.
	guests.fail(providers.Errorf(providers.ErrUnsupported, "sandbox", "there is no way"))
	seeded := newSandbox("seeded", func(s *v1.Sandbox) {
		s.Spec.Readiness.Mode = v1.ReadinessNone
		s.Spec.CloudInit.SSHAuthorizedKeys = []string{one}
	})
	mounts := newSandbox("mounts", func(s *v1.Sandbox) {
		s.Spec.Readiness.Mode = v1.ReadinessNone
		s.Spec.SharedFolders = []v1.SharedFolder{{Name: "share", HostPath: filepath.Join(d.dir, "share")}}
	})
	d.create(seeded, mounts)
	until(d, seeded, "ready", ready)
	until(d, mounts, "told that nothing is mounted", because(v1.ConditionReady, v1.ReasonGuestConfigFailed))
	d.update(seeded, func(s *v1.Sandbox) { s.Spec.CloudInit.SSHAuthorizedKeys = []string{two} })
	until(d, seeded, "told that the new key is not there", because(v1.ConditionReady, v1.ReasonGuestConfigFailed))
}

func TestProviderOfAnImageStays(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img := goldenImage("golden")
	d.create(img)
	until(d, img, "ready", ready)
	before := img.DeepCopy()
	img.Spec.Provider = v1.ProviderVirtualBox
	must(t, d.client.Patch(t.Context(), img, client.MergeFrom(before)))
	until(d, img, "stalled", func(i *v1.GoldenImage) bool {
		return condition(i, v1.ConditionStalled).Reason == v1.ReasonInvalid && i.Status.Provider == v1.ProviderKVM
	})
	must(t, d.client.Delete(t.Context(), img))
	d.gone(img)
}

func TestCapacityAndSizes(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	size := resource.MustParse("1Mi") // smaller than the image
	sbx := newSandbox("web", func(s *v1.Sandbox) { s.Spec.DiskSize = &size })
	d.create(goldenImage("golden"), sbx)
	until(d, sbx, "stalled", because(v1.ConditionStalled, v1.ReasonInvalid))
}
