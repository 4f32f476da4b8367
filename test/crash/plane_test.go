package crash_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sandboxd.dev/sandboxd/admission"
	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/controller"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	defaults "sandboxd.dev/sandboxd/controller/sandbox"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fault"
	"sandboxd.dev/sandboxd/store"
	"sandboxd.dev/sandboxd/store/bolt"
)

// pace is how often a control plane looks for garbage; it is removed after two of
// these at least.
const (
	pace     = 100 * time.Millisecond
	realPace = time.Second
)

// plane is a control plane: store, API server and controllers, put together as the
// daemon does, on a provider.
type plane struct {
	client client.WithWatch
	server *apiserver.Server
	end    func() error
}

// land is what planes are started on.
type land struct {
	// dir holds the store, images and what the control plane keeps.
	dir  string
	open func(providers.Instance) (providers.Provider, error)
	// shared wraps the store.
	shared func(store.Store) store.Store
	log    logr.Logger
	pace   time.Duration
}

func (l land) path(name string) string { return filepath.Join(l.dir, name) }

// start runs a control plane that dies as told.
func (l land) start(death *death) (*plane, error) {
	file, err := bolt.Open(l.path("store.db"), bolt.Options{})
	if err != nil {
		return nil, err
	}
	instance := providers.Instance(file.InstanceID())
	p, err := l.open(instance)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	p = fault.Wrap(p, death.call)
	ctx, cancel := context.WithCancel(context.Background())
	begun := make(chan struct{})
	go func() { // which may die before it has begun
		select {
		case <-death.died:
			cancel()
			death.bury()
		case <-begun:
		}
	}()
	running, err := l.run(ctx, l.shared(file), p)
	close(begun)
	ended := make(chan error, 1)
	if err == nil {
		go func() { ended <- running.controllers.Start(ctx) }()
	}
	end := func() error {
		cancel()
		death.bury()
		var errs []error
		if running.controllers != nil {
			errs = append(errs, <-ended)
		}
		errs = append(errs, p.Close())
		running.lines.cut() // one that was never used would be waited for
		if running.server != nil {
			errs = append(errs, running.server.Close())
		}
		return errors.Join(append(errs, file.Close())...)
	}
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return &plane{client: running.client, server: running.server, end: end}, nil
}

// parts of a control plane, as far as it was put together.
type parts struct {
	server      *apiserver.Server
	controllers *controller.Controllers
	client      client.WithWatch
	config      *rest.Config
	lines       *lines
}

// lines are the connections inside a control plane.
type lines struct {
	mu   sync.Mutex
	open []net.Conn
}

func (l *lines) dial(by func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := by(ctx, network, address)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err == nil {
			l.open = append(l.open, c)
		}
		return c, err
	}
}

func (l *lines) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		_ = c.Close()
	}
	l.open = nil
}

func (l land) run(ctx context.Context, s store.Store, p providers.Provider) (got parts, err error) {
	got.lines = &lines{}
	paths, err := hostpath.New(hostpath.Options{Roots: []string{l.dir}, ImageDir: l.dir})
	if err != nil {
		return got, err
	}
	set := providers.NewSet(p.Name(), p)
	got.server, err = apiserver.New(ctx, apiserver.Options{
		Store: s, CRDs: v1.CRDs, Logger: logr.Discard(),
		Admission: []apiserver.Admission{admission.New(set, paths)},
		Finalizers: map[schema.GroupResource]string{
			v1.Resource("goldenimages"):     v1.FinalizerImage,
			v1.Resource("sandboxes"):        v1.FinalizerMachine,
			v1.Resource("sandboxsnapshots"): v1.FinalizerSnapshot,
		},
	})
	if err != nil {
		return got, err
	}
	got.config = got.server.LoopbackConfig()
	got.config.Dial = got.lines.dial(got.config.Dial)
	if got.client, err = connect(got.config); err != nil {
		return got, err
	}
	got.controllers, err = controller.New(ctx, controller.Options{
		Config: got.config, Providers: set, HostPaths: paths,
		Defaults:  defaults.Defaults{CPUs: 1, Memory: resource.MustParse("96Mi")},
		BuildLogs: build.NewLogs(l.path("builds")),
		Logger:    l.log, Resync: 2 * time.Second, GCInterval: l.pace, GCGrace: 2 * l.pace,
	})
	if err != nil {
		return got, fmt.Errorf("controllers: %w", err)
	}
	return got, nil
}

// connect makes a client as users have one.
func connect(config *rest.Config) (client.WithWatch, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(v1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.NewWithWatch(config, client.Options{Scheme: scheme})
}
