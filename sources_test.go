package sandboxd_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// startsProcesses are the only files of the program that start processes of the host,
// and why none of them gives anybody's words to a shell.
var startsProcesses = map[string]string{
	"providers/virtualbox/internal/vboxmanage/vboxmanage.go": "VBoxManage, with a list of arguments",
	"providers/internal/qemuimg/process_linux.go":            "qemu-img, with a list of arguments",
	"providers/internal/qemuimg/process_darwin.go":           "qemu-img by a fixed script that sets its limits, with a list of arguments",
	"cmd/sandboxd/internal/cli/ssh.go":                       "ssh of who calls, in the place of this program, with a list of arguments; its ProxyCommand is quoted",
	"disk/worker/process.go":                                 "this program itself, with one fixed word",
	"providers/fake/disks.go":                                "mkfs of the simulation, with a list of arguments",
	"providers/conformance/sources.go":                       "qemu-img of tests",
	"store/storetest/crash.go":                               "the tests' own child",
}

// starters are the functions that start a process.
var starters = map[string][]string{
	"os/exec": {"Command", "CommandContext"}, "os": {"StartProcess"},
	"syscall": {"Exec", "ForkExec", "StartProcess"}, "golang.org/x/sys/unix": {"Exec"},
}

// shells that are started somewhere else than in a guest.
var shell = regexp.MustCompile(`^(/usr)?(/bin/)?(sh|bash|dash|zsh|ksh|env|xargs|system|eval)$`)

// TestProcesses: processes of the host are started in a handful of places only, and
// never by a shell that reads words of others.
func TestProcesses(t *testing.T) {
	found := map[string]bool{}
	for _, f := range programFiles(t) {
		for _, call := range f.calls(starters) {
			found[f.path] = true
			if _, ok := startsProcesses[f.path]; !ok {
				t.Errorf("%s starts a process: give it a place in startsProcesses, with the reason why nobody's words become a program or an option", f.at(call))
			}
			for _, arg := range call.Args {
				if text, ok := literal(arg); ok && (shell.MatchString(text) || text == "-c") {
					t.Errorf("%s runs a shell (%q) on the host", f.at(call), text)
				}
			}
		}
	}
	for path := range startsProcesses {
		if !found[path] {
			t.Errorf("%s starts no process any more: take it out of startsProcesses", path)
		}
	}
}

// element is the beginning of an XML element or its end.
var element = regexp.MustCompile(`<[A-Za-z][A-Za-z0-9:]*( [A-Za-z:]+=['"]|/>)|</[A-Za-z]+>|<(domain|network|pool|volume|capabilities|nwfilter|filterref|domainsnapshot|VirtualBox|Machine)>`)

// TestNoXMLByHand: XML is written by libvirtxml and by encoders, which escape what
// names and paths hold, and nowhere put together as text.
func TestNoXMLByHand(t *testing.T) {
	for _, f := range programFiles(t) {
		if strings.HasPrefix(f.path, "providers/conformance/") {
			continue // hostile archives, for tests
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			if text, ok := literal(n); ok && element.MatchString(text) {
				t.Errorf("%s writes XML by hand: %.60q", f.at(n), text)
			}
			return true
		})
	}
	for _, text := range []string{"<domain type='kvm'>", "<disk/>", "</devices>", `<a b="c">`, "<network>"} {
		if !element.MatchString(text) {
			t.Errorf("%s is not taken for XML", text)
		}
	}
}

// source is a file of the program.
type source struct {
	path string
	set  *token.FileSet
	file *ast.File
}

func (s source) at(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(s.set.Position(n.Pos()).Line)
}

// calls finds the calls of functions, by the import path and the name.
func (s source) calls(of map[string][]string) []*ast.CallExpr {
	names := map[string][]string{}
	for _, i := range s.file.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		if functions, ok := of[path]; ok {
			name := path[strings.LastIndex(path, "/")+1:]
			if i.Name != nil {
				name = i.Name.Name
			}
			names[name] = functions
		}
	}
	var found []*ast.CallExpr
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); ok {
			if p, ok := f.X.(*ast.Ident); ok && slices.Contains(names[p.Name], f.Sel.Name) {
				found = append(found, call)
			}
		}
		return true
	})
	return found
}

// literal is the text of a string literal.
func literal(n ast.Node) (string, bool) {
	l, ok := n.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}

// programFiles parses what the program consists of, for all systems: no tests, and
// nothing that only tests and benchmarks use.
func programFiles(t *testing.T) []source {
	t.Helper()
	set, all := token.NewFileSet(), []source{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		path = filepath.ToSlash(path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(path, ".") && path != "." || path == "test" || path == "tools" || path == "bin"):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		all = append(all, source{path, set, file})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 300 {
		t.Fatalf("there are %d files only", len(all))
	}
	return all
}
