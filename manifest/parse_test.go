package manifest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sandboxYAML = "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata:\n  name: %s\nspec:\n  image: tiny\n"

func TestParse(t *testing.T) {
	one := func(name string) string { return fmt.Sprintf(sandboxYAML, name) }
	for name, c := range map[string]struct {
		text string
		want string // names and sources, or the error
	}{
		"one":                    {one("a"), "a@f"},
		"three, with comments":   {"# first\n---\n" + one("a") + "---\n# nothing\n--- # c\n" + one("b") + "\n---\n" + one("c"), "a@f: document 1 b@f: document 2 c@f: document 3"},
		"separator with content": {"--- {apiVersion: v1, kind: Namespace, metadata: {name: ns}}\n", "ns@f"},
		"windows line ends":      {strings.ReplaceAll(one("a")+"---\n"+one("b"), "\n", "\r\n"), "a@f: document 1 b@f: document 2"},
		"byte order mark":        {"\uFEFF" + one("a"), "a@f"},
		"json":                   {`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}`, "n@f"},
		"dashes in a value":      {one("a") + "  userData: |\n    ---\n    x: 1\n", "a@f"},
		"list":                   {"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: ns}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: m}}\n", "ns@f: item 1 m@f: item 2"},
		"modest aliases":         {"apiVersion: v1\nkind: Namespace\nmetadata: {name: &n ns, labels: {a: *n, b: *n}}\n", "ns@f"},
		"empty":                  {"", ""},
		"only comments":          {"# a\n---\n# b\n---\n", ""},

		"line numbers":      {one("a") + "---\n" + "apiVersion: v1\nkind: [\n", "f: document 2: line 9: "},
		"no kind":           {"apiVersion: v1\n", "f: it has no kind"},
		"kind is a number":  {"apiVersion: v1\nkind: 1\n", "f: it has no kind"},
		"no name":           {"apiVersion: v1\nkind: Namespace\n", "f: Namespace has no metadata.name"},
		"boolean name":      {"apiVersion: v1\nkind: Namespace\nmetadata: {name: on}\n", "f: its metadata.name is not a text: put it in quotes"},
		"metadata a list":   {"apiVersion: v1\nkind: Namespace\nmetadata: []\n", "f: its metadata is not a map"},
		"scalar":            {"hello\n", "f: it is not a manifest"},
		"binary":            {"a\x00b", "f: it is not a text file"},
		"invalid UTF-8":     {"a\xffb", "f: it is not a text file"},
		"duplicate key":     {"apiVersion: v1\nkind: Namespace\nkind: Sandbox\n", "f: "},
		"document end":      {one("a") + "...\n" + one("b"), "f: more follows behind the end of the document"},
		"unknown anchor":    {"a: *x\n", "f: "},
		"anchor in itself":  {"a: &a [*a]\n", "f: "},
		"deep":              {strings.Repeat("[", 200) + strings.Repeat("]", 200), "f: it nests deeper than 100 levels"},
		"list of list":      {"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List}]\n", "f: item 1: a list inside a list"},
		"list of scalars":   {"apiVersion: v1\nkind: List\nitems: [1]\n", "f: item 1: it is not a manifest"},
		"large document":    {"a: " + strings.Repeat("x", MaxDocument), "f: it is larger than 1 MiB"},
		"tabs":              {"a:\n\tb: 1\n", "f: line 2: "},
		"bomb of maps":      {bomb("{k: *%s, l: *%s, m: *%s, n: *%s, o: *%s, p: *%s, q: *%s, r: *%s}", 12), "f: its aliases expand to more than"},
		"bomb of long text": {"a: &a " + strings.Repeat("x", 1000) + "\nb: [" + strings.Repeat("*a, ", 2000) + "*a]\n", "f: its aliases expand to more than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := Parse("f", []byte(c.text))
			if err != nil {
				if !strings.HasPrefix(err.Error(), c.want) || c.want == "" {
					t.Fatalf("got the error %q, want %q", err, c.want)
				}
				if strings.Contains(err.Error(), "\n") || len(err.Error()) > 500 {
					t.Errorf("not one sentence: %q", err)
				}
				return
			}
			var got []string
			for _, o := range objects {
				got = append(got, o.GetName()+"@"+o.Source)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// bomb makes layers of aliases, each of which multiplies the one before.
func bomb(layer string, layers int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 x\n")
	for i := 1; i <= layers; i++ {
		before := fmt.Sprintf("a%d", i-1)
		args := make([]any, strings.Count(layer, "%s"))
		for j := range args {
			args[j] = before
		}
		fmt.Fprintf(&b, "a%d: &a%d "+layer+"\n", append([]any{i, i}, args...)...)
	}
	return b.String()
}

func TestReadSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("b.yml", fmt.Sprintf(sandboxYAML, "b"))
	write("a.yaml", fmt.Sprintf(sandboxYAML, "a"))
	write("note.txt", "no manifest")
	write("below/c.json", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"c"}}`)
	write("large.yml.off", strings.Repeat("#", MaxFile+1))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			fmt.Fprintf(w, sandboxYAML, "u")
		case "/endless":
			for range 1000 {
				if _, err := w.Write(bytes.Repeat([]byte("#"), 64<<10)); err != nil {
					return
				}
			}
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	for name, c := range map[string]struct {
		names     []string
		recursive bool
		stdin     string
		want      string
	}{
		"directory":  {names: []string{dir}, want: "a b"},
		"recursive":  {names: []string{dir}, recursive: true, want: "a b c"},
		"stdin":      {names: []string{"-"}, stdin: fmt.Sprintf(sandboxYAML, "s"), want: "s"},
		"url":        {names: []string{server.URL + "/ok"}, want: "u"},
		"in order":   {names: []string{dir + "/b.yml", "-", dir + "/a.yaml"}, stdin: fmt.Sprintf(sandboxYAML, "s"), want: "b s a"},
		"none":       {want: "no manifests were named"},
		"missing":    {names: []string{dir + "/x.yaml"}, want: "it cannot be read: no such file"},
		"not found":  {names: []string{server.URL + "/x"}, want: "the server answered 404"},
		"endless":    {names: []string{server.URL + "/endless"}, want: "it is larger than 4 MiB"},
		"too large":  {names: []string{dir + "/large.yml.off"}, want: "it is larger than 4 MiB"},
		"twice":      {names: []string{"-", "-"}, want: "standard input can be read once only"},
		"no content": {names: []string{"-"}, want: "standard input: it holds no manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := Read(context.Background(), c.names, Options{Recursive: c.recursive, Stdin: strings.NewReader(c.stdin)})
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got the error %q, want %q", err, c.want)
				}
				return
			}
			var got []string
			for _, o := range objects {
				got = append(got, o.GetName())
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzParse: whatever a file holds, reading it ends, with objects that have a
// name or with one sentence.
func FuzzParse(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(sandboxYAML, "a") + "---\n" + fmt.Sprintf(sandboxYAML, "b")))
	f.Add([]byte(bomb("[*%s, *%s]", 5)))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{}]\n"))
	f.Add([]byte("--- !!binary |\n x\n<<: {a: b}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		objects, err := Parse("f", raw)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("not one sentence: %q", err)
			}
			return
		}
		for _, o := range objects {
			if o.GetName() == "" || o.GetKind() == "" {
				t.Errorf("an object without name or kind: %v", o.Object)
			}
		}
	})
}

// TestReadDirectory: a directory is read by its own name and by a link to it, with
// what is below it only if that is asked for; links in it to directories are not
// followed.
func TestReadDirectory(t *testing.T) {
	base := t.TempDir()
	for _, name := range []string{"real/a.yaml", "real/below/b.yaml", "other/c.yaml"} {
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		text := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + strings.TrimSuffix(filepath.Base(name), ".yaml") + "}\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "real", "real/elsewhere": "../other"} {
		if err := os.Symlink(to, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"real", "real/", "link", "link/"} {
		for recursive, want := range map[bool]string{false: "a", true: "a b"} {
			objects, err := Read(t.Context(), []string{base + "/" + name}, Options{Recursive: recursive})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, o := range objects {
				names = append(names, o.GetName())
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s, recursive %v: got %q, want %q", name, recursive, got, want)
			}
		}
	}
}
