package cli

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/pager"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/manifest"
)

var (
	kindGoldenImage = v1.GroupVersion.WithKind("GoldenImage").GroupKind()
	kindSandbox     = v1.GroupVersion.WithKind("Sandbox").GroupKind()
	kindNamespace   = schema.GroupKind{Kind: "Namespace"}
)

// trial is the trying of manifests before they are applied.
type trial struct {
	api   *kube.API
	force bool
	// images and namespaces of the same apply.
	images, namespaces map[string]bool
	// live are the objects as they are, without those that do not exist.
	live map[manifest.Identity]*unstructured.Unstructured
}

// try lets the daemon try everything without storing it.
func (p *applier) try(ctx context.Context, api *kube.API, targets []target) ([]outcome, error) {
	t := &trial{api: api, force: p.force, images: map[string]bool{}, namespaces: map[string]bool{}}
	for _, o := range targets {
		switch o.GroupVersionKind().GroupKind() {
		case kindGoldenImage:
			t.images[o.GetName()] = true
		case kindNamespace:
			t.namespaces[o.GetName()] = true
		}
	}
	if err := t.checkImages(ctx, targets); err != nil {
		return nil, err
	}
	var err error
	if t.live, err = existing(ctx, api, targets); err != nil {
		return nil, err
	}
	return each(ctx, targets, func(ctx context.Context, o target) (outcome, error) {
		result, err := t.one(ctx, o)
		if err != nil {
			return result, o.Errorf("%w", explainFields(o.GroupVersionKind(), explainConflict(err)))
		}
		return result, nil
	})
}

func (t *trial) one(ctx context.Context, o target) (outcome, error) {
	live := t.live[manifest.IdentityOf(o.Object)]
	after, err := t.api.Apply(ctx, o.Resource, o.Unstructured, t.force, true)
	if live == nil && isNamespaceMissing(err) {
		if !t.namespaces[o.GetNamespace()] {
			return outcome{}, fmt.Errorf("the namespace %s of %s does not exist: apply a Namespace with it, or use another", o.GetNamespace(), o.ID())
		}
		after, err = t.elsewhere(ctx, o)
	}
	if err != nil {
		return outcome{}, err
	}
	return outcome{after, live, verbFor(live, after)}, nil
}

// checkImages refuses sandboxes whose image is nowhere.
func (t *trial) checkImages(ctx context.Context, targets []target) error {
	checked := map[string]bool{}
	for _, o := range targets {
		if o.GroupVersionKind().GroupKind() != kindSandbox {
			continue
		}
		image, found, err := unstructured.NestedString(o.Object.Object, "spec", "image")
		if err != nil || !found || image == "" || t.images[image] || checked[image] {
			continue // the schema has its say
		}
		checked[image] = true
		images, err := t.api.OfKind(v1.GroupVersion.WithKind("GoldenImage"))
		if err != nil {
			return err
		}
		_, err = t.api.Objects(images, "").Get(ctx, image, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return o.Errorf("%s: there is no GoldenImage %q: apply one first or together with it", o.ID(), image)
		}
		if err != nil {
			return o.Errorf("%w", err)
		}
	}
	return nil
}

// worthListing is from how many objects of one kind on they are found by a list
// of all there are, rather than one by one.
const worthListing = 100

// existing reads the objects that the targets name, as they are now. Those that
// do not exist are left out.
func existing(ctx context.Context, api *kube.API, targets []target) (map[manifest.Identity]*unstructured.Unstructured, error) {
	type place struct {
		kube.Resource
		namespace string
	}
	groups := map[place][]target{}
	for _, o := range targets {
		in := place{o.Resource, o.GetNamespace()}
		groups[in] = append(groups[in], o)
	}
	live := map[manifest.Identity]*unstructured.Unstructured{}
	for in, group := range groups {
		var found []*unstructured.Unstructured
		var err error
		if len(group) < worthListing {
			found, err = each(ctx, group, func(ctx context.Context, o target) (*unstructured.Unstructured, error) {
				u, err := api.Objects(o.Resource, o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil, nil
				}
				if err != nil {
					return nil, o.Errorf("%w", err)
				}
				return u, nil
			})
		} else {
			found, err = listNamed(ctx, api, in.Resource, in.namespace, group)
		}
		if err != nil {
			return nil, err
		}
		for i, u := range found {
			if u != nil {
				live[manifest.IdentityOf(group[i].Object)] = u
			}
		}
	}
	return live, nil
}

// listNamed finds the objects of a group, which lie in one place, by listing.
// It returns nil in the stead of one that does not exist.
func listNamed(ctx context.Context, api *kube.API, r kube.Resource, namespace string, group []target) ([]*unstructured.Unstructured, error) {
	index := make(map[string]int, len(group))
	for i, o := range group {
		index[o.GetName()] = i
	}
	found := make([]*unstructured.Unstructured, len(group))
	list := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return api.Objects(r, namespace).List(ctx, o)
	})
	err := list.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		if u, ok := o.(*unstructured.Unstructured); ok {
			if i, named := index[u.GetName()]; named {
				found[i] = u
			}
		}
		return nil
	})
	return found, err
}

// elsewhere tries an object whose namespace is yet to be made: in the default
// namespace under a made-up name, after checking it here under its own.
func (t *trial) elsewhere(ctx context.Context, o target) (*unstructured.Unstructured, error) {
	validator, err := apiserver.NewValidator(v1.CRDs)
	if err != nil {
		return nil, err
	}
	after, err := validator.Validate(ctx, o.Unstructured)
	if err != nil {
		return nil, err
	}
	u := o.DeepCopy()
	u.SetNamespace(metav1.NamespaceDefault)
	u.SetName("")
	u.SetGenerateName("sandboxd-dry-run-")
	_, err = t.api.Objects(o.Resource, metav1.NamespaceDefault).Create(ctx, u, metav1.CreateOptions{
		DryRun: []string{metav1.DryRunAll}, FieldManager: kube.FieldManager, FieldValidation: metav1.FieldValidationStrict,
	})
	return after, err
}

// isNamespaceMissing tells whether a write failed for want of its namespace.
func isNamespaceMissing(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	d := status.Status().Details
	return d != nil && d.Kind == "namespaces" && d.Group == ""
}
