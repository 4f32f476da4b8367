package cli

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/manifest"
)

// pruneOld deletes what a former apply made and no manifest names any more:
// sandboxes first, because they use images.
func (p *applier) pruneOld(ctx context.Context, api *kube.API, targets []target, dryRun bool) error {
	if !p.prune {
		return nil
	}
	keep, namespaces := map[manifest.Identity]bool{}, map[string]bool{p.namespaceOr(): true}
	for _, t := range targets {
		keep[manifest.IdentityOf(t.Object)] = true
		if t.Namespaced {
			namespaces[t.GetNamespace()] = true
		}
	}
	for _, kind := range []string{"SandboxSnapshot", "Sandbox", "GoldenImage"} {
		r, err := api.OfKind(v1.GroupVersion.WithKind(kind))
		if err != nil {
			return err
		}
		list, err := api.Objects(r, "").List(ctx, metav1.ListOptions{LabelSelector: p.labels})
		if err != nil {
			return err
		}
		var old []*unstructured.Unstructured
		for i := range list.Items {
			if u := &list.Items[i]; prunable(u, keep, namespaces) {
				old = append(old, u)
			}
		}
		if err := p.pruneAll(ctx, api, r, old, dryRun); err != nil {
			return err
		}
	}
	return nil
}

// prunable tells whether an object was made by apply and is in no manifest.
func prunable(u *unstructured.Unstructured, keep map[manifest.Identity]bool, namespaces map[string]bool) bool {
	id := manifest.IdentityOf(u)
	if keep[id] || u.GetDeletionTimestamp() != nil || u.GetNamespace() != "" && !namespaces[u.GetNamespace()] {
		return false
	}
	for _, f := range u.GetManagedFields() {
		if f.Manager == kube.FieldManager && f.Operation == metav1.ManagedFieldsOperationApply {
			return true
		}
	}
	return false
}

func (p *applier) pruneAll(ctx context.Context, api *kube.API, r kube.Resource, old []*unstructured.Unstructured, dryRun bool) error {
	options, suffix := metav1.DeleteOptions{}, ""
	if dryRun {
		options.DryRun, suffix = []string{metav1.DryRunAll}, " (server dry run)"
	}
	for _, u := range old {
		uid := u.GetUID()
		options.Preconditions = &metav1.Preconditions{UID: &uid}
		err := api.Objects(r, u.GetNamespace()).Delete(ctx, u.GetName(), options)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s cannot be pruned: %w", r.Ref(u.GetName()), err)
		}
		fmt.Fprintf(p.Out, "%s pruned%s\n", r.Ref(u.GetName()), suffix)
	}
	if dryRun || r.Kind.Kind != "Sandbox" {
		return nil
	}
	return p.waitGone(ctx, api, r, old, p.timeout)
}
