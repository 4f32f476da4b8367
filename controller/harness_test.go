package controller_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/controller"
	"sandboxd.dev/sandboxd/controller/goldenimage"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/controller/sandbox"
	"sandboxd.dev/sandboxd/controller/usage"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/store/bolt"
)

// patience stops a test that hangs; nothing is expected to take so long.
const patience = 3 * time.Minute

// daemon is the control plane of one daemon, on a real store and a real API
// server, over a simulated host that outlives it.
type daemon struct {
	t     testing.TB
	world *fake.World
	dir   string
	wrap  func(providers.Provider) providers.Provider
	// ssh reaches guests without an agent; nil: nothing does.
	ssh sandbox.SSH
	// buildSSH reaches guests without an agent in builds, and limits bound these.
	buildSSH goldenimage.SSH
	limits   build.Limits
	// usage tells when sandboxes were last used.
	usage *usage.Tracker
	// capacity is what machines share; the zero value has no limit.
	capacity controller.Capacity
	// sweep is the interval of the garbage collection.
	sweep time.Duration
	// clock is the wall clock; nil means the real one.
	clock clock.Clock
	// api changes how the controllers reach the API.
	api func(*rest.Config)
	// verify judges what the garbage collector lists; nil relies on it.
	verify func(context.Context, ...string) error
	// resync is how often what is settled is looked at.
	resync time.Duration
	// log gets what the controllers log; the zero Logger means the test's.
	log logr.Logger

	client   client.WithWatch
	instance providers.Instance
	stop     func()
}

// Errors that Kubernetes' informers report are logged, but pause nobody: how long, they
// tell by the clock of the last one in the process, which may have been seen on another
// clock than a bubble's, years away.
func init() { utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1] }

// host is what daemons are started on.
func host(t testing.TB, o fake.Options) *daemon {
	t.Helper()
	if o.Source == nil {
		o.Source = func(path string) (fake.Source, bool) {
			return fake.Source{SHA256: strings.Repeat("a", 64)}, strings.HasSuffix(path, "golden.qcow2")
		}
	}
	dir := t.TempDir()
	for _, f := range []string{"golden.qcow2", "other-golden.qcow2"} {
		must(t, os.WriteFile(filepath.Join(dir, f), []byte("image"), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(dir, "share"), 0o755))
	return &daemon{t: t, world: fake.NewWorld(o), dir: dir, usage: usage.New(nil), sweep: 200 * time.Millisecond, resync: 2 * time.Second}
}

// start runs the daemon until stop or the end of the test.
func (d *daemon) start() {
	t := d.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	st, err := bolt.Open(filepath.Join(d.dir, "store", "sandboxd.db"), bolt.Options{})
	must(t, err)
	d.instance = providers.Instance(st.InstanceID())
	api, err := apiserver.New(ctx, apiserver.Options{Store: st, CRDs: v1.CRDs, Logger: logr.Discard(), Clock: d.clock})
	must(t, err)
	paths, err := hostpath.New(hostpath.Options{Roots: []string{d.dir}, ImageDir: d.dir})
	must(t, err)
	var p providers.Provider = fake.New(d.world, v1.ProviderKVM, d.instance)
	if d.wrap != nil {
		p = d.wrap(p)
	}
	log := d.log
	if log.IsZero() && testing.Verbose() {
		log = testr.NewWithInterface(t, testr.Options{Verbosity: 1})
	}
	config := api.LoopbackConfig()
	if d.api != nil {
		d.api(config)
	}
	c, err := controller.New(ctx, controller.Options{
		Config: config, Providers: providers.NewSet(v1.ProviderKVM, p), HostPaths: paths,
		Defaults: sandbox.Defaults{CPUs: 1, Memory: resource.MustParse("256Mi")},
		Usage:    d.usage,
		SSH:      d.ssh, BuildSSH: d.buildSSH, BuildLogs: build.NewLogs(filepath.Join(d.dir, "builds")), BuildLimits: d.limits,
		Capacity: d.capacity, Clock: d.clock,
		Logger: log, Resync: d.resync, GCInterval: d.sweep, GCGrace: 300 * time.Millisecond, GCVerify: d.verify,
	})
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	scheme := runtime.NewScheme()
	must(t, errors.Join(v1.AddToScheme(scheme), corev1.AddToScheme(scheme), eventsv1.AddToScheme(scheme)))
	d.client, err = client.NewWithWatch(api.LoopbackConfig(), client.Options{Scheme: scheme})
	must(t, err)
	stopped := false
	d.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("controllers: %v", err)
			}
		case <-time.After(patience):
			t.Error("controllers do not stop")
		}
		_ = p.Close()
		_ = api.Close()
		_ = st.Close()
	}
	t.Cleanup(d.stop)
}

