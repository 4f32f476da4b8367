// Package daemon puts the parts of sandboxd together and runs them.
//
//	configuration ─▶ socket ─▶ store ─▶ providers ─▶ API server ─▶ controllers
//	                                                     │ unix socket, in-process pipe
//	      stop: ◀── the same in reverse, within seconds ─┘
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"

	"sandboxd.dev/sandboxd/admission"
	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/cluster"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/controller"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/controller/metrics"
	"sandboxd.dev/sandboxd/controller/sandbox"
	"sandboxd.dev/sandboxd/controller/usage"
	"sandboxd.dev/sandboxd/guest/access"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/ssh"
	"sandboxd.dev/sandboxd/store/bolt"
)

// Options of a daemon.
type Options struct {
	Config config.Config
	// Simulate runs on a hypervisor that exists in memory only.
	Simulate bool
	Version  version.Info
	Logger   logr.Logger
	// Notify is told "READY=1" once requests are answered, and "STOPPING=1".
	Notify func(state string)
}

// What is in the data folder besides what the providers keep there.
const (
	// StoreFile is the store.
	StoreFile = "store.db"
	// sshDir holds the key that guests without an agent know us by.
	sshDir = "ssh"
	// buildsDir holds the logs of builds.
	buildsDir = "builds"
	// exportDir holds disks that are being exported.
	exportDir = "exports"
	// pkiDir holds what clients on TCP are known by.
	pkiDir = "pki"
)

