package v1_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root = "../.."
	page = root + "/docs/conditions.md"
)

// constant is a documented word of the API.
type constant struct{ value, meaning string }

// constants reads those of a file whose names begin with a prefix.
func constants(t *testing.T, path, prefix string) map[string]constant {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]constant{}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			name := v.Names[0].Name
			if !strings.HasPrefix(name, prefix) {
				continue
			}
			value, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			meaning, ok := strings.CutPrefix(strings.Join(strings.Fields(v.Doc.Text()), " "), name+": ")
			if !ok || meaning == "" {
				t.Errorf("%s: its comment does not say what it means, as %q", name, name+": …")
			}
			found[name] = constant{value, meaning}
		}
	}
	return found
}

// reasons of the API, and of the errors of images.
func reasons(t *testing.T) map[string]constant {
	all := constants(t, "conditions.go", "Reason")
	maps.Copy(all, constants(t, root+"/providers/image.go", "Reason"))
	if len(all) < 60 {
		t.Fatalf("only %d reasons were found", len(all))
	}
	return all
}

// rows reads the table of a section of the page: the first cell of each row, without
// its quotes, and the others.
func rows(t *testing.T, section string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %s", page, section)
	}
	table, _, _ := strings.Cut(rest, "\n## ")
	all := map[string][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name := strings.TrimSpace(cells[0])
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		name = strings.Trim(name, "`")
		if _, twice := all[name]; twice {
			t.Errorf("%s stands twice in %s", name, page)
		}
		for _, c := range cells[1:] {
			all[name] = append(all[name], strings.TrimSpace(c))
		}
	}
	return all
}

// TestConditionsAreDocumented: docs/conditions.md has every type and every reason
// with the meaning that its constant's comment gives it, and nothing else.
func TestConditionsAreDocumented(t *testing.T) {
	t.Run("types", func(t *testing.T) { sameRows(t, rows(t, "Types"), constants(t, "conditions.go", "Condition"), 2) })
	t.Run("reasons", func(t *testing.T) { sameRows(t, rows(t, "Reasons"), reasons(t), 3) })
}

func sameRows(t *testing.T, written map[string][]string, all map[string]constant, cells int) {
	for name, c := range all {
		row, ok := written[c.value]
		delete(written, c.value)
		switch {
		case !ok:
			t.Errorf("%s is not in %s: add the row\n| `%s` | WHERE | %s | WHAT TO DO |", name, page, c.value, c.meaning)
		case len(row) != cells || slices.Contains(row, ""):
			t.Errorf("%s: the row has empty cells, or not %d of them: %q", name, cells, row)
		case row[1] != c.meaning:
			t.Errorf("%s: %s says\n%s\nwhere the constant's comment says\n%s", name, page, row[1], c.meaning)
		}
	}
	for value := range written {
		t.Errorf("%s has %s, which is no constant", page, value)
	}
}

// TestConditionsAreUsed: each type and each reason is given by something other than
// its own definition and tests.
func TestConditionsAreUsed(t *testing.T) {
	unused := reasons(t)
	maps.Copy(unused, constants(t, "conditions.go", "Condition"))
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata" || d.Name() == "conformance"):
			return fs.SkipDir
		case d.IsDir() && path == filepath.Join(root, "api"):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		return forgetUsed(path, unused)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(unused)) {
		t.Errorf("%s is given by nothing: remove it, or use it", name)
	}
}

// forgetUsed removes what a file refers to. The name of a constant in its own
// definition is no reference.
func forgetUsed(path string, unused map[string]constant) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			delete(unused, s.Sel.Name)
		}
		return true
	})
	return nil
}
