package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/audit"
	"sandboxd.dev/sandboxd/cluster"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/controller/metrics"
	"sandboxd.dev/sandboxd/controller/usage"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

// retryInterval is how long to wait before the cluster is asked again that did not
// answer, or that another host serves.
const retryInterval = 2 * time.Second

// runInCluster runs a daemon whose objects a Kubernetes cluster keeps. The controllers
// are those of every daemon; what is missing beside the store is the API server, whose
// place at the socket a gateway takes.
func runInCluster(ctx context.Context, o Options) (err error) {
	if err := prepareDirs(o.Config); err != nil {
		return err
	}
	if err := refuseData(o.Config.DataDir, StoreFile, "holds objects of its own, and their machines: start the daemon without --kubeconfig"); err != nil {
		return err
	}
	config, err := cluster.Connect(o.Config.Kubeconfig, "sandboxd/"+o.Version.GitVersion)
	if err != nil {
		return err
	}
	listener, err := Listen(o.Config.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	record, err := cluster.Open(o.Config.DataDir, o.Config.Cluster.Accept)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, record.Close()) }()
	scraped, err := listenMetrics(o.Config.Metrics.Address)
	if err != nil {
		return err
	}
	if scraped != nil {
		defer func() { _ = scraped.Close() }()
	}
	audited, err := openAudit(o)
	if err != nil {
		return err
	}
	if audited != nil {
		defer func() { err = errors.Join(err, audited.Close()) }()
	}
	m := &member{o: o, config: config, record: record, audited: audited, state: newReadiness(errStarting)}
	m.listener, m.scraped, m.uses = listener, scraped, usage.New(nil)
	m.own = &admin{metrics: metrics.New(), profile: o.Config.Profiling, log: o.Logger.WithName("admin"), waits: m.state.why}
	m.users = &imageUsers{}
	if err := m.users.connect(config); err != nil {
		return err
	}
	m.inside, m.disks = sshGuests(o, m.users), m.users.disks()
	m.set, err = openProviders(o, surroundings{
		instance: providers.Instance(record.Instance()), logins: m.users, used: m.uses.Begin,
	}, m.own.metrics.Wrap)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeProviders(m.set)) }()
	m.paths, err = hostpath.New(hostpath.Options{
		Roots: o.Config.AllowedHostPaths, ImageDir: o.Config.BaseImageDir, Denied: deniedDirs(o.Config),
	})
	if err != nil {
		return err
	}
	m.logs = build.NewLogs(filepath.Join(o.Config.DataDir, buildsDir))
	return m.serve(ctx)
}

// podResource is that of the Pods that show Sandboxes.
var podResource = schema.GroupResource{Resource: "pods"}

// refuseData refuses a data folder that is used in the other way.
func refuseData(dir, file, why string) error {
	path := filepath.Join(dir, file)
	if _, err := os.Lstat(path); err != nil {
		return nil //nolint:nilerr // what cannot be looked at cannot be made later, which says why
	}
	return fmt.Errorf("data folder %s (%s) %s, or name another folder with --data-dir", dir, file, why)
}

// member is a host of a cluster.
type member struct {
	running
	o      Options
	config *rest.Config
	record *cluster.Record
	users  *imageUsers
	// audited is what was asked for by the socket; nil keeps nothing.
	audited *audit.Log
	state   *readiness
	// working is true while the controllers work.
	working atomic.Bool
}

// serve answers requests, and works when it is this host's turn, until the context
// ends or it turns out that the cluster is not the host's.
func (m *member) serve(ctx context.Context) error {
	gateway, err := m.gateway()
	if err != nil {
		return err
	}
	identifier, err := cluster.NewIdentifier(m.config)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return gateway.Serve(ctx, m.listener) })
	if m.scraped != nil {
		group.Go(func() error { return m.own.serveMetrics(ctx, m.scraped) })
	}
	group.Go(func() error { return m.lead(ctx, identifier) })
	group.Go(func() error { trimMemory(ctx, func() error { return nil }); return nil })
	group.Go(func() error { probe(ctx, m.o.Logger, m.set); return nil })
	m.o.Logger.Info("Serving", "socket", m.o.Config.Socket, "cluster", m.config.Host, "version", m.o.Version.GitVersion, "simulate", m.o.Simulate)
	m.o.Notify("READY=1")
	context.AfterFunc(ctx, func() { m.o.Notify("STOPPING=1") })
	err = group.Wait()
	m.o.Logger.Info("Stopped")
	return err
}

