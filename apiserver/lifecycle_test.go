package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
)

// brokenStore panics or fails when told to.
type brokenStore struct {
	store.Store
	get func() error
}

func (s *brokenStore) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if key.Resource == "sandboxes.sandboxd.dev" {
		if err := s.get(); err != nil {
			return store.Entry{}, err
		}
	}
	return s.Store.Get(ctx, key)
}

// TestFailures checks what clients are told when something goes wrong inside.
func TestFailures(t *testing.T) {
	broken := &brokenStore{Store: openStore(t)}
	var mu sync.Mutex
	var logged strings.Builder
	log := funcr.New(func(_, args string) {
		mu.Lock()
		defer mu.Unlock()
		logged.WriteString(args + "\n")
	}, funcr.Options{})
	a := newAPI(t, func(o *apiserver.Options) { o.Store, o.Logger = broken, log })
	for _, c := range []struct {
		name   string
		get    func() error
		code   int
		reason string
	}{
		{"a panic", func() error { panic("secret cause") }, 500, "InternalError"},
		{"an unknown error", func() error { return errors.New("the disk is on fire") }, 500, "InternalError"},
		{"a closed store", func() error { return store.ErrClosed }, 503, "ServiceUnavailable"},
		{"a full disk", func() error { return fmt.Errorf("store: %w", store.ErrNoSpace) }, 507, "InsufficientCapacity"},
		{"a large value", func() error { return store.ErrTooLarge }, 413, "RequestEntityTooLarge"},
		{"a cancelled request", func() error { return context.Canceled }, 504, "Timeout"},
		{"a bad key", func() error { return store.ErrInvalidKey }, 404, "NotFound"},
	} {
		broken.get = c.get
		got := a.get(sandboxes+"/one").refused(c.code, c.reason)
		if strings.Contains(string(got.body), "secret cause") {
			t.Errorf("%s: the client is told %s", c.name, got.body)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(logged.String(), "secret cause") || !strings.Contains(logged.String(), "on fire") {
		t.Errorf("the log says only %s", logged.String())
	}
}

// TestShutdown checks that the end of Serve ends streams, lets requests finish
// and leaves nothing behind.
func TestShutdown(t *testing.T) {
	inHandler, release := make(chan struct{}), make(chan struct{})
	s := newServer(t, func(o *apiserver.Options) {
		o.Subresources = []apiserver.Subresource{{
			Resource: v1.Resource("sandboxes"), Name: "slow", Methods: []string{"GET"},
			Handler: func(w http.ResponseWriter, _ *http.Request, _ *unstructured.Unstructured) {
				close(inHandler)
				<-release
				_, _ = io.WriteString(w, "finished")
			},
		}}
	})
	api{t: t, handler: s.Handler()}.do("POST", sandboxes, sandbox("one")).want(201)
	path := filepath.Join(t.TempDir(), "api.sock")
	stop := serveUnix(t, s, path)
	transport := &http.Transport{DialContext: unixConfig(path).Dial}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}

	watching, err := c.Get("http://sandboxd" + sandboxes + "?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watching.Body.Close() }()
	lines := bufio.NewReader(watching.Body)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "ADDED") {
		t.Fatalf("the watch begins with %q: %v", line, err)
	}
	slow := make(chan string, 1)
	go func() {
		response, err := c.Get("http://sandboxd" + sandboxes + "/one/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer func() { _ = response.Body.Close() }()
		body, _ := io.ReadAll(response.Body)
		slow <- string(body)
	}()
	<-inHandler
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	// The stream ends cleanly while the other request is still served.
	if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
		t.Errorf("the watch ends with %q: %v", rest, err)
	}
	close(release)
	if got := <-slow; got != "finished" {
		t.Errorf("the request that was under way got %q", got)
	}
	<-stopped
	if _, err := c.Get("http://sandboxd/healthz"); err == nil {
		t.Error("a stopped server answers")
	}
}

// TestServeFails checks that a broken listener is reported.
func TestServeFails(t *testing.T) {
	s := newServer(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "connections cannot be accepted") {
		t.Errorf("serving on a closed listener gives %v", err)
	}
}

// TestLoopbackAfterClose checks that a closed server refuses at once.
func TestLoopbackAfterClose(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s.LoopbackConfig())
	_ = s.Close()
	_ = s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all v1.SandboxList
	if err := c.List(ctx, &all); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request after Close gives %v", err)
	}
}