func (d *daemon) provider() providers.Provider {
	return fake.New(d.world, v1.ProviderKVM, d.instance)
}

func (d *daemon) create(objects ...client.Object) {
	d.t.Helper()
	for _, o := range objects {
		must(d.t, d.client.Create(d.t.Context(), o))
	}
}

// update changes a sandbox by a merge patch.
func (d *daemon) update(sbx *v1.Sandbox, change func(*v1.Sandbox)) {
	d.t.Helper()
	must(d.t, d.client.Get(d.t.Context(), client.ObjectKeyFromObject(sbx), sbx))
	before := sbx.DeepCopy()
	change(sbx)
	must(d.t, d.client.Patch(d.t.Context(), sbx, client.MergeFrom(before)))
}

// until waits for an object to satisfy a condition, and shows the last one
// that did not.
func until[T client.Object](d *daemon, o T, what string, ok func(T) bool) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := d.client.Get(d.t.Context(), client.ObjectKeyFromObject(o), o)
		if err == nil && ok(o) {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s %s: never %s: %v\n%s", o.GetObjectKind().GroupVersionKind().Kind, o.GetName(), what, err, show(o))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// gone waits for an object to be deleted.
func (d *daemon) gone(o client.Object) {
	d.t.Helper()
	d.eventually("object "+o.GetName()+" gone", func() error {
		err := d.client.Get(d.t.Context(), client.ObjectKeyFromObject(o), o)
		if err == nil {
			return fmt.Errorf("it exists: %s", show(o))
		}
		return client.IgnoreNotFound(err)
	})
}

func (d *daemon) eventually(what string, f func() error) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("never %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leftovers lists what the provider still has.
func (d *daemon) leftovers() []providers.Resource {
	d.t.Helper()
	list, err := d.provider().ListResources(d.t.Context())
	must(d.t, err)
	return list
}

func goldenImage(name string) *v1.GoldenImage {
	return &v1.GoldenImage{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.GoldenImageSpec{Source: v1.ImageSource{Disk: &v1.DiskSource{Path: "golden.qcow2"}}},
	}
}

func newSandbox(name string, change ...func(*v1.Sandbox)) *v1.Sandbox {
	sbx := &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       v1.SandboxSpec{Image: "golden"},
	}
	for _, c := range change {
		c(sbx)
	}
	return sbx
}

func condition(o client.Object, t string) metav1.Condition {
	var list []metav1.Condition
	switch o := o.(type) {
	case *v1.Sandbox:
		list = o.Status.Conditions
	case *v1.GoldenImage:
		list = o.Status.Conditions
	case *v1.SandboxSnapshot:
		list = o.Status.Conditions
	}
	if c := meta.FindStatusCondition(list, t); c != nil {
		return *c
	}
	return metav1.Condition{}
}

func ready[T client.Object](o T) bool {
	return condition(o, v1.ConditionReady).Status == metav1.ConditionTrue
}

func because(t, reason string) func(*v1.Sandbox) bool {
	return func(s *v1.Sandbox) bool {
		return condition(s, t).Reason == reason && s.Status.ObservedGeneration == s.Generation
	}
}

func show(o client.Object) string {
	switch o := o.(type) {
	case *v1.Sandbox:
		return fmt.Sprintf("spec %+v\nstatus %+v", o.Spec, o.Status)
	case *v1.GoldenImage:
		return fmt.Sprintf("spec %+v\nstatus %+v", o.Spec, o.Status)
	case *v1.SandboxSnapshot:
		return fmt.Sprintf("metadata %+v\nspec %+v\nstatus %+v", o.ObjectMeta, o.Spec, o.Status)
	default:
		return fmt.Sprintf("%+v", o)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
