package controller_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/fake"
)

// BenchmarkSandboxes makes sandboxes on simulated machines and waits until all
// are ready: one operation is one sandbox, from its creation on.
func BenchmarkSandboxes(b *testing.B) {
	d := host(b, fake.Options{})
	d.sweep = time.Hour
	d.start()
	d.create(goldenImage("golden"))
	w, err := d.client.Watch(b.Context(), &v1.SandboxList{})
	must(b, err)
	defer w.Stop()
	b.ResetTimer()
	var g errgroup.Group
	g.SetLimit(16)
	go func() {
		for i := range b.N {
			g.Go(func() error { return d.client.Create(b.Context(), newSandbox(fmt.Sprintf("s%d", i))) })
		}
	}()
	settled := make(map[string]bool, b.N)
	for e := range w.ResultChan() {
		if s, ok := e.Object.(*v1.Sandbox); ok && ready(s) {
			settled[s.Name] = true
		}
		if len(settled) == b.N {
			break
		}
	}
	must(b, g.Wait())
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sandboxes/s")
}
