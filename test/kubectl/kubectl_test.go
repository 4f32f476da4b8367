package kubectl_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"sandboxd.dev/sandboxd/test/daemon"
)

// check is one thing that kubectl must be able to do.
type check struct {
	name string
	// since is the minor version of the first kubectl that has the command and the flags
	// that the check uses; 0: both have them.
	since int
	do    func(k *kubectl)
}

// groups are all checks.
var groups = []struct {
	name   string
	checks []check
}{
	{"discovery", discoveryChecks},
	{"get", getChecks},
	{"watch", watchChecks},
	{"create", createChecks},
	{"apply", applyChecks},
	{"change", changeChecks},
	{"delete", deleteChecks},
	{"wait", waitChecks},
	{"describe", describeChecks},
	{"refuse", refuseChecks},
	{"access", accessChecks},
	{"guest", guestChecks},
	{"other", otherChecks},
}

// release is a kubectl to check with.
type release struct {
	bin   string
	minor int
}

// TestKubectl runs every check with every kubectl that has the flags for it.
func TestKubectl(t *testing.T) {
	releases := []release{find(t, "SANDBOXD_KUBECTL_OLD"), find(t, "SANDBOXD_KUBECTL_CURRENT")}
	only := regexp.MustCompile(os.Getenv("SANDBOXD_KUBECTL_CHECK"))
	d := daemon.Start(t)
	prepare(t, d)
	seen := &outcomes{}
	for _, r := range releases {
		home := t.TempDir()
		t.Run(fmt.Sprintf("1.%d", r.minor), func(t *testing.T) {
			for _, group := range groups {
				for i, c := range group.checks {
					name := group.name + ": " + c.name
					if c.since > r.minor || !only.MatchString(name) {
						seen.add(name, r.minor, "-")
						continue
					}
					ns := fmt.Sprintf("v%d-%s-%d", r.minor, group.name, i)
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						k := &kubectl{t: t, d: d, bin: r.bin, minor: r.minor, ns: ns, config: d.Kubeconfig(t, ns), dir: folder(t), home: home}
						outcome := "FAILED"
						defer func() {
							if !t.Failed() {
								outcome = "ok"
							}
							seen.add(name, r.minor, outcome)
						}()
						removeNamespace := makeNamespace(t, d, ns)
						c.do(k)
						removeNamespace()
					})
				}
			}
		})
	}
	seen.print(releases)
}

// folder is one for a check's files. Those of t.TempDir have commas in their names, at
// which kubectl divides lists of files.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubectl-check-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// find finds a kubectl by a variable; without it the test is skipped, or fails.
func find(t *testing.T, variable string) release {
	t.Helper()
	bin := os.Getenv(variable)
	reason := variable + " names no kubectl: run make test-kubectl"
	switch {
	case bin == "" && os.Getenv("SANDBOXD_REQUIRE_CLIENTS") == "1":
		t.Fatal(reason)
	case bin == "":
		t.Skip(reason)
	}
	out, err := exec.Command(bin, "version", "--client", "-o", "json").Output()
	must(t, err)
	var answer struct {
		ClientVersion struct{ Minor string }
	}
	must(t, json.Unmarshal(out, &answer))
	minor, err := strconv.Atoi(strings.TrimSuffix(answer.ClientVersion.Minor, "+"))
	must(t, err)
	return release{bin: bin, minor: minor}
}

var (
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	images     = schema.GroupVersionResource{Group: "sandboxd.dev", Version: "v1", Resource: "goldenimages"}
)

func object(apiVersion, kind, name string, spec map[string]any) *unstructured.Unstructured {
	o := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name}}
	if spec != nil {
		o["spec"] = spec
	}
	return &unstructured.Unstructured{Object: o}
}

// prepare makes what all checks may use: the golden image tiny.
func prepare(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	client, err := dynamic.NewForConfig(d.REST())
	must(t, err)
	tiny := object("sandboxd.dev/v1", "GoldenImage", "tiny", map[string]any{
		"source": map[string]any{"disk": map[string]any{"path": daemon.Image}},
	})
	_, err = client.Resource(images).Create(context.Background(), tiny, metav1.CreateOptions{})
	must(t, err)
}

// makeNamespace makes a check's namespace, and returns what deletes it without waiting.
func makeNamespace(t *testing.T, d *daemon.Daemon, name string) func() {
	t.Helper()
	client, err := dynamic.NewForConfig(d.REST())
	must(t, err)
	_, err = client.Resource(namespaces).Create(context.Background(), object("v1", "Namespace", name, nil), metav1.CreateOptions{})
	must(t, err)
	return func() {
		must(t, client.Resource(namespaces).Delete(context.Background(), name, metav1.DeleteOptions{}))
	}
}

// outcomes are what the checks came to.
type outcomes struct {
	mu    sync.Mutex
	order []string
	of    map[string]map[int]string // by the check's name and kubectl's minor version
}

func (o *outcomes) add(name string, minor int, outcome string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil {
		o.of = map[string]map[int]string{}
	}
	if o.of[name] == nil {
		o.of[name] = map[int]string{}
		o.order = append(o.order, name)
	}
	o.of[name][minor] = outcome
}

// print prints the table, in the order of the lists: "-" is a check whose flags that
// kubectl does not have.
func (o *outcomes) print(releases []release) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var head, sums []string
	for _, r := range releases {
		head = append(head, fmt.Sprintf("1.%-6d", r.minor))
	}
	fmt.Printf("\n%-70s %s\n", "check", strings.Join(head, " "))
	for _, group := range groups {
		for _, c := range group.checks {
			name := group.name + ": " + c.name
			var row []string
			for _, r := range releases {
				row = append(row, fmt.Sprintf("%-8s", o.of[name][r.minor]))
			}
			fmt.Printf("%-70s %s\n", name, strings.Join(row, " "))
		}
	}
	for _, r := range releases {
		passed, tried := 0, 0
		for _, name := range o.order {
			if outcome := o.of[name][r.minor]; outcome != "-" {
				tried++
				if outcome == "ok" {
					passed++
				}
			}
		}
		sums = append(sums, fmt.Sprintf("kubectl 1.%d: %d of %d", r.minor, passed, tried))
	}
	fmt.Printf("\n%s\n", strings.Join(sums, ", "))
}

// TestNames: each check has a name of its own, and there are enough of them.
func TestNames(t *testing.T) {
	var names []string
	for _, group := range groups {
		for _, c := range group.checks {
			names = append(names, group.name+": "+c.name)
		}
	}
	sorted := slices.Sorted(slices.Values(names))
	if len(slices.Compact(sorted)) != len(names) {
		t.Errorf("two checks have one name: %q", sorted)
	}
	if len(names) < 100 {
		t.Errorf("there are %d checks only", len(names))
	}
}