// TestSlowBody checks that a client cannot hold a request open by sending its
// headers only: the connection's deadline is set while the body is read.
func TestSlowBody(t *testing.T) {
	a := newAPI(t)
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	raw, _ := json.Marshal(sandbox("one"))
	r := httptest.NewRequest("POST", sandboxes, bytes.NewReader(raw))
	a.handler.ServeHTTP(w, r)
	if w.Code != 201 || len(w.read) != 2 || w.read[0].IsZero() || !w.read[1].IsZero() {
		t.Errorf("the answer is %d and the read deadlines were %v", w.Code, w.read)
	}
}

// deadlines records the deadlines that are set.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write []time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.write = append(d.write, t)
	return nil
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = append(d.read, t)
	return nil
}

// TestNewRefuses checks that mistakes in the options are found at the start.
func TestNewRefuses(t *testing.T) {
	definition := func(change func(string) string) fstest.MapFS {
		raw, err := v1.CRDs.ReadFile("crds/sandboxd.dev_sandboxes.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return fstest.MapFS{"a.yaml": {Data: []byte(change(string(raw)))}}
	}
	same := func(s string) string { return s }
	for name, c := range map[string]struct {
		o       apiserver.Options
		message string
	}{
		"no store":       {apiserver.Options{CRDs: v1.CRDs}, "needs a store"},
		"no definitions": {apiserver.Options{Store: openStore(t)}, "needs a store and definitions"},
		"no YAML":        {apiserver.Options{Store: openStore(t), CRDs: fstest.MapFS{"a.yaml": {Data: []byte("{")}}}, "a.yaml is not a CustomResourceDefinition"},
		"unknown field":  {apiserver.Options{Store: openStore(t), CRDs: definition(func(s string) string { return s + "extra: 1\n" })}, "a.yaml is not a CustomResourceDefinition"},
		"two versions":   {apiserver.Options{Store: openStore(t), CRDs: definition(func(s string) string { return strings.Replace(s, "served: true", "served: false", 1) })}, "must have exactly one version"},
		"bad column":     {apiserver.Options{Store: openStore(t), CRDs: definition(func(s string) string { return strings.Replace(s, "jsonPath: .spec.image", "jsonPath: .spec[", 1) })}, "printer column Image"},
		"not structural": {apiserver.Options{Store: openStore(t), CRDs: definition(func(s string) string {
			return strings.Replace(s, "discardOnStop:\n", "discardOnStop:\n                allOf: [{type: string}]\n", 1)
		})}, "not structural"},
		"defined twice":   {apiserver.Options{Store: openStore(t), CRDs: fstest.MapFS{"a.yaml": definition(same)["a.yaml"], "b.yaml": definition(same)["a.yaml"]}}, "defined twice"},
		"no such parent":  {apiserver.Options{Store: openStore(t), CRDs: v1.CRDs, Subresources: []apiserver.Subresource{{Resource: v1.Resource("pods"), Name: "exec"}}}, "which is not served"},
		"status is taken": {apiserver.Options{Store: openStore(t), CRDs: v1.CRDs, Subresources: []apiserver.Subresource{{Resource: v1.Resource("sandboxes"), Name: "status"}}}, "needs a name of its own"},
	} {
		c.o.Logger = logr.Discard()
		s, err := apiserver.New(t.Context(), c.o)
		if err == nil {
			_ = s.Close()
			t.Errorf("%s is accepted", name)
		} else if !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s is refused with %v", name, err)
		}
	}
}