// Run runs a daemon until the context ends, and returns once everything has
// stopped.
func Run(ctx context.Context, o Options) (err error) {
	if o.Config.Kubeconfig != "" {
		return runInCluster(ctx, o)
	}
	if err := prepareDirs(o.Config); err != nil {
		return err
	}
	if err := refuseData(o.Config.DataDir, cluster.File, "holds the machines of a cluster's objects: start the daemon with --kubeconfig"); err != nil {
		return err
	}
	listener, err := Listen(o.Config.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	store, err := bolt.Open(filepath.Join(o.Config.DataDir, StoreFile), bolt.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Trim(); err != nil { // opening it has read all of it
		o.Logger.Info("The store's file takes memory that it need not", "error", err.Error())
	}
	own := &admin{store: store, metrics: metrics.New(), profile: o.Config.Profiling, log: o.Logger.WithName("admin")}
	scraped, err := listenMetrics(o.Config.Metrics.Address)
	if err != nil {
		return err
	}
	if scraped != nil {
		defer func() { _ = scraped.Close() }()
	}
	remote, err := openRemote(o)
	if err != nil {
		return err
	}
	defer remote.close()
	own.remote = remote
	audited, err := openAudit(o)
	if err != nil {
		return err
	}
	if audited != nil {
		defer func() { err = errors.Join(err, audited.Close()) }()
	}
	uses := usage.New(nil)
	users := &imageUsers{}
	inside := sshGuests(o, users)
	disks := users.disks()
	set, err := openProviders(o, surroundings{instance: providers.Instance(store.InstanceID()), logins: users, used: uses.Begin}, own.metrics.Wrap)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeProviders(set)) }()
	paths, err := hostpath.New(hostpath.Options{
		Roots: o.Config.AllowedHostPaths, ImageDir: o.Config.BaseImageDir,
		Denied: deniedDirs(o.Config),
	})
	if err != nil {
		return err
	}
	logs := build.NewLogs(filepath.Join(o.Config.DataDir, buildsDir))
	images, err := imageSubresources(o, set)
	if err != nil {
		return err
	}
	server, err := apiserver.New(ctx, apiserver.Options{
		Store: store, CRDs: v1.CRDs, Version: o.Version, Logger: o.Logger.WithName("apiserver"),
		Admission: []apiserver.Admission{admission.New(set, paths)},
		Finalizers: map[schema.GroupResource]string{
			v1.Resource("goldenimages"):     v1.FinalizerImage,
			v1.Resource("sandboxes"):        v1.FinalizerMachine,
			v1.Resource("sandboxsnapshots"): v1.FinalizerSnapshot,
		},
		Authenticator: remote, RBAC: true, Audit: auditOf(audited, o.Config.Audit),
		Subresources: append(images, subresources(set, users, inside, disks, logs, uses, o.Logger.WithName("access"))...),
		Endpoints:    own.endpoints(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := users.connect(server.LoopbackConfig()); err != nil {
		return err
	}
	if err := remote.connect(server.LoopbackConfig()); err != nil {
		return err
	}
	return serve(ctx, o, running{server, listener, remote, scraped, set, inside, disks, paths, logs, uses, own})
}

// running is what serve runs.
type running struct {
	server   *apiserver.Server
	listener net.Listener
	remote   *remote
	// scraped is where the metrics are served besides; nil for nowhere.
	scraped net.Listener
	set     *providers.Set
	inside  *ssh.Guests
	disks   *access.Disks
	paths   *hostpath.Policy
	logs    *build.Logs
	uses    *usage.Tracker
	own     *admin
}

// serve runs the API server and the controllers until the context ends or one
// of them fails.
func serve(ctx context.Context, o Options, r running) error {
	group, ctx := errgroup.WithContext(ctx)
	controllers, err := r.controllers(ctx, r.options(o, r.server.LoopbackConfig()))
	if err != nil {
		return err
	}
	source, err := manifestSource(o, r)
	if err != nil {
		return err
	}
	group.Go(func() error { return r.server.Serve(ctx, r.listener) })
	for _, l := range r.remote.listeners {
		group.Go(func() error { return r.server.ServeTLS(ctx, l, r.remote.keeper.TLSConfig()) })
	}
	if r.scraped != nil {
		group.Go(func() error { return r.own.serveMetrics(ctx, r.scraped) })
	}
	group.Go(func() error { return controllers.Start(ctx) })
	if source != nil {
		group.Go(func() error { return source.Run(ctx) })
	}
	group.Go(func() error { trimMemory(ctx, r.own.store.Trim); return nil })
	group.Go(func() error { probe(ctx, o.Logger, r.set); return nil })
	o.Logger.Info("Serving", "socket", o.Config.Socket, "listen", o.Config.Listen, "version", o.Version.GitVersion, "simulate", o.Simulate)
	o.Notify("READY=1")
	context.AfterFunc(ctx, func() { o.Notify("STOPPING=1") })
	err = group.Wait()
	o.Logger.Info("Stopped")
	return err
}

// options are those of controllers that reach the API by a configuration.
func (r *running) options(o Options, config *rest.Config) controller.Options {
	options := controller.Options{
		Config: config, Providers: r.set, HostPaths: r.paths,
		Defaults: sandbox.Defaults{CPUs: o.Config.Defaults.CPUs, Memory: o.Config.Defaults.Memory},
		Logger:   o.Logger.WithName("controller"),
		Workers:  o.Config.Workers, Resync: o.Config.Resync,
		Disks:      r.disks,
		GCInterval: o.Config.GC.Interval, GCGrace: o.Config.GC.Grace,
		BuildLogs: r.logs, Usage: r.uses,
		Capacity: hostCapacity(o.Config, o.Simulate),
	}
	if r.inside != nil {
		options.SSH, options.BuildSSH = r.inside, builders{r.inside}
	}
	return options
}

// controllers makes the controllers, and has them measured.
func (r *running) controllers(ctx context.Context, options controller.Options) (*controller.Controllers, error) {
	controllers, err := controller.New(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := r.own.metrics.ObserveObjects(ctx, controllers.Cache()); err != nil {
		return nil, err
	}
	r.own.metrics.ObserveCapacity(controllers.Capacity())
	r.own.metrics.ObserveGarbage(controllers.Garbage())
	r.own.metrics.ObserveOutages(controllers)
	r.own.garbage.Store(controllers.Garbage())
	return controllers, nil
}

// probe logs what the hypervisors are, so that the log tells at once when one
// does not answer.
func probe(ctx context.Context, log logr.Logger, set *providers.Set) {
	for _, p := range set.All() {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		info, err := p.Probe(ctx)
		cancel()
		if err != nil {
			log.Error(err, "The hypervisor does not answer: sandboxes wait until it does, `sandboxd doctor` tells more", "provider", p.Name())
			continue
		}
		log.Info("The hypervisor answers", "provider", p.Name(), "version", info.Version, "accelerator", info.Accelerator)
		for _, note := range info.Notes {
			log.Info("A note on the hypervisor", "provider", p.Name(), "note", note)
		}
	}
}

// sshGuests reaches into guests without an agent; nil where guests are simulated,
// whose addresses lead nowhere or to others.
func sshGuests(o Options, users *imageUsers) *ssh.Guests {
	if o.Simulate {
		return nil
	}
	key := ssh.NewKey(filepath.Join(o.Config.DataDir, sshDir, "id_ed25519"))
	return ssh.New(ssh.Options{Key: key, Password: users.password})
}

func subresources(set *providers.Set, users *imageUsers, inside *ssh.Guests, disks *access.Disks, logs *build.Logs, uses *usage.Tracker, logger logr.Logger) []apiserver.Subresource {
	options := access.Options{Providers: set, User: users.of, Used: uses.Begin, Disks: disks, Logger: logger}
	if inside != nil { // nothing is simulated
		options.SSH = users.without(inside)
		options.Dial = (&net.Dialer{}).DialContext
	}
	handlers := access.New(options)
	var subs []apiserver.Subresource
	for _, e := range handlers.Endpoints() {
		subs = append(subs, apiserver.Subresource{
			Resource: v1.Resource("sandboxes"), Name: e.Name, Methods: e.Methods, Stream: e.Stream, Handler: e.Serve,
		})
	}
	for _, e := range handlers.PodEndpoints() {
		subs = append(subs, apiserver.Subresource{
			Resource: schema.GroupResource{Resource: "pods"}, Name: e.Name, Methods: e.Methods, Stream: e.Stream, Handler: e.Serve,
		})
	}
	log := handlers.BuildLog(logs.Open)
	return append(subs, apiserver.Subresource{
		Resource: v1.Resource("goldenimages"), Name: log.Name, Methods: log.Methods, Stream: log.Stream, Handler: log.Serve,
	})
}

// prepareDirs makes the daemon's folders.
func prepareDirs(c config.Config) error {
	// Machines run as another user, who must get through to their disks.
	if err := os.MkdirAll(c.DataDir, 0o711); err != nil {
		return fmt.Errorf("data folder %s cannot be made: %w: name another with --data-dir, or run the daemon as root", c.DataDir, reason(err))
	}
	if err := os.MkdirAll(c.BaseImageDir, 0o755); err != nil {
		return fmt.Errorf("base image folder %s cannot be made: %w: name another with --base-image-dir", c.BaseImageDir, reason(err))
	}
	return nil
}

// deniedDirs are what no manifest may reach into: the kubeconfig, the manifests that are
// applied as the daemon, the audit log, and the data folder or what the daemon keeps in
// it when images may lie there too.
func deniedDirs(c config.Config) []string {
	denied := []string{c.VirtualBox.MachineFolder}
	if filepath.IsAbs(c.Kubeconfig) {
		denied = append(denied, c.Kubeconfig)
	}
	if filepath.IsAbs(c.Manifests.Dir) {
		denied = append(denied, c.Manifests.Dir)
	}
	if filepath.IsAbs(c.Audit.File) {
		// Not the whole folder: it may be one that much else lies in.
		denied = append(denied, c.Audit.File)
		for i := 1; i <= c.Audit.MaxFiles; i++ {
			denied = append(denied, fmt.Sprintf("%s.%d", c.Audit.File, i))
		}
	}
	if relative, err := filepath.Rel(c.DataDir, c.BaseImageDir); err != nil || !filepath.IsLocal(relative) {
		return append(denied, c.DataDir)
	}
	for _, name := range []string{StoreFile, cluster.File, sshDir, buildsDir, exportDir, pkiDir, "audit", "kvm"} {
		denied = append(denied, filepath.Join(c.DataDir, name))
	}
	return denied
}

// reason leaves out the path that an error of the file system repeats.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func closeProviders(set *providers.Set) error {
	var errs []error
	for _, p := range set.All() {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
