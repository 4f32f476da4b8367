// Package metrics measures a daemon for Prometheus.
//
//	sandboxd_provider_call_seconds{provider,verb}            histogram: calls of a hypervisor
//	sandboxd_provider_errors_total{provider,verb,kind}       counter: those that failed
//	sandboxd_provider_up{provider}                           gauge: 0 during an outage
//	sandboxd_objects{kind,phase}                             gauge: objects there are
//	sandboxd_time_to_ready_seconds{provider}                 histogram: from a Sandbox's creation
//	sandboxd_capacity{resource,kind}                         gauge: what machines share: total,
//	                                                         reserved and waiting
//	sandboxd_inventory{provider,kind,verdict}                gauge: what the last sweep of the
//	                                                         garbage collector found; Suspect and
//	                                                         Remove are left-over things
//
//	sandboxd_manifests_*                                     what became of the directory of
//	                                                         manifests, if there is one
//
// besides what controller-runtime measures of the reconcilers (reconciliations,
// errors, queues: controller_runtime_*, workqueue_*) and the process (process_*,
// go_*).
package metrics

import (
	"context"
	"net/http"
	"reflect"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"sandboxd.dev/sandboxd/controller/gc"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/intercept"
)

// Metrics of one daemon. Its methods may be called concurrently.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	ready    *prometheus.HistogramVec

	mu sync.Mutex
	// observed are what is asked for figures, by type.
	observed map[reflect.Type]prometheus.Collector
	// seen are the sandboxes that were ready before, or that were there before
	// this process was.
	seen map[string]bool
}

// New makes the metrics of a daemon.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sandboxd_provider_call_seconds", Help: "Time that calls of a hypervisor's provider took, in seconds.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100, 300},
		}, []string{"provider", "verb"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sandboxd_provider_errors_total", Help: "Calls of a hypervisor's provider that failed, by the kind of their error.",
		}, []string{"provider", "verb", "kind"}),
		ready: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sandboxd_time_to_ready_seconds", Help: "Time from the creation of a Sandbox until it was ready for the first time, in seconds.",
			Buckets: []float64{.1, .3, 1, 3, 10, 30, 60, 120, 300, 600, 1800},
		}, []string{"provider"}),
		seen: map[string]bool{}, observed: map[reflect.Type]prometheus.Collector{},
	}
	m.registry.MustRegister(m.calls, m.errors, m.ready)
	return m
}

// observe asks a collector from now on, in place of an earlier one of its type.
func (m *Metrics) observe(c prometheus.Collector) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kind := reflect.TypeOf(c)
	if earlier, ok := m.observed[kind]; ok {
		m.registry.Unregister(earlier)
	}
	m.observed[kind] = c
	m.registry.MustRegister(c)
}

// Wrap measures the calls of a provider.
func (m *Metrics) Wrap(p providers.Provider) providers.Provider {
	name := string(p.Name())
	return intercept.Wrap(p, func(_ context.Context, at intercept.Point) error {
		if at.When == intercept.Before {
			return nil
		}
		m.calls.WithLabelValues(name, at.Verb).Observe(at.Took.Seconds())
		if at.Err != nil {
			m.errors.WithLabelValues(name, at.Verb, providers.ReasonOf(at.Err)).Inc()
		}
		return nil
	})
}

// Register adds what another part of the daemon measures by itself.
func (m *Metrics) Register(c prometheus.Collector) { m.registry.MustRegister(c) }

// Counter counts what a garbage collector found.
type Counter interface {
	Counts() map[gc.Count]int
}

// ObserveGarbage tells what the last sweep found.
func (m *Metrics) ObserveGarbage(c Counter) { m.observe(garbage{c}) }

type garbage struct{ counter Counter }

var inventory = prometheus.NewDesc("sandboxd_inventory",
	"Things of this daemon on the hypervisor, as the garbage collector's last sweep found them.", []string{"provider", "kind", "verdict"}, nil)

// Describe implements prometheus.Collector.
func (garbage) Describe(ch chan<- *prometheus.Desc) { ch <- inventory }

// Collect implements prometheus.Collector.
func (g garbage) Collect(ch chan<- prometheus.Metric) {
	for c, n := range g.counter.Counts() {
		ch <- prometheus.MustNewConstMetric(inventory, prometheus.GaugeValue, float64(n), string(c.Provider), string(c.Kind), string(c.Verdict))
	}
}

// controllerRuntime is everything that the library measures, which keeps it for
// the whole process.
var controllerRuntime = sync.OnceValue(func() prometheus.Gatherer {
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		_ = crmetrics.Registry.Register(c) // it may have them already
	}
	return crmetrics.Registry
})

// Handler serves everything in Prometheus' text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, controllerRuntime()}, promhttp.HandlerOpts{})
}
