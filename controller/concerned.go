package controller

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// concerned tells whether what happens to a provider as a whole may matter to an
// object. It does when nobody knows yet which provider the object is going to be of.
func (w *wakeups) concerned(ctx context.Context, provider v1.ProviderName, o client.Object) bool {
	of := w.providerOf(ctx, o)
	return of == "" || of == provider
}

// providerOf is the provider of an object; empty when it is not known.
func (w *wakeups) providerOf(ctx context.Context, o client.Object) v1.ProviderName {
	switch o := o.(type) {
	case *v1.Sandbox:
		return w.providerOfSandbox(ctx, o)
	case *v1.GoldenImage:
		switch {
		case o.Status.Provider != "":
			return o.Status.Provider
		case o.Spec.Provider == "" && o.Spec.Source.Sandbox != nil:
			return "" // that of the sandbox
		}
		return w.providers.Resolve(o.Spec.Provider)
	case *v1.SandboxSnapshot:
		if o.Status.Provider != "" {
			return o.Status.Provider
		}
		sbx := &v1.Sandbox{}
		if err := w.reader.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: o.Spec.Sandbox}, sbx); err == nil {
			return w.providerOfSandbox(ctx, sbx)
		}
	}
	return ""
}

func (w *wakeups) providerOfSandbox(ctx context.Context, sbx *v1.Sandbox) v1.ProviderName {
	if sbx.Status.Provider != "" {
		return sbx.Status.Provider
	}
	if !sbx.DeletionTimestamp.IsZero() { // any of them may have made its machine
		return ""
	}
	img := &v1.GoldenImage{}
	if err := w.reader.Get(ctx, client.ObjectKey{Name: sbx.Spec.Image}, img); err != nil {
		return ""
	}
	asked, has := w.providers.Resolve(img.Spec.Provider), w.providerOf(ctx, img)
	if asked != has {
		return ""
	}
	return has
}
