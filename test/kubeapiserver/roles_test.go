package kubeapiserver_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"sandboxd.dev/sandboxd/cluster"
	"sandboxd.dev/sandboxd/test/kubeapiserver/plane"
)

// auditPolicy has the API server write down what the daemon's account asks for.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:sandboxd-system:sandboxd"]
- level: None
`

// right is one thing that a rule allows, or that was asked for.
type right struct{ verb, group, resource, name string }

func (r right) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s.%s %s", r.verb, r.resource, r.group, r.name))
}

// seldom is what is needed, and not in the life of this test: client-go's recorder
// counts in one event what happens again to the same version of an object, and such a
// count it patches.
var seldom = map[right]bool{{"patch", "events.k8s.io", "events", ""}: true}

// installed is an image that somebody logs in to install: its password is read.
const installed = `
apiVersion: sandboxd.dev/v1
kind: GoldenImage
metadata: {name: installed}
spec:
  source: {iso: {path: tiny.raw, unattended: {user: sandbox, passwordSecretRef: {name: guest}}}}
---
`

// TestRoles lives through all that a daemon does in a cluster, and compares what it
// asked the API server for with its roles: it asked for nothing that it may not do, and
// there is no rule that it did not use.
func TestRoles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kubernetes")
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "audit-policy.yaml"), []byte(auditPolicy), 0o600))
	c, kubeconfig := startClusterIn(t, dir)
	client := admin(t, c)
	must(t, plane.Apply(t.Context(), client, `
apiVersion: v1
kind: Secret
metadata: {name: guest, namespace: default}
stringData: {password: "of the guest"}
`))
	h := newHost(t, "host", kubeconfig)
	h.start()
	h.apply(tiny + installed + sandbox("web") + sandbox("brief", "  lifecycle: {ttl: 20s}\n"))
	h.want("True", "get", "sandbox", "web", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	h.run("exec", "web", "--", "true")
	h.run("snapshot", "create", "web", "s", "--wait")
	for range 3 { // the same events again
		h.run("stop", "web", "--wait")
		h.run("start", "web", "--wait")
	}
	h.run("delete", "sandbox", "web") // its snapshot goes too
	h.eventually("the sandbox whose time is over, and the snapshot, are gone", func() error {
		out, err := h.try("", "get", "sandboxes,sandboxsnapshots", "-o", "name")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("there is %s", out)
		}
		return err
	})
	bySocket(h)
	h.run("delete", "goldenimage", "installed")

	rights := rightsOf(t)
	h.eventually("every rule was used", func() error {
		allowed, refused := audited(t, filepath.Join(dir, "audit.log"))
		var errs []error
		for r := range rights {
			if !allowed[r] && !seldom[r] {
				errs = append(errs, fmt.Errorf("nothing needs %s", r))
			}
		}
		for r := range refused {
			// An API server that has just started knows no roles yet.
			if !allowed[r] {
				t.Fatalf("the daemon asked for what it may not do: %s", r)
			}
		}
		return errors.Join(errs...)
	})
	t.Logf("%d rights, of which %d are used seldom, and each other was", len(rights), len(seldom))
}

// bySocket does what a host's users may do by the socket.
func bySocket(h *host) {
	h.t.Helper()
	const kinds = "/apis/sandboxd.dev/v1"
	for resource, path := range map[string]string{"sandboxes": "/namespaces/default", "sandboxsnapshots": "/namespaces/default", "goldenimages": ""} {
		path = kinds + path + "/" + resource
		for _, rq := range [][2]string{
			{http.MethodGet, path + "/none"},
			{http.MethodGet, path},
			{http.MethodGet, path + "?watch=true&timeoutSeconds=1"},
			{http.MethodPost, path},
			{http.MethodPut, path + "/none"},
			{http.MethodDelete, path + "/none"},
			{http.MethodDelete, path + "?labelSelector=none"},
		} {
			_, err := h.send(rq[0], rq[1], map[string]string{http.MethodPost: "{}", http.MethodPut: "{}"}[rq[0]])
			if err != nil && strings.Contains(err.Error(), "403") {
				h.t.Errorf("%s %s: %v", rq[0], rq[1], err)
			}
		}
	}
	for _, path := range []string{"/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events", "/api/v1/namespaces"} {
		for _, query := range []string{"", "?watch=true&timeoutSeconds=1", "/default"} {
			if _, err := h.send(http.MethodGet, path+query, ""); err != nil && strings.Contains(err.Error(), "403") {
				h.t.Errorf("GET %s%s: %v", path, query, err)
			}
		}
	}
}

// rightsOf are those of all roles of the daemon.
func rightsOf(t *testing.T) map[right]bool {
	t.Helper()
	rights := map[right]bool{}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(cluster.RBAC), 4096)
	for {
		var role rbacv1.ClusterRole // a Role has the same fields, and other kinds no rules
		err := decoder.Decode(&role)
		if errors.Is(err, io.EOF) {
			return rights
		}
		must(t, err)
		for _, rule := range role.Rules {
			names := rule.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						for _, name := range names {
							rights[right{verb, group, resource, name}] = true
						}
					}
				}
			}
		}
	}
}

// audited is what the daemon's account was allowed and refused. Each is noted with the
// name of the object and without, as rules have it.
func audited(t *testing.T, path string) (allowed, refused map[right]bool) {
	t.Helper()
	allowed, refused = map[right]bool{}, map[right]bool{}
	f, err := os.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb      string
			ObjectRef *struct{ APIGroup, Resource, Subresource, Name string }
			// Annotations say how it was decided.
			Annotations map[string]string
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.ObjectRef == nil {
			continue // the last line may be half written
		}
		r := right{verb: e.Verb, group: e.ObjectRef.APIGroup, resource: e.ObjectRef.Resource}
		if e.ObjectRef.Subresource != "" {
			r.resource += "/" + e.ObjectRef.Subresource
		}
		named := r
		named.name = e.ObjectRef.Name
		if e.Annotations["authorization.k8s.io/decision"] == "allow" {
			allowed[r], allowed[named] = true, true
		} else {
			refused[named] = true
		}
	}
	must(t, lines.Err())
	return allowed, refused
}
