package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/controller/gc"
	"sandboxd.dev/sandboxd/controller/metrics"
	"sandboxd.dev/sandboxd/gitops"
	"sandboxd.dev/sandboxd/store/bolt"
)

// admin serves the daemon's own endpoints:
//
//	GET  /admin/backup   a copy of the store
//	GET  /admin/gc       what the garbage collector would do now
//	POST /admin/gc       has it sweep, and tells what it decided
//	GET  /admin/manifests  what came of the directory of manifests
//	POST /admin/manifests  has it looked at now
//	…    /admin/users    see remote
//	GET  /metrics        for Prometheus
//	GET  /debug/pprof/   profiles, if they are asked for
type admin struct {
	store   *bolt.Store
	metrics *metrics.Metrics
	profile bool
	log     logr.Logger
	remote  *remote
	// waits tells why a host of a cluster does not work, if it does not; nil without a
	// cluster. With one, there are neither a store nor users nor manifests here.
	waits func() error
	// garbage is set while the controllers work.
	garbage atomic.Pointer[gc.Collector]
	// manifests are set once they are applied, if they are.
	manifests atomic.Pointer[gitops.Source]
}

func (a *admin) endpoints() []apiserver.Endpoint {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+client.BackupPath, a.backup)
	mux.HandleFunc("GET "+client.GarbagePath, a.previewGarbage)
	mux.HandleFunc("POST "+client.GarbagePath, a.collectGarbage)
	mux.HandleFunc("GET "+client.ManifestsPath, a.tellManifests)
	mux.HandleFunc("POST "+client.ManifestsPath, a.syncManifests)
	if a.remote != nil {
		a.remote.handle(mux)
	} else {
		mux.HandleFunc(client.UsersPath, refuseUsers)
		mux.HandleFunc(client.PKIPath, refuseUsers)
	}
	all := []apiserver.Endpoint{
		{Path: "admin", Methods: []string{http.MethodGet, http.MethodPost, http.MethodDelete}, Handler: mux},
		{Path: "metrics", Methods: []string{http.MethodGet}, Handler: a.metrics.Handler()},
	}
	if a.profile {
		debug := http.NewServeMux()
		debug.HandleFunc("/debug/pprof/", pprof.Index)
		debug.HandleFunc("/debug/pprof/profile", pprof.Profile)
		debug.HandleFunc("/debug/pprof/trace", pprof.Trace)
		debug.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		all = append(all, apiserver.Endpoint{Path: "debug", Methods: []string{http.MethodGet, http.MethodPost}, Handler: debug})
	}
	return all
}

// refuseUsers refuses what a cluster does itself.
func refuseUsers(w http.ResponseWriter, _ *http.Request) {
	refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound,
		"this daemon gives nobody credentials: a cluster keeps the objects, so make its users and their kubeconfigs there")
}

// idle tells why nothing is collected.
func (a *admin) idle() string {
	if a.waits != nil {
		if why := a.waits(); why != nil {
			return "nothing is collected on this host now: " + why.Error()
		}
	}
	return "the daemon is still starting: try again"
}

// backup sends a copy of the store. One that breaks off ends the connection, so
// that nobody takes it for whole.
func (a *admin) backup(w http.ResponseWriter, r *http.Request) {
	if a.store == nil {
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "this daemon has no store: a cluster keeps the objects, so back up that")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := a.store.Backup(r.Context(), w); err != nil {
		a.log.Error(err, "A backup was not finished")
		panic(http.ErrAbortHandler)
	}
}

func (a *admin) previewGarbage(w http.ResponseWriter, r *http.Request) {
	a.answerGarbage(w, r, (*gc.Collector).Preview)
}

func (a *admin) collectGarbage(w http.ResponseWriter, r *http.Request) {
	a.answerGarbage(w, r, (*gc.Collector).Sweep)
}

func (a *admin) answerGarbage(w http.ResponseWriter, r *http.Request, decide func(*gc.Collector, context.Context) ([]gc.Decision, error)) {
	collector := a.garbage.Load()
	if collector == nil {
		refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, a.idle())
		return
	}
	decisions, err := decide(collector, r.Context())
	answer := client.Garbage{Items: []client.GarbageItem{}}
	if err != nil {
		answer.Errors = strings.Split(err.Error(), "\n") // of errors.Join
	}
	now := time.Now()
	for _, d := range decisions {
		item := client.GarbageItem{
			Provider: string(d.Item.Provider), Kind: string(d.Item.Resource.Kind), Resource: d.Item.Resource.Description,
			Verdict: string(d.Verdict), Reason: d.Reason(now, collector.Grace()),
		}
		for _, owner := range d.Item.Resource.Owners {
			item.Owners = append(item.Owners, string(owner))
		}
		if !d.Since.IsZero() {
			item.Since = &d.Since
		}
		answer.Items = append(answer.Items, item)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// serveMetrics serves the metrics alone on a TCP address, until the context ends.
func (a *admin) serveMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics on %s: %w", l.Addr(), err)
	}
	return nil
}

// listenMetrics opens the address that the metrics are served on, if any.
func listenMetrics(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics.address %s: %w: choose a free address of this host", address, err)
	}
	return l, nil
}
