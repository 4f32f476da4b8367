package admission_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sandboxd.dev/sandboxd/admission"
	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/store/bolt"
)

// counting counts how often sources are looked at.
type counting struct {
	providers.Provider
	checks atomic.Int64
}

func (c *counting) CheckSource(ctx context.Context, s providers.ImageSpec) error {
	c.checks.Add(1)
	return c.Provider.CheckSource(ctx, s)
}

// host is an API server with the hook, and the folders of a host.
type host struct {
	client.Client
	world    *fake.World
	provider *counting
	images   string
	shared   string
}

func start(t *testing.T) host {
	t.Helper()
	base := t.TempDir()
	h := host{images: filepath.Join(base, "images"), shared: filepath.Join(base, "shared"), world: fake.NewWorld(fake.Options{})}
	for _, dir := range []string{h.images, h.shared, filepath.Join(h.shared, "a"), filepath.Join(h.shared, "b")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.provider = &counting{Provider: fake.New(h.world, v1.ProviderKVM, "instance")}
	paths, err := hostpath.New(hostpath.Options{Roots: []string{h.shared}, ImageDir: h.images})
	if err != nil {
		t.Fatal(err)
	}
	store, err := bolt.Open(filepath.Join(base, "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.New(context.Background(), apiserver.Options{
		Store: store, CRDs: v1.CRDs,
		Admission: []apiserver.Admission{admission.New(providers.NewSet(v1.ProviderKVM, h.provider), paths)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if h.Client, err = client.New(server.LoopbackConfig(), client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	return h
}

// image writes a disk image file.
func (h host) image(t *testing.T, name string) string {
	t.Helper()
	b := make([]byte, 4096)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint64(b[24:], 1<<30)
	path := filepath.Join(h.images, name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func goldenImage(name, path, sha256 string) *v1.GoldenImage {
	return &v1.GoldenImage{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.GoldenImageSpec{Source: v1.ImageSource{Disk: &v1.DiskSource{Path: path, SHA256: sha256}}},
	}
}

func sandbox(name, image string, folders ...string) *v1.Sandbox {
	s := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.SandboxSpec{Image: image}}
	for i, f := range folders {
		s.Spec.SharedFolders = append(s.Spec.SharedFolders, v1.SharedFolder{Name: fmt.Sprintf("f%d", i), HostPath: f})
	}
	return s
}

// refused checks that an error is the refusal wanted.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestImageInUse: an image may be deleted while sandboxes use it. It is not used by any
// more then.
func TestImageInUse(t *testing.T) {
	h, ctx := start(t), context.Background()
	h.image(t, "i.qcow2")
	img, s := goldenImage("i", "i.qcow2", ""), sandbox("s", "i")
	img.Finalizers = []string{v1.FinalizerImage}
	must(t, h.Create(ctx, img))
	must(t, h.Create(ctx, s))
	must(t, h.Delete(ctx, img))
	err := h.Create(ctx, sandbox("late", "i"))
	refused(t, err, `spec.image: Forbidden: GoldenImage "i" is being deleted: wait until it is gone and apply it again`)
	if !apierrors.IsInvalid(err) {
		t.Errorf("got %v, want it to be invalid", err)
	}
	refused(t, h.Create(ctx, sandbox("late", "i"), client.DryRunAll), "is being deleted")
	must(t, h.Create(ctx, sandbox("other", "another")))

	// What was there before lives on.
	s.Labels = map[string]string{"a": "b"}
	s.Spec.PowerState = v1.PowerStopped
	must(t, h.Update(ctx, s))
	must(t, h.Delete(ctx, s))

	must(t, h.Get(ctx, client.ObjectKeyFromObject(img), img))
	if img.DeletionTimestamp.IsZero() {
		t.Error("it is not being deleted")
	}
	img.Finalizers = nil
	must(t, h.Update(ctx, img))
	must(t, h.Create(ctx, sandbox("late", "i")))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSharedFolders(t *testing.T) {
	h, ctx := start(t), context.Background()
	a, b := filepath.Join(h.shared, "a"), filepath.Join(h.shared, "b")
	if err := os.Symlink("/etc", filepath.Join(h.shared, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/etc":                           "spec.sharedFolders[1].hostPath: Forbidden: /etc is not below an allowed root",
		filepath.Join(h.shared, "link"):  "leads to /etc, which is not below an allowed root",
		filepath.Join(h.shared, "none"):  "no such path",
		h.shared + "/../shared/a":        "contains a .. element",
		h.image(t, "file"):               "not below an allowed root",
		filepath.Join(h.shared, "a/b/c"): "no such path",
	} {
		refused(t, h.Create(ctx, sandbox("x", "i", a, path)), want)
	}
	if err := h.Create(ctx, sandbox("x", "i", "/etc"), client.DryRunAll); err == nil {
		t.Error("a dry run is not refused")
	}
	s := sandbox("x", "i", a)
	if err := h.Create(ctx, s); err != nil {
		t.Fatal(err)
	}
	// What was accepted stays so when the host changes; what is new is judged.
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	s.Labels = map[string]string{"a": "b"}
	s.Finalizers = []string{"sandboxd.dev/machine"}
	if err := h.Update(ctx, s); err != nil {
		t.Errorf("labels and finalizers cannot be changed: %v", err)
	}
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Gone"})
	if err := h.Status().Update(ctx, s); err != nil {
		t.Errorf("the status cannot be changed: %v", err)
	}
	changed := s.DeepCopy()
	changed.Spec.SharedFolders = append(changed.Spec.SharedFolders, v1.SharedFolder{Name: "new", HostPath: "/etc"})
	refused(t, h.Update(ctx, changed), "spec.sharedFolders[1].hostPath")
	changed.Spec.SharedFolders[1].HostPath = b
	if err := h.Update(ctx, changed); err != nil {
		t.Errorf("an allowed folder is refused beside one that is gone: %v", err)
	}
}

func TestSources(t *testing.T) {
	h, ctx := start(t), context.Background()
	h.image(t, "i.qcow2")
	if err := os.Symlink("/etc/passwd", filepath.Join(h.images, "link.qcow2")); err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("0", 64)
	for name, c := range map[string]struct{ path, sha256, want string }{
		"missing": {"nosuch.qcow2", "", "spec.source.disk.path: Forbidden: " + h.images + "/nosuch.qcow2: no such path"},
		"outside": {"/etc/passwd", "", "not below an allowed root"},
		"link":    {"link.qcow2", "", "leads to /etc/passwd"},
		"digest":  {"i.qcow2", zeros, "has the digest sha256:"},
		"folder":  {h.images, "", "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, h.Create(ctx, goldenImage("x", c.path, c.sha256)), c.want) })
	}
	unserved := goldenImage("x", "i.qcow2", "")
	unserved.Spec.Provider = v1.ProviderVirtualBox
	refused(t, h.Create(ctx, unserved), "spec.provider: Forbidden: not served by this daemon")

	// A dry run and the write that follows look once; a changed file is looked
	// at again.
	before := h.provider.checks.Load()
	img := goldenImage("i", "i.qcow2", "")
	if err := h.Create(ctx, img.DeepCopy(), client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if err := h.Create(ctx, img); err != nil {
		t.Fatal(err)
	}
	if n := h.provider.checks.Load() - before; n != 1 {
		t.Errorf("the source was looked at %d times", n)
	}
	path := h.image(t, "second.qcow2")
	if err := h.Create(ctx, goldenImage("second", "second.qcow2", ""), client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, h.Create(ctx, goldenImage("second", "second.qcow2", "")), "empty")

	// What was accepted stays so; a changed source is judged.
	if err := os.Remove(filepath.Join(h.images, "i.qcow2")); err != nil {
		t.Fatal(err)
	}
	img.Finalizers = []string{v1.FinalizerImage}
	if err := h.Update(ctx, img); err != nil {
		t.Errorf("finalizers cannot be changed: %v", err)
	}
	img.Spec.Source.Disk.SHA256 = zeros
	refused(t, h.Update(ctx, img), "no such path")
}

// TestHypervisorDown: what cannot be found out now is left to the reconciler.
func TestHypervisorDown(t *testing.T) {
	h := start(t)
	h.image(t, "i.qcow2")
	h.world.LoseHypervisor()
	if err := h.Create(context.Background(), goldenImage("i", "i.qcow2", "")); err != nil {
		t.Errorf("got %v", err)
	}
	refused(t, h.Create(context.Background(), goldenImage("x", "/etc/passwd", "")), "not below an allowed root")
}

// TestInstallers: a path of an installer is judged like that of a disk.
func TestInstallers(t *testing.T) {
	h, ctx := start(t), context.Background()
	h.image(t, "installer.iso")
	iso := func(path string) *v1.GoldenImage {
		img := goldenImage("x", "", "")
		img.Spec.Source = v1.ImageSource{ISO: &v1.ISOSource{Path: path, Unattended: v1.UnattendedInstall{User: "u", PasswordSecretRef: v1.SecretReference{Namespace: "default", Name: "p"}}}}
		return img
	}
	refused(t, h.Create(ctx, iso("nosuch.iso")), "spec.source.iso.path: Forbidden: "+h.images+"/nosuch.iso: no such path")
	refused(t, h.Create(ctx, iso("/etc/passwd")), "not below an allowed root")
	if err := h.Create(ctx, iso("installer.iso"), client.DryRunAll); err != nil {
		t.Errorf("one that may be read: %v", err)
	}
}
