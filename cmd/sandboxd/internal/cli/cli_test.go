package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/kube"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/manifest"
)

// TestSockets: the daemon listens where clients look.
func TestSockets(t *testing.T) {
	root := config.ThisHost()
	root.Root = true
	if got := config.Default(root).Socket; got != client.SystemSocket {
		t.Errorf("the daemon listens at %s, clients look at %s", got, client.SystemSocket)
	}
	for _, runtimeDir := range []string{"/run/user/77", ""} {
		t.Setenv("XDG_RUNTIME_DIR", runtimeDir)
		h := config.ThisHost()
		h.Root = false
		if got, want := client.UserSocket(), config.Default(h).Socket; got != want {
			t.Errorf("the daemon listens at %s, clients look at %s", want, got)
		}
	}
}

func TestSentences(t *testing.T) {
	kind := schema.GroupKind{Group: v1.GroupName, Kind: "Sandbox"}
	path := field.NewPath("spec")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"plain":              {errors.New("a\n b"), "a b"},
		"not found":          {apierrors.NewNotFound(v1.Resource("sandboxes"), "x"), `sandboxes.sandboxd.dev "x" not found: 'sandboxd get sandboxes -A' shows what there is`},
		"a Secret not found": {apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "x"), `secrets "x" not found`},
		"one problem":        {fmt.Errorf("f: %w", apierrors.NewInvalid(kind, "x", field.ErrorList{field.Forbidden(path.Child("a"), "no")})), `f: Sandbox "x" is invalid: spec.a: no`},
		"three problems": {
			apierrors.NewInvalid(kind, "x", field.ErrorList{field.Required(path.Child("a"), "say it"), field.Required(path.Child("b"), ""), field.Required(path.Child("c"), "")}),
			`Sandbox "x" is invalid: spec.a: Required value: say it (and 2 more problems)`,
		},
		"schema": {
			apierrors.NewInvalid(kind, "x", field.ErrorList{field.Invalid(path.Child("cpus"), 0, "spec.cpus in body should be greater than or equal to 1")}),
			`Sandbox "x" is invalid: spec.cpus: Invalid value: 0: it should be greater than or equal to 1`,
		},
		"rule": {
			apierrors.NewInvalid(kind, "x", field.ErrorList{field.Invalid(path, field.OmitValueType{}, "name is allowed with mode intnet only")}),
			`Sandbox "x" is invalid: spec: name is allowed with mode intnet only`,
		},
		"rule of the object": {
			apierrors.NewInvalid(kind, "x", field.ErrorList{field.Invalid(field.NewPath("sandbox"), field.OmitValueType{}, "metadata.name must be short")}),
			`Sandbox "x" is invalid: metadata.name must be short`,
		},
		"type": {
			fmt.Errorf("f: %w", apierrors.NewBadRequest("failed to create typed patch object (default/x; sandboxd.dev/v1, Kind=Sandbox): .spec.cpus: expected numeric (int or float), got string")),
			`f: Sandbox default/x: spec.cpus: expected numeric (int or float), got string`,
		},
		"types": {
			apierrors.NewBadRequest("failed to create typed patch object (/x; sandboxd.dev/v1, Kind=GoldenImage): errors:\n  .spec.a: expected map\n  .spec.b: expected list"),
			`GoldenImage x: spec.a: expected map .spec.b: expected list`,
		},
		"unknown fields": {fmt.Errorf("f: %w", apierrors.NewBadRequest(`strict decoding error: unknown field "a", unknown field "b"`)), `f: unknown field "a" (and 1 more problem)`},
		"long":           {errors.New(strings.Repeat("x", 5000)), strings.Repeat("x", maxSentence) + "…"},
		"time up":        {context.DeadlineExceeded, "the time was up before it was done"},
		"unreachable":    {fmt.Errorf("x: %w", &client.UnreachableError{Socket: "/s", Err: errors.New("odd")}), `cannot reach the sandboxd daemon at /s: odd: start it with "sandboxd serve"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sentence(c.err); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestExplainFields: who mistypes a field is told where those are that there are.
func TestExplainFields(t *testing.T) {
	sandbox := v1.GroupVersion.WithKind("Sandbox")
	for problem, want := range map[string]string{
		`unknown field "spec.cpu"`:                                "'sandboxd explain sandbox.spec' shows",
		`unknown field "kindd"`:                                   "'sandboxd explain sandbox' shows",
		`unknown field "spec.network.portForwards[3].hostport"`:   "'sandboxd explain sandbox.spec.network.portForwards' shows",
		`unknown field "spec.cpu", unknown field "spec.lifecyle"`: `unknown field "spec.cpu" (and 1 more problem): 'sandboxd explain`,
		`duplicate field "spec.cpus"`:                             `duplicate field "spec.cpus"`,
	} {
		err := explainFields(sandbox, fmt.Errorf("f: %w", apierrors.NewBadRequest("strict decoding error: "+problem)))
		if got := sentence(err); !strings.Contains(got, want) {
			t.Errorf("%s: %q has no %q", problem, got, want)
		}
	}
	secret := schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	err := apierrors.NewBadRequest(`strict decoding error: unknown field "dat"`)
	if got := explainFields(secret, err); got != error(err) {
		t.Errorf("a Secret: %v", got)
	}
}