// gateway serves the socket.
func (m *member) gateway() (*apiserver.Gateway, error) {
	objects, err := dynamic.NewForConfig(m.config)
	if err != nil {
		return nil, err
	}
	images, err := imageSubresources(m.o, m.set)
	if err != nil {
		return nil, err
	}
	inside := append(images, subresources(m.set, m.users, m.inside, m.disks, m.logs, m.uses, m.o.Logger.WithName("access"))...)
	upstream, err := cluster.Proxy(m.config, localOf(inside, m.own.endpoints()), m.o.Logger.WithName("proxy"))
	if err != nil {
		return nil, err
	}
	return apiserver.NewGateway(apiserver.GatewayOptions{
		Upstream: upstream, Audit: auditOf(m.audited, m.o.Config.Audit), Ready: m.state.why, Version: m.o.Version, Logger: m.o.Logger.WithName("gateway"),
		Parent: func(ctx context.Context, resource schema.GroupResource, namespace, name string) (*unstructured.Unstructured, error) {
			all := objects.Resource(shownBy(resource).WithVersion(v1.GroupVersion.Version))
			if namespace != "" {
				return all.Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
			}
			return all.Get(ctx, name, metav1.GetOptions{})
		},
		Subresources: inside,
		Endpoints:    m.own.endpoints(),
	})
}

// shownBy is the kind of the cluster's object that one of this host shows: a Pod shows
// the Sandbox of its name.
func shownBy(resource schema.GroupResource) schema.GroupResource {
	if resource == podResource {
		return v1.Resource("sandboxes")
	}
	return resource
}

// localOf tells what the socket serves without the cluster.
func localOf(inside []apiserver.Subresource, endpoints []apiserver.Endpoint) cluster.Local {
	return cluster.Local{
		Subresource: func(of schema.GroupResource, name, method string) (schema.GroupResource, bool) {
			return shownBy(of), slices.ContainsFunc(inside, func(sub apiserver.Subresource) bool {
				return sub.Resource == of && sub.Name == name && slices.Contains(sub.Methods, method)
			})
		},
		Path: func(path string) bool {
			first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
			return slices.Contains([]string{"version", "healthz", "livez", "readyz"}, first) ||
				slices.ContainsFunc(endpoints, func(e apiserver.Endpoint) bool { return e.Path == first })
		},
	}
}

// lead has the controllers work whenever this host holds the cluster's Lease. It
// returns when the context ends, or with an error that waiting does not mend.
func (m *member) lead(ctx context.Context, identifier *cluster.Identifier) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("the name of this host cannot be read: %w", err)
	}
	lease := cluster.LeaseOptions{
		Config: m.config, Namespace: m.o.Config.Cluster.Namespace, Instance: m.record.Instance(), Host: host,
		Pace: cluster.DefaultPace, Waiting: m.wait,
	}
	for {
		id, err := identifier.Identify(ctx)
		if err == nil {
			err = m.record.Join(id)
		}
		if err == nil {
			err = cluster.Hold(ctx, lease, func(ctx context.Context) error { return m.control(ctx, identifier) })
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, cluster.ErrAnother):
			return err
		case err == nil:
			err = errors.New("the controllers ended")
		}
		m.wait(err)
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
			return nil
		}
	}
}

// wait remembers why machines are not looked after, and logs it when it is news; nil
// means that nothing is in the way of it any more.
func (m *member) wait(why error) {
	if why == nil {
		if m.working.Load() {
			m.state.set(nil)
		}
		return
	}
	if m.state.set(why) {
		m.o.Logger.Info("Waiting: machines are not looked after", "why", why.Error())
	}
}

// control has the controllers work until the context ends. They end without touching a
// machine.
func (m *member) control(ctx context.Context, identifier *cluster.Identifier) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	options := m.options(m.o, m.config)
	options.GCVerify = func(ctx context.Context, revisions ...string) error {
		id, err := identifier.Identify(ctx)
		if err == nil {
			err = m.record.Check(id, revisions...)
		}
		if errors.Is(err, cluster.ErrAnother) {
			stop(err) // nothing that it says is about this host's machines
		}
		return err
	}
	controllers, err := m.controllers(ctx, options)
	if err != nil {
		return err
	}
	defer m.own.garbage.Store(nil) // nobody collects on a host that waits, nor is asked to
	m.o.Logger.Info("Looking after the machines of the cluster's sandboxes", "cluster", m.config.Host, "instance", m.record.Instance())
	m.working.Store(true)
	defer m.working.Store(false)
	m.state.set(nil)
	err = controllers.Start(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, cluster.ErrAnother) {
		return cause
	}
	return err
}

// errStarting is why a daemon is not ready at first.
var errStarting = errors.New("the daemon is starting")

// readiness is why a daemon does not work, if it does not.
type readiness struct {
	mu     sync.Mutex
	reason error
}

func newReadiness(reason error) *readiness { return &readiness{reason: reason} }

// why is nil when the daemon works.
func (r *readiness) why() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason
}

// set returns whether it is news.
func (r *readiness) set(reason error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	news := (reason == nil) != (r.reason == nil) || reason != nil && reason.Error() != r.reason.Error()
	r.reason = reason
	return news
}
