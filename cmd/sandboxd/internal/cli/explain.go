package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

func (a *app) explain() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:     "explain TYPE[.FIELD…]",
		Short:   "Explain the fields of manifests",
		Long:    "Explain a kind of sandboxd.dev/v1 or one of its fields: what it means, its type, default and limits. No daemon is needed.",
		GroupID: groupObjects,
		Example: examples(`
sandboxd explain sandbox
sandboxd explain sandbox.spec.network.portForwards
sandboxd explain goldenimage --recursive`),
		Args: wantArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			definitions, err := readDefinitions(v1.CRDs)
			if err != nil {
				return err
			}
			return explain(a.Out, definitions, args[0], recursive)
		},
	}
	cmd.Flags().BoolVar(&recursive, "recursive", false, "Show the fields below the fields too, without their descriptions")
	cmd.ValidArgsFunction = completeFields
	return cmd
}

func readDefinitions(files fs.FS) ([]apiextensionsv1.CustomResourceDefinition, error) {
	paths, err := fs.Glob(files, "crds/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []apiextensionsv1.CustomResourceDefinition
	for _, path := range paths {
		raw, err := fs.ReadFile(files, path)
		if err != nil {
			return nil, err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, crd)
	}
	return all, nil
}

// explain prints what a kind or one of its fields is.
func explain(w io.Writer, definitions []apiextensionsv1.CustomResourceDefinition, path string, recursive bool) error {
	names := strings.Split(path, ".")
	var kinds []string
	for _, crd := range definitions {
		kinds = append(kinds, crd.Spec.Names.Singular)
		n := crd.Spec.Names
		if !slices.Contains(append(n.ShortNames, n.Plural, n.Singular), strings.ToLower(names[0])) {
			continue
		}
		field := *crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		for i, name := range names[1:] {
			below := fieldsOf(field)
			next, ok := below[name]
			if !ok {
				return fmt.Errorf("%s has no field %q: its fields are %s",
					strings.Join(names[:i+1], "."), name, orNone(slices.Sorted(maps.Keys(below))))
			}
			field = next
		}
		fmt.Fprintf(w, "KIND:     %s\nVERSION:  %s/%s\n", n.Kind, crd.Spec.Group, crd.Spec.Versions[0].Name)
		return explainField(w, strings.Join(names[1:], "."), field, recursive)
	}
	return fmt.Errorf("there is nothing to explain about %q: the kinds are %s", names[0], strings.Join(kinds, ", "))
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// fieldsOf are the fields of an object, or of the elements of a list.
func fieldsOf(s apiextensionsv1.JSONSchemaProps) map[string]apiextensionsv1.JSONSchemaProps {
	if s.Items != nil && s.Items.Schema != nil {
		return fieldsOf(*s.Items.Schema)
	}
	return s.Properties
}

func explainField(w io.Writer, path string, field apiextensionsv1.JSONSchemaProps, recursive bool) error {
	if path != "" {
		fmt.Fprintf(w, "FIELD:    %s <%s>\n", path, typeOf(field))
	}
	fmt.Fprintf(w, "\nDESCRIPTION:\n%s", wrap(field.Description, "  "))
	for _, limit := range limitsOf(field) {
		fmt.Fprint(w, wrap(limit, "  "))
	}
	below := fieldsOf(field)
	if len(below) == 0 {
		return nil
	}
	fmt.Fprint(w, "\nFIELDS:\n")
	if recursive {
		return outlineFields(w, field, "  ")
	}
	for _, name := range slices.Sorted(maps.Keys(below)) {
		f := below[name]
		fmt.Fprintf(w, "  %s <%s>%s\n", name, typeOf(f), required(field, name))
		fmt.Fprint(w, wrap(f.Description, "    "))
		for _, limit := range limitsOf(f) {
			fmt.Fprint(w, wrap(limit, "    "))
		}
		fmt.Fprintln(w)
	}
	return nil
}

func outlineFields(w io.Writer, field apiextensionsv1.JSONSchemaProps, indent string) error {
	below := fieldsOf(field)
	for _, name := range slices.Sorted(maps.Keys(below)) {
		if _, err := fmt.Fprintf(w, "%s%s <%s>%s\n", indent, name, typeOf(below[name]), required(field, name)); err != nil {
			return err
		}
		if err := outlineFields(w, below[name], indent+"  "); err != nil {
			return err
		}
	}
	return nil
}

// required marks a field that must be given.
func required(in apiextensionsv1.JSONSchemaProps, name string) string {
	if in.Items != nil && in.Items.Schema != nil {
		in = *in.Items.Schema
	}
	if slices.Contains(in.Required, name) {
		return " required"
	}
	return ""
}

func typeOf(s apiextensionsv1.JSONSchemaProps) string {
	switch {
	case s.Items != nil && s.Items.Schema != nil:
		return "[]" + typeOf(*s.Items.Schema)
	case s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil:
		return "map[string]" + typeOf(*s.AdditionalProperties.Schema)
	case s.XIntOrString:
		return "quantity"
	case s.Type == "object":
		return "Object"
	default:
		return s.Type
	}
}

// limitsOf says what values a field may have, and which it has unset.
func limitsOf(s apiextensionsv1.JSONSchemaProps) []string {
	var all []string
	if len(s.Enum) > 0 {
		var values []string
		for _, v := range s.Enum {
			values = append(values, plain(v.Raw))
		}
		all = append(all, "One of: "+strings.Join(values, ", "))
	}
	if s.Default != nil && string(s.Default.Raw) != "{}" {
		all = append(all, "Default: "+plain(s.Default.Raw))
	}
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		all = append(all, fmt.Sprintf("From %v to %v", *s.Minimum, *s.Maximum))
	case s.Minimum != nil:
		all = append(all, fmt.Sprintf("At least %v", *s.Minimum))
	}
	if s.MaxItems != nil {
		all = append(all, fmt.Sprintf("At most %d", *s.MaxItems))
	}
	for _, rule := range s.XValidations {
		all = append(all, "Rule: "+rule.Message)
	}
	return all
}

// plain is a JSON value as people write it.
func plain(raw []byte) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// wrap breaks a text into indented lines.
func wrap(text, indent string) string {
	const width = 80
	var b strings.Builder
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	if len(line) > len(indent) {
		b.WriteString(line + "\n")
	}
	return b.String()
}
