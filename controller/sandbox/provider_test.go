package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	v1 "sandboxd.dev/sandboxd/api/v1"
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

// asked fails when it is asked for a machine.
type asked struct {
	providers.Provider
	name v1.ProviderName
}

func (a *asked) Name() v1.ProviderName { return a.name }

func (a *asked) GetMachine(context.Context, types.UID) (providers.Machine, error) {
	return providers.Machine{}, errors.New("asked")
}
