package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/yaml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/store/bolt"
)

// openStore opens a store in a file of the test's own.
func openStore(t testing.TB) store.Store {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// newServer starts a server on a store of its own. change may alter the options.
func newServer(t testing.TB, change ...func(*apiserver.Options)) *apiserver.Server {
	t.Helper()
	o := apiserver.Options{CRDs: v1.CRDs, Version: version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.0-sandboxd"}}
	for _, f := range change {
		f(&o)
	}
	if o.Store == nil {
		o.Store = openStore(t)
	}
	s, err := apiserver.New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// api sends requests to a handler and reads the answers.
type api struct {
	t       testing.TB
	handler http.Handler
}

func newAPI(t testing.TB, change ...func(*apiserver.Options)) api {
	t.Helper()
	return api{t: t, handler: newServer(t, change...).Handler()}
}

// answer is a response.
type answer struct {
	t      testing.TB
	code   int
	header http.Header
	body   []byte
}

// do sends a request. body is nil, a string, or something to send as JSON;
// headers come in pairs.
func (a api) do(method, path string, body any, headers ...string) answer {
	a.t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	case []byte:
		reader = bytes.NewReader(body)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			a.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	r := httptest.NewRequest(method, path, reader)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("User-Agent", "wiretest/1")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return answer{t: a.t, code: w.Code, header: w.Header(), body: w.Body.Bytes()}
}

func (a api) get(path string) answer { a.t.Helper(); return a.do("GET", path, nil) }

// want fails the test unless the answer has that code.
func (n answer) want(code int) answer {
	n.t.Helper()
	if n.code != code {
		n.t.Fatalf("answered %d where %d was expected: %s", n.code, code, n.body)
	}
	return n
}

// object is the body as an object.
func (n answer) object() *unstructured.Unstructured {
	n.t.Helper()
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(n.body, &u.Object); err != nil {
		n.t.Fatalf("the body is not JSON: %v: %s", err, n.body)
	}
	return u
}

// field is a field of the body; nil when absent.
func (n answer) field(path ...string) any {
	n.t.Helper()
	v, _, err := unstructured.NestedFieldNoCopy(n.object().Object, path...)
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

// message is the message of a Status.
func (n answer) message() string {
	n.t.Helper()
	if n.field("kind") != "Status" {
		n.t.Fatalf("the body is no Status: %s", n.body)
	}
	return fmt.Sprint(n.field("message"))
}

// refused fails the test unless the answer is a Status with that code and
// reason whose message has all the parts.
func (n answer) refused(code int, reason string, parts ...string) answer {
	n.t.Helper()
	n.want(code)
	if got := n.field("reason"); got != reason {
		n.t.Errorf("the reason is %v where %s was expected: %s", got, reason, n.body)
	}
	message := n.message()
	for _, part := range parts {
		if !strings.Contains(message, part) {
			n.t.Errorf("the message %q does not say %q", message, part)
		}
	}
	return n
}

const (
	sandboxes    = "/apis/sandboxd.dev/v1/namespaces/default/sandboxes"
	allSandboxes = "/apis/sandboxd.dev/v1/sandboxes"
	goldenImages = "/apis/sandboxd.dev/v1/goldenimages"
	namespaces   = "/api/v1/namespaces"
)

// fromYAML parses an object.
func fromYAML(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// sandbox is a valid Sandbox.
func sandbox(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox",
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"image": "tiny", "memory": "128Mi"},
	}}
}

// onStore makes newServer serve a store that others use too.
func onStore(st store.Store) func(*apiserver.Options) {
	return func(o *apiserver.Options) { o.Store = st }
}
