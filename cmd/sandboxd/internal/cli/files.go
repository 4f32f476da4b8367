package cli

import (
	"context"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/manifest"
)

// files are the flags that name manifests.
type files struct {
	names     []string
	recursive bool
}

func (f *files) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.names, "filename", "f", nil, "File, directory or URL of manifests, or - for standard input; may be repeated")
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "R", false, "Look in directories below directories too")
}

// target is an object of a manifest and the resource it belongs to.
type target struct {
	manifest.Object
	kube.Resource
}

// read reads the manifests, places them in namespaces and refuses duplicates.
func (f *files) read(ctx context.Context, a *app, api *kube.API) ([]target, error) {
	objects, err := manifest.Read(ctx, f.names, manifest.Options{Recursive: f.recursive, Stdin: a.In})
	if err != nil {
		return nil, err
	}
	targets := make([]target, len(objects))
	for i, o := range objects {
		r, err := api.OfKind(o.GroupVersionKind())
		if err != nil {
			return nil, o.Errorf("%w", err)
		}
		if err := a.place(o, r.Namespaced); err != nil {
			return nil, err
		}
		targets[i] = target{o, r}
	}
	return targets, manifest.CheckDuplicates(objects)
}

// place puts an object into its namespace.
func (a *app) place(o manifest.Object, namespaced bool) error {
	switch ns := o.GetNamespace(); {
	case !namespaced && ns != "":
		return o.Errorf("%s belongs to no namespace, but metadata.namespace says %s: remove it", o.ID(), ns)
	case !namespaced:
	case ns == "":
		o.SetNamespace(a.namespaceOr())
	case a.namespace != "" && a.namespace != ns:
		return o.Errorf("%s says another namespace than -n %s", o.ID(), a.namespace)
	}
	return nil
}

// parallel is how many requests are made at a time.
const parallel = 16

// each does something for every element, several at a time, and returns the
// results in order with the first error, in order too.
func each[T, R any](ctx context.Context, all []T, do func(context.Context, T) (R, error)) ([]R, error) {
	results, errs := make([]R, len(all)), make([]error, len(all))
	group := errgroup.Group{}
	group.SetLimit(parallel)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, one := range all {
		group.Go(func() error {
			if ctx.Err() == nil {
				results[i], errs[i] = do(ctx, one)
			}
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	for i, err := range errs {
		if err != nil {
			return results[:i], err
		}
	}
	return results, ctx.Err()
}
