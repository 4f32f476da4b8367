package controller

import (
	"slices"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestOnlyTheProvidersOwnAreWoken: when a hypervisor is back, what is of it is looked at
// anew, and what may be; what is of another one goes on waiting.
func TestOnlyTheProvidersOwnAreWoken(t *testing.T) {
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	image := func(name string, asked, has v1.ProviderName) *v1.GoldenImage {
		return &v1.GoldenImage{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1.GoldenImageSpec{Provider: asked}, Status: v1.GoldenImageStatus{Provider: has},
		}
	}
	box := func(name, image string, has v1.ProviderName) *v1.Sandbox {
		return &v1.Sandbox{ObjectMeta: named(name), Spec: v1.SandboxSpec{Image: image}, Status: v1.SandboxStatus{Provider: has}}
	}
	snap := func(name, sandbox string, has v1.ProviderName) *v1.SandboxSnapshot {
		return &v1.SandboxSnapshot{
			ObjectMeta: named(name), Spec: v1.SandboxSnapshotSpec{Sandbox: sandbox}, Status: v1.SandboxSnapshotStatus{Provider: has},
		}
	}
	copied := image("copied", "", "")
	copied.Spec.Source.Sandbox = &v1.SandboxSource{Name: "new-vbox"}
	deleted := box("deleted", "kvm", "")
	now := metav1.Now()
	deleted.DeletionTimestamp, deleted.Finalizers = &now, []string{v1.FinalizerMachine}
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	reader := fake.NewClientBuilder().WithScheme(scheme).WithObjects(
		image("kvm", "", ""), image("vbox", v1.ProviderVirtualBox, ""), image("held", "", v1.ProviderVirtualBox), copied,
		box("old-kvm", "vbox", v1.ProviderKVM), box("old-vbox", "kvm", v1.ProviderVirtualBox),
		box("new-kvm", "kvm", ""), box("new-vbox", "vbox", ""), box("nobodys", "none", ""), deleted,
		snap("kvm", "new-kvm", ""), snap("vbox", "new-vbox", ""), snap("taken", "new-kvm", v1.ProviderVirtualBox), snap("lost", "none", ""),
	).Build()
	for provider, want := range map[v1.ProviderName]map[string][]string{
		v1.ProviderKVM: {
			"images":    {"copied", "kvm"},
			"sandboxes": {"deleted", "new-kvm", "nobodys", "old-kvm"},
			"snapshots": {"kvm", "lost"},
		},
		v1.ProviderVirtualBox: {
			"images":    {"copied", "held", "vbox"},
			"sandboxes": {"deleted", "new-vbox", "nobodys", "old-vbox"},
			"snapshots": {"lost", "taken", "vbox"},
		},
	} {
		w := &wakeups{
			reader: reader, providers: providers.NewSet(v1.ProviderKVM), log: logr.Discard(),
			sandboxes: newQueue(), images: newQueue(), snapshots: newQueue(),
		}
		w.forward(t.Context(), provider, providers.Event{Type: providers.EventResync})
		for kind, q := range map[string]queue{"images": w.images, "sandboxes": w.sandboxes, "snapshots": w.snapshots} {
			var got []string
			for len(q) > 0 {
				e := <-q
				got = append(got, e.Object.Name)
				if e.Object.why != anew {
					t.Errorf("%s of %s: woken because %v", e.Object.Name, provider, e.Object.why)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want[kind]) {
				t.Errorf("%s of %s: woken are %v, want %v", kind, provider, got, want[kind])
			}
		}
	}
}
