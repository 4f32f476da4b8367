package sandboxd_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hostile are the packages that read what guests, users, servers or hypervisors say,
// with what must be fuzzed of each. Whoever adds a parser adds it here.
var hostile = map[string][]string{
	"apiserver":                       {"FuzzRaw", "FuzzRequest"}, // requests, bodies, patches, selectors, quantities, durations, event notes
	"client":                          {"FuzzLines", "FuzzOneFile", "FuzzResult"},
	"cmd/sandboxd/internal/cli":       {"FuzzGoal", "FuzzSides", "FuzzTerminal"},
	"manifest":                        {"FuzzParse"},
	"controller/goldenimage":          {"FuzzConsole"},
	"disk/block":                      {"FuzzQCOW2", "FuzzVDI"},
	"disk/change":                     {"FuzzEscape"},
	"disk/ext4":                       {"FuzzFS", "FuzzJournal"},
	"disk/partition":                  {"FuzzRead"},
	"disk/volume":                     {"FuzzMounts", "FuzzOpen"},
	"disk/worker":                     {"FuzzFrames"},
	"gitops":                          {"FuzzCheckout"},
	"guest/access":                    {"FuzzParameters", "FuzzSession"},
	"guest/archive":                   {"FuzzUnpack"},
	"guest/cloudinit":                 {"FuzzSeed"},
	"identity":                        {"FuzzAuthenticate", "FuzzSignRequest"},
	"guest/unattended":                {"FuzzAnswers", "FuzzISO"},
	"guest/wire":                      {"FuzzEnd"},
	"hostpath":                        {"FuzzPath"},
	"providers/fake":                  {"FuzzInspect"},
	"providers/fake/internal/guest":   {"FuzzScript"},
	"providers/internal/checksums":    {"FuzzFind"},
	"providers/internal/fetch":        {"FuzzContentRange"},
	"providers/internal/guestcall":    {"FuzzPrintable"},
	"providers/internal/guestio":      {"FuzzSplitter"},
	"providers/internal/guestscript":  {"FuzzFile", "FuzzReports"},
	"providers/internal/ova":          {"FuzzDescription", "FuzzFind"},
	"providers/internal/qemuimg":      {"FuzzInspect"},
	"providers/internal/source":       {"FuzzManifest"},
	"providers/kvm":                   {"FuzzInterfaces", "FuzzLease"},
	"providers/kvm/internal/agent":    {"FuzzDecoded", "FuzzReplies"},
	"providers/kvm/internal/domain":   {"FuzzParse", "FuzzRecord"},
	"providers/kvm/internal/identity": {"FuzzNetwork"},
	"providers/ssh":                   {"FuzzLine", "FuzzStream"},
	"providers/virtualbox":            {"FuzzAnswers", "FuzzClaims", "FuzzDefinition", "FuzzVDIHeader"},
	"store/bolt":                      {"FuzzDamage", "FuzzDecodeRecord"},

	"providers/kvm/internal/libvirtconn":         {"FuzzTap"},
	"providers/virtualbox/internal/guestcontrol": {"FuzzEncode", "FuzzQuote", "FuzzStream"},
	"providers/virtualbox/internal/vboxmanage":   {"FuzzFailure", "FuzzParseInfo"},
}

// decoders are what reads what others have written: a file that imports one is in a
// package that is fuzzed, or is named below with the reason why nothing hostile gets
// there.
var decoders = []string{"archive/tar", "compress/gzip", "encoding/binary", "encoding/json", "encoding/xml", "libvirt.org/go/libvirtxml", "sigs.k8s.io/yaml"}

var trusted = map[string]string{
	"cluster":                         "it reads what the API server answers that the host's owner names, and questions by the decoder of Kubernetes alone",
	"cmd/sandboxd/internal/daemon":    "it reads what those ask who may do everything anyway",
	"cmd/sandboxd/internal/kube":      "it reads what the daemon answers to whom asks it",
	"controller/census":               "it reads lists that the API server makes of objects that it has parsed",
	"config":                          "it reads the configuration of the host's owner",
	"providers":                       "it writes hashes only",
	"providers/conformance":           "it is a test",
	"providers/internal/datafolder":   "it reads the provider's own files",
	"providers/internal/hostnet":      "it counts addresses of the host",
	"providers/kvm/internal/firewall": "it reads the host's own rules",
}

// TestFuzzTargets: every parser of what others say has a fuzz target, and the list of
// them is true.
func TestFuzzTargets(t *testing.T) {
	found, reads := fuzzTargets(t)
	for dir, targets := range hostile {
		slices.Sort(found[dir])
		if !slices.Equal(found[dir], targets) {
			t.Errorf("%s has the fuzz targets %q, and the list in fuzz_test.go says %q", dir, found[dir], targets)
		}
	}
	for dir := range found {
		if _, ok := hostile[dir]; !ok {
			t.Errorf("%s has fuzz targets: name them in fuzz_test.go", dir)
		}
	}
	for dir, what := range reads {
		_, fuzzed := hostile[dir]
		_, told := trusted[dir]
		if fuzzed == told {
			t.Errorf("%s decodes by %s: fuzz it and name it in hostile, or in trusted with the reason why nothing hostile gets there (one of both)", dir, what)
		}
	}
	for dir := range trusted {
		if reads[dir] == "" {
			t.Errorf("%s decodes nothing any more: take it out of trusted", dir)
		}
	}
}

// fuzzTargets finds the targets of each folder, and the folders that decode.
func fuzzTargets(t *testing.T) (targets map[string][]string, reads map[string]string) {
	t.Helper()
	targets, reads = map[string][]string{}, map[string]string{}
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		path = filepath.ToSlash(path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(path, ".") && path != "." || path == "test" || path == "tools" || path == "images" || path == "bin"):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || !strings.Contains(path, "/"):
			return nil
		}
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path[:strings.LastIndex(path, "/")]
		if !strings.HasSuffix(path, "_test.go") {
			for _, i := range f.Imports {
				if name := strings.Trim(i.Path.Value, `"`); slices.Contains(decoders, name) {
					reads[dir] = name
				}
			}
			return nil
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				targets[dir] = append(targets[dir], fn.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return targets, reads
}
