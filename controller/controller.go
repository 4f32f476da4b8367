package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	crcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/capacity"
	"sandboxd.dev/sandboxd/controller/census"
	"sandboxd.dev/sandboxd/controller/gc"
	"sandboxd.dev/sandboxd/controller/goldenimage"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/controller/job"
	"sandboxd.dev/sandboxd/controller/sandbox"
	"sandboxd.dev/sandboxd/controller/snapshot"
	"sandboxd.dev/sandboxd/controller/turn"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

// Options of the controllers.
type Options struct {
	// Config reaches the API.
	Config    *rest.Config
	Providers *providers.Set
	HostPaths *hostpath.Policy
	Defaults  sandbox.Defaults
	// SSH sets up guests that have no agent; nil leaves them alone.
	SSH sandbox.SSH
	// Usage tells when sandboxes were last used; nil knows of no use.
	Usage sandbox.Usage
	// Disks copies artifacts out of disks.
	Disks sandbox.DiskReader
	// BuildSSH reaches guests without an agent while their images are built.
	BuildSSH goldenimage.SSH
	// BuildLogs keeps what provision steps print; nil keeps nothing.
	BuildLogs *build.Logs
	// BuildLimits bound builds; the zero value means the default ones.
	BuildLimits build.Limits
	Logger      logr.Logger
	// Workers is how many sandboxes are reconciled at a time.
	Workers int
	// Imports is how many images are imported at a time.
	Imports int
	// Snapshots is how many snapshots are taken or deleted at a time.
	Snapshots int
	// Resync is how often settled objects are looked at without being woken.
	Resync time.Duration
	// Capacity of the host, which machines share; the zero value has no limit.
	Capacity Capacity
	// GCInterval and GCGrace pace the garbage collection.
	GCInterval, GCGrace time.Duration
	// GCVerify tells why what the API lists cannot be relied on; nil relies on it.
	GCVerify func(ctx context.Context, revisions ...string) error
	// Clock is the wall clock that the reconcilers go by; nil means the real one.
	// Intervals are measured on the monotonic clock of the process, which no jump of
	// the wall clock moves.
	Clock clock.PassiveClock
	// RateLimiter makes what spaces the tries of a controller's failing objects; nil
	// means exponential backoff with jitter, per object.
	RateLimiter func() workqueue.TypedRateLimiter[reconcile.Request]
}

// builds is how many images have their steps run at a time. The work is their
// guests', so it is as many as there are, within reason.
const builds = 64

// Defaults for what is not set.
const (
	DefaultWorkers    = 16
	DefaultImports    = 2
	DefaultSnapshots  = 4
	DefaultResync     = time.Minute
	DefaultGCInterval = time.Minute
	DefaultGCGrace    = 2 * time.Minute
)

