package cli

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/version"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestManifestReference keeps docs/manifests.md as the definitions are.
// UPDATE_DOCS=1 writes it, as make generate does.
func TestManifestReference(t *testing.T) {
	const path = "../../../../docs/manifests.md"
	definitions, err := readDefinitions(v1.CRDs)
	if err != nil {
		t.Fatal(err)
	}
	want := reference(definitions)
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/manifests.md is out of date: run make generate")
	}
}

// reference is the text of docs/manifests.md.
func reference(definitions []apiextensionsv1.CustomResourceDefinition) string {
	var b strings.Builder
	b.WriteString(`# Manifests

Every field of the kinds of sandboxd.dev/v1. ` + "`sandboxd explain KIND.FIELD`" + ` tells the
same, and examples/manifests shows each in use. The status is what the daemon
observed; people do not write it.
`)
	for _, crd := range definitions {
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", crd.Spec.Names.Kind, strings.Join(strings.Fields(schema.Description), " "))
		for _, rule := range schema.XValidations {
			fmt.Fprintf(&b, "\nRule: %s.\n", rule.Message)
		}
		for _, part := range []string{"spec", "status"} {
			fmt.Fprintf(&b, "\n### %s %s\n\n| field | type | meaning |\n|---|---|---|\n", crd.Spec.Names.Kind, part)
			referenceRows(&b, "", schema.Properties[part])
		}
	}
	return b.String()
}

func referenceRows(b *strings.Builder, prefix string, field apiextensionsv1.JSONSchemaProps) {
	below := fieldsOf(field)
	for _, name := range slices.Sorted(maps.Keys(below)) {
		f := below[name]
		text := strings.Join(strings.Fields(f.Description), " ")
		if required(field, name) != "" {
			text = "**Required.** " + text
		}
		for _, limit := range limitsOf(f) {
			text += " " + limit + "."
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, name, typeOf(f), strings.ReplaceAll(text, "|", `\|`))
		suffix := "."
		if f.Items != nil {
			suffix = "[]."
		}
		referenceRows(b, prefix+name+suffix, f)
	}
}

// TestCommandReference: docs/cli.md names every command, and every command
// says what it does, with an example.
func TestCommandReference(t *testing.T) {
	raw, err := os.ReadFile("../../../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	root := newRoot(&app{Streams: Streams{Out: &out, Err: &out}, build: version.Info{}})
	for _, c := range root.Commands() {
		if !strings.Contains(string(raw), "`"+c.Name()+"`") {
			t.Errorf("docs/cli.md does not name %s", c.Name())
		}
		if c.Short == "" || c.GroupID == "" || c.Example == "" && c.Name() != "help" && c.Name() != "completion" {
			t.Errorf("%s lacks a description, a group or an example", c.Name())
		}
	}
}
