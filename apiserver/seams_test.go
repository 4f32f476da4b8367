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
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/coder/websocket"
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
)

// TestMain checks that no test leaves a goroutine behind.
func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	goleak.VerifyTestMain(m,
		// client-go and controller-runtime start these for the whole process.
		goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
	)
}

// admission is an Admission made of a function.
type admission func(ctx context.Context, a apiserver.Attributes) error

func (f admission) Admit(ctx context.Context, a apiserver.Attributes) error { return f(ctx, a) }

func TestAdmission(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	record := admission(func(_ context.Context, a apiserver.Attributes) error {
		mu.Lock()
		defer mu.Unlock()
		if a.Resource.Resource == "sandboxes" {
			seen = append(seen, fmt.Sprintf("%s %s/%s %q object=%t old=%t dry=%t by %s", a.Operation, a.Namespace, a.Name, a.Subresource, a.Object != nil, a.OldObject != nil, a.DryRun, a.User.Name))
		}
		return nil
	})
	judge := admission(func(ctx context.Context, a apiserver.Attributes) error {
		if a.Resource.Resource != "sandboxes" || a.Object == nil {
			return nil
		}
		name, _, _ := unstructured.NestedString(a.Object.Object, "spec", "image")
		if mode, _, _ := unstructured.NestedString(a.Object.Object, "spec", "network", "mode"); mode == "" {
			return errors.New("defaults are missing")
		}
		switch name {
		case "forbidden":
			return errors.New("the image is forbidden here")
		case "conflict":
			return apierrors.NewConflict(v1.Resource("sandboxes"), a.Name, errors.New("not now"))
		}
		// Other objects can be read.
		if _, err := a.Reader.Get(ctx, v1.Resource("goldenimages"), "", name); err != nil {
			if !apierrors.IsNotFound(err) {
				t.Errorf("reading failed with %v", err)
			}
			return err
		}
		all, err := a.Reader.List(ctx, v1.Resource("goldenimages"), "")
		if err != nil || len(all) != 1 || all[0].GetName() != "tiny" {
			t.Errorf("listing gives %v, %v", all, err)
		}
		if _, err := a.Reader.Get(ctx, v1.Resource("nothings"), "", "x"); !apierrors.IsNotFound(err) {
			t.Errorf("reading an unknown resource gives %v", err)
		}
		return nil
	})
	a := newAPI(t, func(o *apiserver.Options) { o.Admission = []apiserver.Admission{record, judge} })
	a.do("POST", sandboxes, sandbox("one")).refused(404, "NotFound", `goldenimages.sandboxd.dev "tiny" not found`)
	a.do("POST", goldenImages, image("tiny", object("source", object("disk", object("path", "a"))))).want(201)
	a.do("POST", sandboxes, with(sandbox("one"), "forbidden", "spec", "image")).refused(403, "Forbidden", `sandboxes.sandboxd.dev "one" is forbidden: the image is forbidden here`)
	a.do("POST", sandboxes, with(sandbox("one"), "conflict", "spec", "image")).refused(409, "Conflict", "not now")
	a.do("POST", sandboxes, with(sandbox("one"), "1Mi", "spec", "memory")).refused(422, "Invalid") // before admission
	a.get(sandboxes+"/one").refused(404, "NotFound")

	mu.Lock()
	seen = nil
	mu.Unlock()
	a.do("POST", sandboxes+"?dryRun=All", sandbox("one")).want(201)
	a.do("POST", sandboxes, sandbox("one")).want(201)
	a.patch(mergePatch, sandboxes+"/one", `{"spec":{"cpus":1}}`).want(200)
	a.patch(mergePatch, sandboxes+"/one", `{"spec":{"cpus":1}}`).want(200) // changes nothing
	a.patch(mergePatch, sandboxes+"/one/status", `{"status":{"phase":"Running"}}`).want(200)
	a.patch(applyPatch, sandboxes+"/two?fieldManager=m", applied("two", "{image: tiny}")).want(201)
	a.do("DELETE", sandboxes+"/one", nil).want(200)
	want := []string{
		`CREATE default/one "" object=true old=false dry=true by system:anonymous`,
		`CREATE default/one "" object=true old=false dry=false by system:anonymous`,
		`UPDATE default/one "" object=true old=true dry=false by system:anonymous`,
		`UPDATE default/one "status" object=true old=true dry=false by system:anonymous`,
		`CREATE default/two "" object=true old=false dry=false by system:anonymous`,
		`DELETE default/one "" object=false old=true dry=false by system:anonymous`,
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Join(seen, "\n") != strings.Join(want, "\n") {
		t.Errorf("admission saw\n%s\nwhere\n%s\nwas expected", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

// TestAdmissionRefusesDeletion checks both ways in which objects are deleted.
func TestAdmissionRefusesDeletion(t *testing.T) {
	a := newAPI(t, func(o *apiserver.Options) {
		o.Admission = []apiserver.Admission{admission(func(_ context.Context, a apiserver.Attributes) error {
			if a.Operation == apiserver.Delete && a.OldObject.GetLabels()["keep"] != "" {
				return errors.New("it is in use")
			}
			return nil
		})}
	})
	a.do("POST", sandboxes, with(sandbox("kept"), "yes", "metadata", "labels", "keep")).want(201)
	a.do("DELETE", sandboxes+"/kept", nil).refused(403, "Forbidden", "it is in use")
	a.do("DELETE", sandboxes, nil).refused(403, "Forbidden", "it is in use")
	a.get(sandboxes + "/kept").want(200)
}

func TestSubresource(t *testing.T) {
	a := newAPI(t, execSubresource)
	a.do("POST", sandboxes, sandbox("one")).want(201)
	if got := a.do("POST", sandboxes+"/one/exec", "").want(200); string(got.body) != "POST one system:anonymous" {
		t.Errorf("the subresource answered %s", got.body)
	}
	a.get(sandboxes+"/two/exec").refused(404, "NotFound", `sandboxes.sandboxd.dev "two" not found`)
	a.do("DELETE", sandboxes+"/one/exec", nil).refused(405, "MethodNotAllowed")
	a.get(sandboxes+"/one/attach").refused(404, "NotFound")
}

// TestSubresourceStreams checks that a handler can take the connection over,
// over a unix socket and in-process.
func TestSubresourceStreams(t *testing.T) {
	s := newServer(t, func(o *apiserver.Options) {
		o.Subresources = []apiserver.Subresource{{
			Resource: v1.Resource("sandboxes"), Name: "exec", Methods: []string{"GET"},
			Handler: func(w http.ResponseWriter, r *http.Request, _ *unstructured.Unstructured) {
				c, err := websocket.Accept(w, r, nil)
				if err != nil {
					return
				}
				defer func() { _ = c.CloseNow() }()
				for {
					kind, message, err := c.Read(r.Context())
					if err != nil {
						return
					}
					if err := c.Write(r.Context(), kind, bytes.ToUpper(message)); err != nil {
						return
					}
				}
			},
		}}
	})
	api{t: t, handler: s.Handler()}.do("POST", sandboxes, sandbox("one")).want(201)
	path := filepath.Join(t.TempDir(), "api.sock")
	defer serveUnix(t, s, path)()
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"unix": unixConfig(path).Dial, "in-process": s.LoopbackConfig().Dial,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		transport := &http.Transport{DialContext: dial}
		c, _, err := websocket.Dial(ctx, "http://sandboxd"+sandboxes+"/one/exec", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, word := range []string{"hello", "again"} {
			if err := c.Write(ctx, websocket.MessageText, []byte(word)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := c.Read(ctx); err != nil || string(got) != strings.ToUpper(word) {
				t.Errorf("%s: the echo of %s is %s: %v", name, word, got, err)
			}
		}
		_ = c.Close(websocket.StatusNormalClosure, "")
		transport.CloseIdleConnections()
		cancel()
	}
}

// TestUsers checks who is who: by the kernel's word on a unix socket, and the
// daemon itself in-process.
func TestUsers(t *testing.T) {
	s := newServer(t, execSubresource)
	api{t: t, handler: s.Handler()}.do("POST", sandboxes, sandbox("one")).want(201)
	path := filepath.Join(t.TempDir(), "api.sock")
	defer serveUnix(t, s, path)()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for want, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		me.Username: unixConfig(path).Dial, "system:sandboxd": s.LoopbackConfig().Dial,
	} {
		transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
		response, err := (&http.Client{Transport: transport}).Get("http://sandboxd" + sandboxes + "/one/exec")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if string(body) != "GET one "+want {
			t.Errorf("the user is %q where %q was expected", body, want)
		}
	}
}

// TestLoopback uses the in-process connection as the controllers do.
func TestLoopback(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s.LoopbackConfig())
	ctx := t.Context()
	one := &v1.Sandbox{Spec: v1.SandboxSpec{Image: "tiny"}}
	one.Namespace, one.Name = "default", "one"
	if err := c.Create(ctx, one); err != nil {
		t.Fatal(err)
	}
	if one.UID == "" || one.Spec.Network.Mode != v1.NetworkNone {
		t.Errorf("the created object is %+v", one)
	}
	before := one.DeepCopy()
	one.Status.Phase = v1.SandboxRunning
	if err := c.Status().Patch(ctx, one, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	stale := before.DeepCopy()
	stale.Spec.CPUs = 4
	if err := c.Update(ctx, stale); !apierrors.IsConflict(err) {
		t.Errorf("a stale update gives %v", err)
	}
	if err := c.Patch(ctx, stale, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); !apierrors.IsConflict(err) {
		t.Errorf("a stale patch gives %v", err)
	}
	var all v1.SandboxList
	if err := c.List(ctx, &all, client.MatchingFields{"spec.image": "tiny"}); err != nil || len(all.Items) != 1 || all.Items[0].Status.Phase != v1.SandboxRunning {
		t.Errorf("the list is %+v: %v", all.Items, err)
	}
	if err := c.DeleteAllOf(ctx, &v1.Sandbox{}, client.InNamespace("default")); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(one), one); !apierrors.IsNotFound(err) {
		t.Errorf("reading a deleted object gives %v", err)
	}
}

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
		{"a full disk", func() error { return fmt.Errorf("store: %w", store.ErrNoSpace) }, 503, "ServiceUnavailable"},
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

// deadlines records the read deadlines that are set.
type deadlines struct {
	*httptest.ResponseRecorder
	read []time.Time
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
