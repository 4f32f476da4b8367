package gitops_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"sandboxd.dev/sandboxd/test/daemon"
)

// examples are the manifests that are applied: the image that all need, what is in a
// namespace, what has a network, a snapshot, and what is off.
var examples = []string{
	"quickstart/golden-image.yaml", "namespace.yaml", "network-nat.yaml", "hardware.yaml", "snapshot.yaml", "stopped.yaml",
}

// load reads examples. Each call makes objects of its own.
func load(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, name := range examples {
		raw, err := os.ReadFile(filepath.Join("..", "..", "examples", "manifests", name))
		must(t, err)
		all = append(all, parse(t, string(raw))...)
	}
	// Neither tool takes "default" for granted, as kubectl does.
	for _, u := range all {
		if u.GetNamespace() == "" && u.GetKind() != "Namespace" && u.GetKind() != "GoldenImage" {
			u.SetNamespace("default")
		}
	}
	return all
}

func parse(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096); ; {
		u := &unstructured.Unstructured{}
		err := d.Decode(u)
		if err == io.EOF {
			return all
		}
		must(t, err)
		if len(u.Object) > 0 {
			all = append(all, u)
		}
	}
}

// stalled is a sandbox that can never be: its disk is smaller than its image.
const stalled = `
apiVersion: sandboxd.dev/v1
kind: Sandbox
metadata: {name: impossible, namespace: default}
spec: {image: tiny, diskSize: 1Mi}
`

// without leaves out objects of a kind with a name.
func without(all []*unstructured.Unstructured, kind, name string) []*unstructured.Unstructured {
	var rest []*unstructured.Unstructured
	for _, u := range all {
		if u.GetKind() != kind || u.GetName() != name {
			rest = append(rest, u)
		}
	}
	return rest
}

// find finds an object.
func find(t *testing.T, all []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	for _, u := range all {
		if u.GetKind() == kind && u.GetName() == name {
			return u
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

// host is a daemon and a client of it.
type host struct {
	*daemon.Daemon
	config *rest.Config
	mapper meta.RESTMapper
	client client.Client
}

func start(t *testing.T) host {
	t.Helper()
	h := host{Daemon: daemon.Start(t)}
	h.config = h.REST()
	h.config.QPS, h.config.Burst = 100, 200
	httpClient, err := rest.HTTPClientFor(h.config)
	must(t, err)
	h.mapper, err = apiutil.NewDynamicRESTMapper(h.config, httpClient)
	must(t, err)
	h.client, err = client.New(h.config, client.Options{Mapper: h.mapper})
	must(t, err)
	return h
}

// get reads an object as it is; nil when it is gone.
func (h host) get(t *testing.T, kind, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "sandboxd.dev", Version: "v1", Kind: kind})
	if kind == "Namespace" {
		u.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: kind})
	}
	err := h.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, u)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return u
}

// until waits for something to become so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), daemon.Patience)
	defer cancel()
	for !so() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in %v: %s", daemon.Patience, what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// example reads a file of examples/gitops.
func example(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "examples", "gitops", name))
	must(t, err)
	return strings.TrimSpace(string(raw))
}
