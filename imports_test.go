// Package sandboxd_test holds the tests of the repository as a whole.
package sandboxd_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "sandboxd.dev/sandboxd/"

// rooms says which packages of this module each package may import. A name
// stands for the package and everything below it. Imports go downwards only:
// what is not named here is not allowed. Tests may import what they like.
var rooms = map[string][]string{
	"api/v1":                       {},
	"store":                        {},
	"store/bolt":                   {"store"},
	"store/storetest":              {"store"},
	"hostpath":                     {},
	"apiserver":                    {"api/v1", "store", "brief"},
	"providers":                    {"api/v1"},
	"providers/virtualbox":         {"api/v1", "providers", "providers/internal", "providers/internal/seed", "disk", "providers/internal/installer", "guest/unattended"},
	"providers/fake":               {"api/v1", "providers", "providers/internal"},
	"providers/intercept":          {"api/v1", "providers"},
	"providers/fault":              {"providers", "providers/intercept"},
	"providers/export":             {"api/v1", "providers", "providers/internal"},
	"providers/conformance":        {"api/v1", "providers", "providers/fault"},
	"providers/internal":           {"api/v1", "providers"},
	"providers/internal/seed":      {"api/v1", "providers", "providers/internal", "guest/cloudinit", "guest/unattended"},
	"providers/ssh":                {"api/v1", "providers", "providers/internal"},
	"providers/kvm":                {"api/v1", "providers", "providers/internal", "providers/internal/seed", "providers/internal/installer"},
	"disk":                         {"disk/change"},
	"disk/change":                  {},
	"guest/cloudinit":              {"api/v1"},
	"guest/access":                 {"api/v1", "providers", "guest/wire", "disk", "disk/change"},
	"guest/archive":                {},
	"guest/wire":                   {},
	"controller/metrics":           {"api/v1", "providers", "providers/intercept", "controller/capacity", "controller/gc"},
	"controller/job":               {},
	"controller/patch":             {"api/v1"},
	"controller/gc":                {"api/v1", "providers", "controller/census"},
	"controller/census":            {"api/v1"},
	"controller/goldenimage":       {"api/v1", "providers", "hostpath", "controller/capacity", "controller/goldenimage/build", "controller/job", "controller/patch"},
	"controller/artifact":          {},
	"controller/turn":              {},
	"controller/capacity":          {"api/v1", "providers"},
	"controller/usage":             {},
	"controller/snapshot":          {"api/v1", "providers", "controller/job", "controller/patch", "controller/turn"},
	"controller/sandbox":           {"api/v1", "providers", "hostpath", "controller/artifact", "controller/capacity", "controller/patch", "controller/snapshot", "controller/turn"},
	"controller":                   {"api/v1", "providers", "providers/intercept", "hostpath", "controller"},
	"admission":                    {"api/v1", "apiserver", "hostpath", "providers"},
	"brief":                        {},
	"client":                       {"api/v1", "disk/change", "guest/archive", "guest/wire"},
	"audit":                        {},
	"artifact":                     {"api/v1", "providers"},
	"manifest":                     {"api/v1", "brief"},
	"gitops":                       {"api/v1", "manifest", "brief"},
	"config":                       {"api/v1"},
	"cluster":                      {},
	"identity":                     {},
	"doctor":                       {"api/v1", "client", "config", "providers"},
	"cmd/sandboxd":                 {""},
	"images/tiny":                  {},
	"test":                         {""},
	"providers/internal/installer": {"api/v1", "providers", "providers/internal", "guest/unattended"},
	"guest/unattended":             {"api/v1", "guest/cloudinit"},
	"controller/goldenimage/build": {"api/v1", "providers"},
}

// forbidden names keep code in the room where it is looked for.
var forbidden = []string{"util", "utils", "common", "helpers", "manager", "misc", "base"}

type goPackage struct {
	ImportPath string
	Name       string
	Imports    []string
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		room, ok := roomOf(path)
		if !ok {
			t.Errorf("package %s has no room: give it one in imports_test.go, with what it may import", path)
			continue
		}
		for _, imported := range p.Imports {
			target, inside := strings.CutPrefix(imported, module)
			if inside && !within(target, room) && !slices.ContainsFunc(rooms[room], func(r string) bool { return allows(r, target) }) {
				t.Errorf("package %s imports %s, which room %s must not", path, target, room)
			}
		}
	}
}

func TestPackageNames(t *testing.T) {
	for _, p := range packages(t) {
		for _, element := range strings.Split(strings.TrimPrefix(p.ImportPath, module), "/") {
			if slices.Contains(forbidden, element) || slices.Contains(forbidden, p.Name) {
				t.Errorf("package %s: the name %q says nothing about what is in it", p.ImportPath, element)
			}
		}
	}
}

// roomOf finds the longest room that holds a package.
func roomOf(path string) (string, bool) {
	for room := path; ; {
		if _, ok := rooms[room]; ok {
			return room, true
		}
		i := strings.LastIndex(room, "/")
		if i < 0 {
			return "", false
		}
		room = room[:i]
	}
}

// within tells whether a package belongs to a room, and not to a room inside it.
func within(path, room string) bool {
	r, ok := roomOf(path)
	return ok && r == room
}

// allows tells whether a rule lets in a package: the room itself with what is
// below it, unless that is a room of its own. The rule "" lets in everything,
// and "controller" its own reconcilers.
func allows(rule, target string) bool {
	return rule == "" || within(target, rule) || rule == "controller" && strings.HasPrefix(target, "controller/")
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath != strings.TrimSuffix(module, "/") {
			list = append(list, p)
		}
	}
	if len(list) < 10 {
		t.Fatalf("go list found %d packages only", len(list))
	}
	return list
}
