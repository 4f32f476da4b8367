package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/providers"
)

// TestProviderOfTheImage: a sandbox goes where its image is, which may be elsewhere than
// an image that names no provider would go now: it may be made of another sandbox.
func TestProviderOfTheImage(t *testing.T) {
	for _, tt := range []struct{ of, asked, kept v1.ProviderName }{
		{v1.ProviderVirtualBox, v1.ProviderVirtualBox, v1.ProviderVirtualBox},
		{"", v1.ProviderKVM, ""}, // by default, and not for good
	} {
		scheme := runtime.NewScheme()
		must(t, v1.AddToScheme(scheme))
		img := &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: "golden"}, Status: v1.GoldenImageStatus{Provider: tt.of}}
		sbx := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "box"}, Spec: v1.SandboxSpec{Image: "golden"}}
		c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(img, sbx).Build()
		asked := &asked{name: tt.asked}
		r := New(Options{Client: c, Providers: providers.NewSet(v1.ProviderKVM, asked)})
		v := r.advance(t.Context(), sbx.DeepCopy(), sbx)
		if v.err == nil || !strings.Contains(v.err.Error(), "asked") || sbx.Status.Provider != tt.kept {
			t.Errorf("of an image on %q: asked %s with %v, kept %q, want %q", tt.of, tt.asked, v.err, sbx.Status.Provider, tt.kept)
		}
	}
}

// TestProviderThatFailsForLong: a hypervisor that crashes again and again is no reason to
// stop trying. Each failure goes to the rate limiter, and none is taken to be for good.
func TestProviderThatFailsForLong(t *testing.T) {
	const often = 25
	scheme := runtime.NewScheme()
	must(t, v1.AddToScheme(scheme))
	img := &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: "golden"}, Status: v1.GoldenImageStatus{
		Provider: v1.ProviderVirtualBox, Revision: "r", Conditions: []metav1.Condition{{Type: v1.ConditionReady, Status: metav1.ConditionTrue}},
	}}
	sbx := &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "box", UID: "u", Finalizers: []string{v1.FinalizerMachine}},
		Spec:       v1.SandboxSpec{Image: "golden", PowerState: v1.PowerStopped},
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(img, sbx).WithStatusSubresource(sbx).Build()
	crashes := &crashing{left: often}
	r := New(Options{
		Client: c, Providers: providers.NewSet(v1.ProviderVirtualBox, crashes), Recorder: unheard{}, Resync: time.Minute,
		Capacity: capacity.New(capacity.NoLimit(), alone{AdmissionKey(sbx, img, nil)}),
	})
	request := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: "box"}}
	for n := range often {
		if _, err := r.Reconcile(t.Context(), request); !errors.Is(err, providers.ErrUnavailable) {
			t.Fatalf("after %d crashes it ends with %v", n+1, err)
		}
		must(t, c.Get(t.Context(), request.NamespacedName, sbx))
		ready := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionReady)
		if ready == nil || !strings.Contains(ready.Message, "ended") || meta.IsStatusConditionTrue(sbx.Status.Conditions, v1.ConditionStalled) {
			t.Fatalf("after %d crashes it has %+v", n+1, sbx.Status.Conditions)
		}
	}
	if _, err := r.Reconcile(t.Context(), request); err != nil || !crashes.made {
		t.Errorf("then it ends with %v, and its machine was made: %v", err, crashes.made)
	}
}

// alone is the only object that there is.
type alone struct{ key capacity.Key }

func (a alone) Key(capacity.Who) capacity.Key { return a.key }
func (alone) Away(capacity.Who) bool          { return false }
func (alone) Names() []capacity.Who           { return nil }
func (alone) Changed() ([]capacity.Who, bool) { return nil, true }

func (alone) Standing(capacity.Who) (capacity.Standing, bool) { return capacity.Standing{}, false }

type unheard struct{}

func (unheard) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}

// crashing fails when it makes a machine, for some time.
type crashing struct {
	providers.Provider
	left int
	made bool
	spec providers.MachineSpec
}

func (c *crashing) Name() v1.ProviderName { return v1.ProviderVirtualBox }

func (c *crashing) GetMachine(_ context.Context, id types.UID) (providers.Machine, error) {
	if !c.made {
		return providers.Machine{}, providers.Errorf(providers.ErrNotFound, "machine", "there is none")
	}
	return providers.Machine{ID: id, Power: providers.PowerOff, OffReason: providers.OffNeverStarted, Hashes: c.spec.Hashes()}, nil
}

func (c *crashing) EnsureMachine(_ context.Context, spec providers.MachineSpec) error {
	if c.left--; c.left >= 0 {
		return providers.Errorf(providers.ErrUnavailable, "machine", "VirtualBox's service ended")
	}
	c.made, c.spec = true, spec
	return nil
}

// asked fails when it is asked for a machine.
type asked struct {
	providers.Provider
	name v1.ProviderName
}

func (a *asked) Name() v1.ProviderName { return a.name }

func (a *asked) GetMachine(context.Context, types.UID) (providers.Machine, error) {
	return providers.Machine{}, errors.New("asked")
}
