package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// ObserveObjects counts objects whenever it is asked, by listing them from a
// cache, and measures how long sandboxes take to get ready.
func (m *Metrics) ObserveObjects(ctx context.Context, c cache.Cache) error {
	m.observe(objects{c})
	informer, err := c.GetInformer(ctx, &v1.Sandbox{})
	if err != nil {
		return fmt.Errorf("watch sandboxes for metrics: %w", err)
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			if sbx, ok := o.(*v1.Sandbox); ok {
				m.look(sbx, initial)
			}
		},
		UpdateFunc: func(_, o any) {
			if sbx, ok := o.(*v1.Sandbox); ok {
				m.look(sbx, false)
			}
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if sbx, ok := o.(*v1.Sandbox); ok {
				m.forget(sbx)
			}
		},
	})
	return err
}

// look measures a sandbox that is ready for the first time. One that was started
// before this process was is none.
func (m *Metrics) look(sbx *v1.Sandbox, initial bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	uid := string(sbx.UID)
	if m.seen[uid] {
		return
	}
	if initial && sbx.Status.StartedAt != nil {
		m.seen[uid] = true
		return
	}
	ready := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionTrue {
		return
	}
	m.seen[uid] = true
	m.ready.WithLabelValues(string(sbx.Status.Provider)).Observe(time.Since(sbx.CreationTimestamp.Time).Seconds())
}

func (m *Metrics) forget(sbx *v1.Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, string(sbx.UID))
}

// objects counts objects by kind and phase.
type objects struct{ reader client.Reader }

var objectsDesc = prometheus.NewDesc("sandboxd_objects", "Objects, by kind and phase.", []string{"kind", "phase"}, nil)

// Describe implements prometheus.Collector.
func (objects) Describe(ch chan<- *prometheus.Desc) { ch <- objectsDesc }

// Collect implements prometheus.Collector.
func (o objects) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	counts := map[[2]string]int{}
	for kind, list := range map[string]client.ObjectList{
		"Sandbox": &v1.SandboxList{}, "GoldenImage": &v1.GoldenImageList{}, "SandboxSnapshot": &v1.SandboxSnapshotList{},
	} {
		if err := o.reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			ch <- prometheus.NewInvalidMetric(objectsDesc, err)
			return
		}
		switch l := list.(type) {
		case *v1.SandboxList:
			for i := range l.Items {
				counts[[2]string{kind, string(l.Items[i].Status.Phase)}]++
			}
		case *v1.GoldenImageList:
			for i := range l.Items {
				counts[[2]string{kind, string(l.Items[i].Status.Phase)}]++
			}
		case *v1.SandboxSnapshotList:
			for i := range l.Items {
				counts[[2]string{kind, string(l.Items[i].Status.Phase)}]++
			}
		}
	}
	for key, n := range counts {
		ch <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, float64(n), key[0], key[1])
	}
}
