package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/manifest"
)

func (a *app) validate() *cobra.Command {
	var from files
	var out output
	cmd := &cobra.Command{
		Use:   "validate -f FILE|DIRECTORY|URL|-",
		Short: "Check manifests without a daemon",
		Long: `Check manifests by the schema, defaults and rules that the daemon goes by. No
daemon is needed. What depends on the host or on other objects, such as whether
an image file exists, "apply --dry-run=server" tells. With -o yaml, the manifests
are printed with their defaults.`,
		GroupID: groupObjects,
		Example: examples(`sandboxd validate -f examples/manifests -R`),
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			printer, err := out.printer()
			if err != nil {
				return err
			}
			checked, err := a.validateFiles(cmd.Context(), from)
			if err != nil {
				return err
			}
			for _, c := range checked {
				if printer == nil {
					fmt.Fprintf(a.Out, "%s valid\n", c.Ref(c.GetName()))
				} else if err := printer.PrintObj(out.shown(c.Unstructured), a.Out); err != nil {
					return err
				}
			}
			return nil
		},
	}
	from.add(cmd)
	out.add(cmd)
	cmd.Flags().StringVarP(&a.namespace, "namespace", "n", "", `Namespace of objects that name none (default "default")`)
	return cmd
}

// validated is a manifest that was found to be valid, with its defaults.
type validated struct{ target }

// validateFiles checks manifests without a daemon.
func (a *app) validateFiles(ctx context.Context, from files) ([]validated, error) {
	objects, err := manifest.Read(ctx, from.names, manifest.Options{Recursive: from.recursive, Stdin: a.In})
	if err != nil {
		return nil, err
	}
	validator, err := apiserver.NewValidator(v1.CRDs)
	if err != nil {
		return nil, err
	}
	kinds := validator.Kinds()
	var all []validated
	for _, o := range objects {
		r, err := resourceOf(kinds, o.GroupVersionKind())
		if err != nil {
			return nil, o.Errorf("%w", err)
		}
		if err := a.place(o, r.Namespaced); err != nil {
			return nil, err
		}
		full, err := validator.Validate(ctx, o.Unstructured)
		if err != nil {
			return nil, o.Errorf("%w", explainFields(r.Kind, err))
		}
		all = append(all, validated{target{manifest.Object{Unstructured: full, Source: o.Source}, r}})
	}
	return all, manifest.CheckDuplicates(objects)
}

// resourceOf finds the resource of a kind, or says what is wrong with the kind.
func resourceOf(kinds []apiserver.Kind, gvk schema.GroupVersionKind) (kube.Resource, error) {
	var names []string
	for _, k := range kinds {
		switch {
		case k.GroupVersionKind == gvk:
			return kube.Resource{GroupVersionResource: k.Resource, Kind: k.GroupVersionKind, Namespaced: k.Namespaced}, nil
		case k.GroupKind() == gvk.GroupKind():
			return kube.Resource{}, kube.WrongVersion(gvk, k.GroupVersion())
		case k.Group == v1.GroupName:
			names = append(names, k.Kind)
		}
	}
	return kube.Resource{}, kube.UnknownKind(gvk, strings.Join(names, ", "))
}
