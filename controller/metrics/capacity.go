package metrics

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"sandboxd.dev/sandboxd/controller/capacity"
)

var capacityDesc = prometheus.NewDesc("sandboxd_capacity",
	"What machines share, in bytes and numbers: the total (+Inf without a limit), what is reserved of it, and what those ask for that wait.",
	[]string{"resource", "kind"}, nil)

// ObserveCapacity tells what a ledger has whenever it is asked.
func (m *Metrics) ObserveCapacity(l *capacity.Ledger) { m.observe(ledger{l}) }

type ledger struct{ *capacity.Ledger }

// Describe implements prometheus.Collector.
func (ledger) Describe(ch chan<- *prometheus.Desc) { ch <- capacityDesc }

// Collect implements prometheus.Collector.
func (l ledger) Collect(ch chan<- prometheus.Metric) {
	total, reserved, waiting := l.Totals()
	for r := range capacity.Resources {
		for kind, n := range map[string]int64{"total": total[r], "reserved": reserved[r], "waiting": waiting[r]} {
			value := float64(n)
			if n == capacity.Unlimited {
				value = math.Inf(1)
			}
			ch <- prometheus.MustNewConstMetric(capacityDesc, prometheus.GaugeValue, value, r.String(), kind)
		}
	}
}
