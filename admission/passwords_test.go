package admission_test

import (
	"context"
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"sandboxd.dev/sandboxd/admission"
	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

// TestPasswordsLent: nobody has guests use a password that he may not read.
func TestPasswordsLent(t *testing.T) {
	paths, err := hostpath.New(hostpath.Options{ImageDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	hook := admission.New(providers.NewSet(v1.ProviderKVM), paths)
	tree := func(img *v1.GoldenImage) *unstructured.Unstructured {
		if img == nil {
			return nil
		}
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(img)
		if err != nil {
			t.Fatal(err)
		}
		return &unstructured.Unstructured{Object: m}
	}
	image := func(change func(*v1.GoldenImage)) *v1.GoldenImage {
		img := goldenImage("x", "", "")
		img.Spec.Source = v1.ImageSource{Disk: &v1.DiskSource{URL: "https://example.com/a.qcow2"}}
		change(img)
		return img
	}
	guest := func(namespace string) func(*v1.GoldenImage) {
		return func(img *v1.GoldenImage) {
			img.Spec.Guest.PasswordSecretRef = &v1.SecretReference{Namespace: namespace, Name: "p"}
		}
	}
	plain := image(func(*v1.GoldenImage) {})
	foreign, own, unsaid := image(guest("theirs")), image(guest("mine")), image(guest(""))
	installed := image(func(img *v1.GoldenImage) {
		img.Spec.Source = v1.ImageSource{ISO: &v1.ISOSource{Unattended: v1.UnattendedInstall{PasswordSecretRef: v1.SecretReference{Namespace: "theirs", Name: "p"}}}}
	})
	labelled := image(guest("theirs"))
	labelled.Labels = map[string]string{"a": "b"}
	elsewhere := image(guest("theirs"))
	elsewhere.Spec.Source.Disk.URL = "https://example.com/b.qcow2"
	for name, c := range map[string]struct {
		old, object *v1.GoldenImage
		allowed     bool
	}{
		"none":                        {nil, plain, true},
		"one's own":                   {nil, own, true},
		"somebody else's":             {nil, foreign, false},
		"of the default namespace":    {nil, unsaid, false},
		"of an installation":          {nil, installed, false},
		"added":                       {plain, foreign, false},
		"left, with a label":          {foreign, labelled, true},
		"left, and led to a new disk": {foreign, elsewhere, false},
		"taken away":                  {foreign, plain, true},
	} {
		a := apiserver.Attributes{
			Operation: apiserver.Create, Resource: v1.GroupVersion.WithResource("goldenimages"), Name: "x",
			Object: tree(c.object), OldObject: tree(c.old), User: apiserver.User{Name: "alice"},
			Authorize: func(_ context.Context, a apiserver.Action) error {
				if a.Verb == "get" && a.Group == "" && a.Resource == "secrets" && a.Name == "p" && a.Namespace == "mine" {
					return nil
				}
				return errors.New("refused")
			},
		}
		err := hook.Admit(t.Context(), a)
		if (err == nil) != c.allowed || err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
