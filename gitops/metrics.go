package gitops

import "github.com/prometheus/client_golang/prometheus"

// What is measured of a directory.
var (
	succeededDesc = prometheus.NewDesc("sandboxd_manifests_last_success_timestamp_seconds",
		"When the directory of manifests was last applied without any failure; 0 before.", nil, nil)
	failingDesc = prometheus.NewDesc("sandboxd_manifests_failing",
		"What of the directory of manifests cannot be read or applied now, files and objects.", nil, nil)
	objectsDesc = prometheus.NewDesc("sandboxd_manifests_objects",
		"Objects in the directory of manifests.", nil, nil)
	heldDesc = prometheus.NewDesc("sandboxd_manifests_held",
		"Objects that left the directory of manifests and are held back from deletion.", nil, nil)
	appliedDesc = prometheus.NewDesc("sandboxd_manifests_applied_total",
		"Objects that were made or changed as the directory of manifests says.", nil, nil)
	prunedDesc = prometheus.NewDesc("sandboxd_manifests_pruned_total",
		"Objects that were deleted because they left the directory of manifests.", nil, nil)
	roundsDesc = prometheus.NewDesc("sandboxd_manifests_rounds_total",
		"Looks at the directory of manifests, by whether anything failed.", []string{"result"}, nil)
)

// Describe implements prometheus.Collector.
func (*Source) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{succeededDesc, failingDesc, objectsDesc, heldDesc, appliedDesc, prunedDesc, roundsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Source) Collect(ch chan<- prometheus.Metric) {
	status := s.Status()
	succeeded := 0.0
	if !status.Succeeded.IsZero() {
		succeeded = float64(status.Succeeded.UnixMilli()) / 1000
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge(succeededDesc, succeeded)
	gauge(failingDesc, float64(status.Failing()))
	gauge(objectsDesc, float64(status.Objects))
	gauge(heldDesc, float64(status.Prune.Count))
	counter(appliedDesc, status.Applied)
	counter(prunedDesc, status.Pruned)
	counter(roundsDesc, status.Failed, "failure")
	counter(roundsDesc, status.Rounds-status.Failed, "success")
}