func (o *Options) setDefaults() {
	setDefault(&o.Workers, DefaultWorkers)
	setDefault(&o.Imports, DefaultImports)
	setDefault(&o.Snapshots, DefaultSnapshots)
	setDefault(&o.Resync, DefaultResync)
	setDefault(&o.GCInterval, DefaultGCInterval)
	setDefault(&o.GCGrace, DefaultGCGrace)
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.RateLimiter == nil {
		o.RateLimiter = func() workqueue.TypedRateLimiter[reconcile.Request] { return newRateLimiter() }
	}
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Controllers are everything that acts on the API's objects.
type Controllers struct {
	manager manager.Manager
	objects *census.Reader
	// sandboxes and images tell which object a machine is of.
	sandboxes, images *places
	imports           *goldenimage.Imports
	// snapshots is the work on them.
	snapshots *snapshot.Work
	garbage   *gc.Collector
	builds    *goldenimage.Builds
	capacity  *capacity.Ledger
	outages   *outages
	// cancel ends the imports, the builds and the work on snapshots.
	cancel context.CancelFunc
}

// New makes the controllers. Imports that they start end with ctx. When it
// returns, no Sandbox is said to be ready any more: none has been looked at.
func New(ctx context.Context, o Options) (*Controllers, error) {
	o.setDefaults()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1.AddToScheme, corev1.AddToScheme, eventsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	slim := newSlimmer()
	sandboxes, images := newPlaces(slim), newPlaces(slim)
	skipNameValidation := true // several instances may run in one process, in tests
	config := manager.Options{
		Scheme: scheme,
		// What the library says of its own parts is detail.
		Logger:                 o.Logger.V(1),
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		Cache: cache.Options{
			DefaultTransform: slim.transform,
			ByObject: map[client.Object]cache.ByObject{
				&v1.Sandbox{}: {Transform: sandboxes.transform}, &v1.GoldenImage{}: {Transform: images.transform},
			},
		},
	}
	config.Controller.SkipNameValidation = &skipNameValidation
	m, err := manager.New(o.Config, config)
	if err != nil {
		return nil, fmt.Errorf("make controller manager: %w", err)
	}
	c := &Controllers{manager: m, sandboxes: sandboxes, images: images}
	if c.objects, err = census.New(o.Config, m.GetHTTPClient()); err != nil {
		return nil, err
	}
	ctx, c.cancel = context.WithCancel(ctx)
	unobserved := sandbox.NewUnobserved(o.Clock.Now())
	if err := c.add(ctx, o, unobserved); err != nil {
		c.cancel()
		return nil, err
	}
	if err := unobserved.TakeBack(ctx, m.GetClient()); err != nil {
		c.cancel()
		return nil, err
	}
	return c, nil
}

// Cache holds the objects that the controllers read.
func (c *Controllers) Cache() cache.Cache { return c.manager.GetCache() }

// Garbage is the garbage collector.
func (c *Controllers) Garbage() *gc.Collector { return c.garbage }

// Capacity is what machines share.
func (c *Controllers) Capacity() *capacity.Ledger { return c.capacity }

// Start runs the controllers until the context ends and everything they
// started has returned.
func (c *Controllers) Start(ctx context.Context) error {
	err := c.manager.Start(ctx)
	c.cancel() // the manager may have ended by itself
	c.imports.Wait()
	c.snapshots.Wait()
	c.builds.Wait()
	c.outages.probes.Wait()
	return err
}

func (c *Controllers) add(ctx context.Context, o Options, u *sandbox.Unobserved) error {
	if err := c.addIndexes(ctx); err != nil {
		return err
	}
	for p, of := range map[*places]client.Object{c.sandboxes: &v1.Sandbox{}, c.images: &v1.GoldenImage{}} {
		if err := p.forgetGone(ctx, c.manager.GetCache(), of); err != nil {
			return err
		}
	}
	w := &wakeups{}
	c.outages = &outages{
		ctx: ctx, clock: o.Clock, log: o.Logger.WithName("outages"), wake: w.all, resync: o.Resync,
		gates: map[v1.ProviderName]*gate{},
	}
	o.Providers = c.outages.guard(o.Providers)
	*w = wakeups{
		reader: c.manager.GetClient(), providers: o.Providers, ofSandboxes: c.sandboxes, ofImages: c.images, log: o.Logger.WithName("wakeups"),
		sandboxes: newQueue(), images: newQueue(), snapshots: newQueue(),
	}
	c.imports = job.NewRunner[goldenimage.Key, providers.Progress, providers.Image](ctx, o.Imports,
		func(k goldenimage.Key) { w.images.add(ctx, ended, goldenimage.RequestFor(k)) })
	c.snapshots = job.NewRunner[snapshot.Key, struct{}, providers.Snapshot](ctx, o.Snapshots, func(k snapshot.Key) {
		w.snapshots.add(ctx, ended, snapshot.RequestFor(k))
		w.sandboxes.add(ctx, ended, snapshot.SandboxRequestFor(k)) // which may have waited for its turn
	})
	admissions, err := c.admissions(ctx, o, w, u)
	if err != nil {
		return err
	}
	turns := turn.New()
	c.builds = job.NewRunner[goldenimage.Key, build.Progress, struct{}](ctx, builds,
		func(k goldenimage.Key) { w.images.add(ctx, ended, goldenimage.RequestFor(k)) })
	if err := c.addImages(o, w.images); err != nil {
		return fmt.Errorf("add golden image controller: %w", err)
	}
	if err := c.addSandboxes(o, w.sandboxes, turns); err != nil {
		return fmt.Errorf("add sandbox controller: %w", err)
	}
	if err := c.addSnapshots(o, w.snapshots, turns); err != nil {
		return fmt.Errorf("add snapshot controller: %w", err)
	}
	var places []gc.Place
	if o.BuildLogs != nil {
		places = append(places, o.BuildLogs)
	}
	c.garbage = gc.New(gc.Options{
		Objects: c.objects, Providers: o.Providers, Places: places, Verify: o.GCVerify,
		Interval: o.GCInterval, Grace: o.GCGrace, Logger: o.Logger.WithName("gc"),
	})
	for _, r := range []manager.Runnable{w, admissions, c.garbage} {
		if err := c.manager.Add(r); err != nil {
			return fmt.Errorf("add %T: %w", r, err)
		}
	}
	return nil
}

func (c *Controllers) addIndexes(ctx context.Context) error {
	type index struct {
		object client.Object
		field  string
		value  client.IndexerFunc
	}
	for _, i := range []index{
		{&v1.Sandbox{}, goldenimage.IndexImage, func(o client.Object) []string { return []string{o.(*v1.Sandbox).Spec.Image} }},
		{&v1.Sandbox{}, snapshot.IndexForks, func(o client.Object) []string { return named(o.(*v1.Sandbox).Spec.FromSnapshot) }},
		{&v1.Sandbox{}, indexRevertTo, func(o client.Object) []string { return named(revertTarget(o.(*v1.Sandbox))) }},
		{&v1.SandboxSnapshot{}, snapshot.IndexSandbox, func(o client.Object) []string {
			return []string{o.(*v1.SandboxSnapshot).Spec.Sandbox}
		}},
	} {
		if err := c.manager.GetFieldIndexer().IndexField(ctx, i.object, i.field, i.value); err != nil {
			return fmt.Errorf("index %T by %s: %w", i.object, i.field, err)
		}
	}
	return c.indexOrigins(ctx)
}

func (c *Controllers) addImages(o Options, wake queue) error {
	builds := buildDefaults(o)
	builds.Secrets, builds.Jobs = c.manager.GetAPIReader(), c.builds
	builds.Logs, builds.SSH, builds.Limits = o.BuildLogs, o.BuildSSH, o.BuildLimits
	limiter := patient{o.RateLimiter(), func(r reconcile.Request) bool {
		of := func(k goldenimage.Key) bool { return goldenimage.RequestFor(k) == r }
		return c.imports.Pending(of) || c.builds.Pending(of)
	}}
	return builder.ControllerManagedBy(c.manager).
		Named("goldenimage").
		Watches(&v1.GoldenImage{}, &ownChanges{limiter: limiter}, builder.WithPredicates(predicate.Or(specOrDeletionChanged(), pruneChanged(), rebuildAsked()))).
		Watches(&v1.Sandbox{}, wakeImageOf{}, builder.WithPredicates(cloneChanged())).
		Watches(&v1.Sandbox{}, c.imagesMadeOf(o, sandboxKey), builder.WithPredicates(originChanged())).
		Watches(&v1.SandboxSnapshot{}, c.imagesMadeOf(o, snapshotKey), builder.WithPredicates(originChanged())).
		WatchesRawSource(wake.source(limiter)).
		WithOptions(o.of("goldenimage", o.Imports+1, limiter)).
		Complete(c.ending(goldenimage.New(goldenimage.Options{
			Client: c.manager.GetClient(), Recorder: newRecorder(c.manager.GetEventRecorder("sandboxd")),
			Providers: o.Providers, HostPaths: o.HostPaths, Imports: c.imports, Resync: o.Resync, Clock: o.Clock,
			Build: builds, Capacity: c.capacity,
		})))
}

// buildDefaults are what the machines of builds have when their images do not say.
func buildDefaults(o Options) goldenimage.BuildOptions {
	return goldenimage.BuildOptions{CPUs: o.Defaults.CPUs, Memory: o.Defaults.Memory.Value()}
}

func (c *Controllers) addSandboxes(o Options, wake queue, turns *turn.Turns) error {
	ofImage := func(ctx context.Context, obj client.Object) []reconcile.Request {
		var list v1.SandboxList
		if err := c.manager.GetClient().List(ctx, &list, client.MatchingFields{goldenimage.IndexImage: obj.GetName()}, client.UnsafeDisableDeepCopy); err != nil {
			o.Logger.Error(err, "cannot find the sandboxes of an image; they are looked at at their next resync", "image", obj.GetName())
			return nil
		}
		requests := make([]reconcile.Request, 0, len(list.Items))
		for i := range list.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
		return requests
	}
	limiter := patient{TypedRateLimiter: o.RateLimiter()}
	return builder.ControllerManagedBy(c.manager).
		Named("sandbox").
		Watches(&v1.Sandbox{}, &ownChanges{limiter: limiter}, builder.WithPredicates(specOrDeletionChanged())).
		Watches(&v1.GoldenImage{}, handler.EnqueueRequestsFromMapFunc(ofImage), builder.WithPredicates(imageChanged())).
		Watches(&v1.SandboxSnapshot{}, handler.EnqueueRequestsFromMapFunc(c.usersOf(o.Logger)), builder.WithPredicates(snapshotChanged())).
		WatchesRawSource(wake.source(limiter)).
		WithOptions(o.of("sandbox", o.Workers, limiter)).
		Complete(c.ending(sandbox.New(sandbox.Options{
			Client: c.manager.GetClient(), Recorder: newRecorder(c.manager.GetEventRecorder("sandboxd")),
			Providers: o.Providers, HostPaths: o.HostPaths, Defaults: o.Defaults, Resync: o.Resync, SSH: o.SSH, Clock: o.Clock, Backoff: limiter,
			Disks: o.Disks, Turns: turns, Usage: o.Usage, Capacity: c.capacity,
		})))
}

// ending says how reconciliations end that are cut off, or wait.
func (c *Controllers) ending(r reconcile.Reconciler) reconcile.Reconciler {
	return patiently(c.outages.waiting(r))
}

// of makes the options of one controller.
func (o *Options) of(name string, workers int, limiter patient) crcontroller.Options {
	log := o.Logger.WithName(name)
	return crcontroller.Options{
		MaxConcurrentReconciles: workers, RateLimiter: limiter,
		LogConstructor: func(r *reconcile.Request) logr.Logger {
			if r == nil {
				return log.V(1) // the library's own words
			}
			return log.WithValues("object", r.String())
		},
	}
}
