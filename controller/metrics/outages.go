package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Outages tells of each provider since when it does not answer; the zero time of those
// that do.
type Outages interface {
	Down() map[v1.ProviderName]time.Time
}

// ObserveOutages tells which providers answer.
func (m *Metrics) ObserveOutages(o Outages) { m.observe(outages{o}) }

type outages struct{ source Outages }

var up = prometheus.NewDesc("sandboxd_provider_up",
	"Whether a hypervisor answers: 0 during an outage, in which its objects wait.", []string{"provider"}, nil)

// Describe implements prometheus.Collector.
func (outages) Describe(ch chan<- *prometheus.Desc) { ch <- up }

// Collect implements prometheus.Collector.
func (o outages) Collect(ch chan<- prometheus.Metric) {
	for name, since := range o.source.Down() {
		value := 1.0
		if !since.IsZero() {
			value = 0
		}
		ch <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, value, string(name))
	}
}
