package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/printers"
)

// output is the flag that says in which form objects are printed.
type output struct {
	format        string
	managedFields bool
}

func (o *output) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "Form of the output: wide, yaml, json, name or jsonpath=TEMPLATE")
	offer(cmd, "output", "wide", "yaml", "json", "name", "jsonpath=")
	cmd.Flags().BoolVar(&o.managedFields, "show-managed-fields", false, "Keep metadata.managedFields in yaml and json")
}

// printer makes the printer of objects; nil means tables.
func (o *output) printer() (printers.ResourcePrinter, error) {
	switch o.format {
	case "", "wide":
		return nil, nil
	case "yaml":
		return &printers.YAMLPrinter{}, nil
	case "json":
		return &printers.JSONPrinter{}, nil
	case "name":
		return &printers.NamePrinter{}, nil
	}
	template, ok := strings.CutPrefix(o.format, "jsonpath=")
	if !ok || template == "" {
		return nil, fmt.Errorf("output %q is not one of wide, yaml, json, name and jsonpath=TEMPLATE", o.format)
	}
	printer, err := printers.NewJSONPathPrinter(template)
	if err != nil {
		return nil, fmt.Errorf("the JSONPath template %q is wrong: %w", template, err)
	}
	printer.AllowMissingKeys(true)
	return printer, nil
}

// shown is what is printed of an object: without the records of who set which
// field, unless they were asked for.
func (o *output) shown(u *unstructured.Unstructured) *unstructured.Unstructured {
	if !o.managedFields {
		u.SetManagedFields(nil)
	}
	return u
}
