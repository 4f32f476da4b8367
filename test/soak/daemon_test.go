package soak

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/controller"
	"sandboxd.dev/sandboxd/controller/sandbox"
	"sandboxd.dev/sandboxd/controller/usage"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
	"sandboxd.dev/sandboxd/store/bolt"
)

// The pace of a soaked daemon. It is slower than the default where things are looked
// at for no reason: days of that would be most of the work.
const (
	resync     = 10 * time.Minute
	gcInterval = 10 * time.Minute
	gcGrace    = 15 * time.Minute
)

// wallClock is a wall clock that jumps. It shows no monotonic time, as what is read
// from a status does not.
type wallClock struct {
	clock.RealClock
	ahead atomic.Int64
}

func (c *wallClock) Now() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.ahead.Load()))
}

func (c *wallClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c *wallClock) jump(d time.Duration) { c.ahead.Add(int64(d)) }

// host is what daemons are started on, and outlives them.
type host struct {
	t       *testing.T
	dir     string
	world   *fake.World
	wall    *wallClock
	weather *weather
	usage   *usage.Tracker
	// sweep is the interval of the garbage collection.
	sweep time.Duration
	// limiter replaces the backoff.
	limiter func() workqueue.TypedRateLimiter[reconcile.Request]

	*daemon
}

// daemon is one run.
type daemon struct {
	client   client.Client
	instance providers.Instance
	dead     *atomic.Bool
	end      func()
}

func newHost(t *testing.T, seed uint64) *host {
	h := &host{t: t, dir: tempDir(t), wall: &wallClock{}, weather: newWeather(seed), sweep: gcInterval}
	h.usage = usage.New(h.wall)
	for _, f := range []string{"golden.qcow2", "other-golden.qcow2"} {
		must(t, os.WriteFile(filepath.Join(h.dir, f), []byte("image"), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(h.dir, "share"), 0o700))
	h.world = fake.NewWorld(fake.Options{
		Source: func(path string) (fake.Source, bool) {
			return fake.Source{SHA256: strings.Repeat("a", 64)}, strings.HasSuffix(path, "golden.qcow2")
		},
		Latency: fake.Latency{
			Step: 20 * time.Millisecond, Import: 20 * time.Second,
			Boot: 6 * time.Second, Shutdown: 2 * time.Second,
		},
	})
	return h
}

// tempDir is in memory where the host has such a place. The store does all that it does
// elsewhere, but its syncs cost no time of a disk: a soak is about what is written, and
// package store/bolt about what a lost write does.
func tempDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "sandboxd-soak-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (h *host) store() string { return filepath.Join(h.dir, "store", "sandboxd.db") }

// start begins a run of the daemon.
func (h *host) start() {
	t := h.t
	ctx, cancel := context.WithCancel(context.Background())
	st, err := bolt.Open(h.store(), bolt.Options{})
	must(t, err)
	d := &daemon{instance: providers.Instance(st.InstanceID()), dead: &atomic.Bool{}}
	api, err := apiserver.New(ctx, apiserver.Options{
		Store: st, CRDs: v1.CRDs, Clock: h.wall,
		Finalizers: map[schema.GroupResource]string{
			v1.Resource("goldenimages"):     v1.FinalizerImage,
			v1.Resource("sandboxes"):        v1.FinalizerMachine,
			v1.Resource("sandboxsnapshots"): v1.FinalizerSnapshot,
		},
	})
	must(t, err)
	paths, err := hostpath.New(hostpath.Options{Roots: []string{h.dir}, ImageDir: h.dir})
	must(t, err)
	p := fault.Wrap(fake.New(h.world, v1.ProviderKVM, d.instance), fault.Chain(d.dying, h.weather.hook))
	config := api.LoopbackConfig()
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return dying{rt, d.dead} })
	c, err := controller.New(ctx, controller.Options{
		Config: config, Providers: providers.NewSet(v1.ProviderKVM, p), HostPaths: paths,
		Defaults: sandbox.Defaults{CPUs: 1, Memory: resource.MustParse("256Mi")},
		Usage:    h.usage, Logger: logr.Discard(),
		Resync: resync, GCInterval: h.sweep, GCGrace: gcGrace,
		Clock: h.wall, RateLimiter: h.limiter,
	})
	must(t, err)
	scheme := runtime.NewScheme()
	must(t, errors.Join(v1.AddToScheme(scheme), corev1.AddToScheme(scheme), eventsv1.AddToScheme(scheme)))
	d.client, err = client.New(api.LoopbackConfig(), client.Options{Scheme: scheme})
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	d.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !d.dead.Load() {
			t.Errorf("controllers: %v", err)
		}
		_ = p.Close()
		_ = api.Close()
		_ = st.Close()
	})
	h.daemon = d
}

// kill ends the daemon as kill -9 would: from here on it reaches neither the API nor
// the host, and what it was at is cut off where it is.
func (h *host) kill() {
	h.dead.Store(true)
	h.end()
}

// dying keeps what comes after a kill from the host.
func (d *daemon) dying(ctx context.Context, _ fault.Point) error {
	if !d.dead.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// dying keeps what comes after a kill from the API.
type dying struct {
	http.RoundTripper
	dead *atomic.Bool
}

var errKilled = errors.New("the process was killed")

func (d dying) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.dead.Load() {
		return nil, errKilled
	}
	return d.RoundTripper.RoundTrip(r)
}

// provider is the host without weather, as an administrator would see it.
func (h *host) provider() providers.Provider { return fake.New(h.world, v1.ProviderKVM, h.instance) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