// TestOutputFile: files are written where links lead, and never in the place of devices.
func TestOutputFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file: file, link: file, filepath.Join(dir, "new"): filepath.Join(dir, "new"), dir: "", "/dev/null": "",
	} {
		if got, err := outputFile(path); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func TestParseSelection(t *testing.T) {
	find := func(name string) ([]kube.Resource, error) {
		switch name {
		case "a", "b":
			return []kube.Resource{{GroupVersionResource: schema.GroupVersionResource{Resource: name}}}, nil
		case "both":
			return []kube.Resource{{GroupVersionResource: schema.GroupVersionResource{Resource: "a"}}, {GroupVersionResource: schema.GroupVersionResource{Resource: "b"}}}, nil
		}
		return nil, fmt.Errorf("there is no resource type %q", name)
	}
	for args, want := range map[string]string{
		"a":       "a[]",
		"a,b":     "a[] b[]",
		"both":    "a[] b[]",
		"a x y":   "a[x y]",
		"a/x b/y": "a[x] b[y]",
		"":        "error: say which type",
		"c":       "error: there is no resource type",
		"a,b x":   "error: names can follow one type only",
		"both x":  "error: names can follow one type only",
		"a b/x":   `error: "b/x" follows a type`,
		"a/x y":   `error: "y" is not of the form TYPE/NAME`,
		"a/":      `error: "a/" is not of the form TYPE/NAME`,
		"a/b/c":   `error: "a/b/c" is not of the form TYPE/NAME`,
		"both/x":  `error: "both" stands for several types`,
		"a,":      `error: "a," names an empty type`,
	} {
		selected, err := parseSelection(strings.Fields(args), find)
		var got []string
		for _, s := range selected {
			got = append(got, fmt.Sprintf("%s%v", s.GroupVersionResource.Resource, s.names))
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = "error: " + err.Error()
		}
		if text != want && (err == nil || !strings.HasPrefix(text, want)) {
			t.Errorf("%q: got %q, want %q", args, text, want)
		}
	}
}

func TestCopyArguments(t *testing.T) {
	for args, want := range map[string]string{
		"f x:/tmp/f":          "f → default/x:/tmp/f",
		"ns/x:/a/../b/ .":     "ns/x:/b/ → .",
		"./a:b x:/c":          "./a:b → default/x:/c",
		"/a:b x:/c":           "/a:b → default/x:/c",
		"- x:/c":              "- → default/x:/c",
		"sandbox/x:/c -":      "default/x:/c → -",
		"a/b/c:d x:/c":        "a/b/c:d → default/x:/c",
		"x:/a y:/b":           "error: both sides are in a sandbox",
		"a b":                 "error: no side is in a sandbox",
		"x:a b":               `error: "x:a" is not an absolute path in the sandbox`,
		"x: b":                `error: "x:" is not an absolute path in the sandbox`,
		"ns/:/a b":            `error: "ns/" is not the name of a sandbox`,
		"x:/a \x00weird\x00:": "error: ",
	} {
		a := &app{}
		fields := strings.Fields(args)
		from, to, err := a.cpArgs(fields[0], fields[1])
		show := func(s cpSide) string {
			if !s.guest {
				return s.path
			}
			text := s.key.String() + ":" + s.path
			text = strings.Replace(text, "/", "/", 1)
			if s.dir {
				text += "/"
			}
			return text
		}
		got := show(from) + " → " + show(to)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want)) {
			t.Errorf("%q: got %q, want %q", args, got, want)
		}
	}
}

// TestTamed: nothing that steers a terminal gets through.
func TestTamed(t *testing.T) {
	const text = "ok\tüber\u00a9\r\n\u202e\u2028\x1b[2J\x07\x9b\u009b31m\x7fend\n"
	for size := 1; size < 9; size++ { // also cut inside of characters
		var b bytes.Buffer
		w := &tamed{w: &b}
		for part := range slices.Chunk([]byte(text), size) {
			if n, err := w.Write(part); err != nil || n != len(part) {
				t.Errorf("got %d and %v", n, err)
			}
		}
		if want := "ok\tüber\u00a9\r\n[2J\uFFFD31mend\n"; b.String() != want {
			t.Errorf("in pieces of %d: got %q, want %q", size, b.String(), want)
		}
	}
	if got := printable("a\x1b[31mb\u009bc\u202ed\n"); strings.ContainsAny(got, "\x1b\u009b\u202e\n") {
		t.Errorf("got %q", got)
	}
}

func TestPrunable(t *testing.T) {
	make := func(namespace, manager string, operation metav1.ManagedFieldsOperationType) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox"}}
		u.SetName("x")
		u.SetNamespace(namespace)
		u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, Operation: operation}})
		return u
	}
	deleting := make("a", "sandboxd", metav1.ManagedFieldsOperationApply)
	now := metav1.Now()
	deleting.SetDeletionTimestamp(&now)
	keep := map[manifest.Identity]bool{{Kind: schema.GroupKind{Group: v1.GroupName, Kind: "Sandbox"}, Namespace: "b", Name: "x"}: true}
	for name, c := range map[string]struct {
		u    *unstructured.Unstructured
		want bool
	}{
		"applied before":       {make("a", "sandboxd", metav1.ManagedFieldsOperationApply), true},
		"in a manifest":        {make("b", "sandboxd", metav1.ManagedFieldsOperationApply), false},
		"another namespace":    {make("c", "sandboxd", metav1.ManagedFieldsOperationApply), false},
		"applied by others":    {make("a", "kubectl", metav1.ManagedFieldsOperationApply), false},
		"not applied":          {make("a", "sandboxd", metav1.ManagedFieldsOperationUpdate), false},
		"is being deleted":     {deleting, false},
		"belongs to no spaces": {make("", "sandboxd", metav1.ManagedFieldsOperationApply), true},
	} {
		if got := prunable(c.u, keep, map[string]bool{"a": true, "b": true}); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
