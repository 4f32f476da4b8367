package apiserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
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

// Objects get their controller's finalizer at birth, and it belongs to none of
// those who write them.
func TestFinalizersAtBirth(t *testing.T) {
	const finalizer = "example.com/keep"
	a := newAPI(t, func(o *apiserver.Options) {
		o.Finalizers = map[schema.GroupResource]string{v1.Resource("sandboxes"): finalizer}
	})
	want := func(name string, want ...string) {
		t.Helper()
		if got := a.get(sandboxes + "/" + name).want(200).object().GetFinalizers(); !slices.Equal(got, want) {
			t.Errorf("%s has finalizers %q, want %q", name, got, want)
		}
	}
	a.do("POST", sandboxes, sandbox("posted")).want(201)
	want("posted", finalizer)
	a.do("POST", sandboxes, with(sandbox("twice"), []any{"example.com/other", finalizer}, "metadata", "finalizers")).want(201)
	want("twice", "example.com/other", finalizer)
	for range 2 {
		a.patch(applyPatch, sandboxes+"/applied?fieldManager=m", applied("applied", "{image: tiny}"))
		want("applied", finalizer)
	}
	a.do("POST", goldenImages, image("tiny", object("source", object("disk", object("path", "a"))))).want(201)
	if got := a.get(goldenImages + "/tiny").want(200).object().GetFinalizers(); len(got) > 0 {
		t.Errorf("an image has finalizers %q, which are for sandboxes", got)
	}
	// It holds the object until its controller takes it away.
	a.do("DELETE", sandboxes+"/posted", nil).want(200)
	want("posted", finalizer)
	a.patch(mergePatch, sandboxes+"/posted", `{"metadata":{"finalizers":null}}`).want(200)
	a.get(sandboxes+"/posted").refused(404, "NotFound")
}

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
