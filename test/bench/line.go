//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

const (
	// inLine is how many wait for what running have.
	inLine, running = 10000, 8
	// quiet is how long nothing is written when all has been said.
	quiet = 3 * time.Second
	// atWork is the part of a processor that a daemon takes that still looks at everything;
	// one that is at rest looks at everything once in a while only.
	atWork = 0.3
	// lineDeadline is for any one of the measurements.
	lineDeadline = 15 * time.Minute
)

// line measures a daemon with very many sandboxes that there is no room for.
func (b *bench) line(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lineDeadline)
	defer cancel()
	if err := os.WriteFile(filepath.Join(b.dir, "disk.raw"), bytes.Repeat([]byte("disk"), 1<<18), 0o644); err != nil {
		return err
	}
	start := func() (*daemon, error) {
		return b.startDaemon(ctx, "line", "--simulate", "--allowed-host-paths", b.dir, "--capacity-memory", "1Gi")
	}
	d, err := start()
	if err != nil {
		return err
	}
	img := &v1.GoldenImage{ObjectMeta: metav1.ObjectMeta{Name: "golden"}}
	img.Spec.Source.Disk = &v1.DiskSource{Path: filepath.Join(b.dir, "disk.raw")}
	if err := d.client.Create(ctx, img); err != nil {
		return err
	}
	if err := createMany(ctx, d, "running-%05d", running); err != nil {
		return err
	}
	if err := d.awaitAll(ctx, running); err != nil {
		return err
	}
	err = d.counted(ctx, "line_10000", running, func(*writes) error { return createMany(ctx, d, "line-%05d", inLine) })
	if err != nil {
		return err
	}
	if err := d.idle(ctx, "line_10000_idle_cpu"); err != nil {
		return err
	}
	err = d.counted(ctx, "line_10000_release", running+inLine, func(w *writes) error {
		begin := time.Now()
		if err := d.client.Delete(ctx, lined("running-00000")); err != nil {
			return err
		}
		next, err := w.ready(ctx)
		figure("line_10000_next", float64(next.Sub(begin).Microseconds())/1000, "ms")
		return err
	})
	if err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	if d, err = start(); err != nil {
		return err
	}
	if err := d.counted(ctx, "line_10000_restart", 0, func(*writes) error { return nil }); err != nil {
		return err
	}
	if err := d.idle(ctx, "line_10000_restarted_idle_cpu"); err != nil {
		return err
	}
	return d.stop()
}

func lined(name string) *v1.Sandbox {
	s := &v1.Sandbox{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.Image, s.Spec.Memory = "golden", resource.NewQuantity(128<<20, resource.BinarySI)
	return s
}

func createMany(ctx context.Context, d *daemon, name string, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(manyWriters)
	for i := range n {
		g.Go(func() error { return d.client.Create(ctx, lined(fmt.Sprintf(name, i))) })
	}
	return g.Wait()
}

// writes counts how often each sandbox was written.
type writes struct {
	mu    sync.Mutex
	times map[string]int
	last  time.Time
	// admitted is when one of those in line became ready, if one has.
	admitted chan time.Time
	// waits are those that say what they wait for.
	waits map[string]bool
}

func (w *writes) see(e watch.Event) {
	s, ok := e.Object.(*v1.Sandbox)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := apimeta.FindStatusCondition(s.Status.Conditions, v1.ConditionAdmitted)
	w.waits[s.Name] = e.Type != watch.Deleted && c != nil && c.Status == metav1.ConditionFalse
	if e.Type == watch.Modified {
		w.times[s.Name]++
		w.last = time.Now()
	}
	if strings.HasPrefix(s.Name, "line-") && s.Status.Phase == v1.SandboxRunning {
		select {
		case w.admitted <- time.Now():
		default:
		}
	}
}

// seen is how many it knows of.
func (w *writes) seen() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waits)
}

func (w *writes) ready(ctx context.Context) (time.Time, error) {
	select {
	case at := <-w.admitted:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
}

// settled tells since when nothing was written, and how many wait.
func (w *writes) settled() (since time.Time, waiting, total, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, waits := range w.waits {
		if waits {
			waiting++
		}
	}
	for _, n := range w.times {
		total, most = total+n, max(most, n)
	}
	return w.last, waiting, total, most
}

// counted does something, waits until all that follows from it has been written, and says
// what that took.
func (d *daemon) counted(ctx context.Context, name string, known int, do func(*writes) error) error {
	w := &writes{times: map[string]int{}, waits: map[string]bool{}, admitted: make(chan time.Time, 1)}
	events, err := d.client.Watch(ctx, &v1.SandboxList{}, client.InNamespace("default"))
	if err != nil {
		return err
	}
	defer events.Stop()
	go func() {
		for e := range events.ResultChan() {
			w.see(e)
		}
	}()
	for w.seen() < known { // to send all that there is takes a while, and is none of it
		if err := sleep(ctx, quiet/100); err != nil {
			return err
		}
	}
	began := time.Now()
	before, err := d.cpu()
	if err != nil {
		return err
	}
	if err := do(w); err != nil {
		return err
	}
	for used := before; ; {
		if err := sleep(ctx, quiet); err != nil {
			_, waiting, _, _ := w.settled()
			return fmt.Errorf("%s: %d of %d wait: %w", name, waiting, inLine, err)
		}
		now, err := d.cpu()
		if err != nil {
			return err
		}
		busy := now-used > atWork*quiet.Seconds()
		used = now
		since, waiting, total, most := w.settled()
		if since.Before(began) {
			since = began // nothing was written
		}
		if !busy && time.Since(since) > quiet && waiting >= inLine-running {
			figure(name+"_settled", since.Sub(began).Seconds(), "s")
			figure(name+"_writes_mean", float64(total)/inLine, "per_sandbox")
			figure(name+"_writes_most", float64(most), "of_one_sandbox")
			break
		}
	}
	after, err := d.cpu()
	figure(name+"_cpu", after-before, "s")
	return err
}

// idle says what the daemon takes that has nothing to do.
func (d *daemon) idle(ctx context.Context, name string) error {
	before, err := d.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := sleep(ctx, idleFor); err != nil {
		return err
	}
	after, err := d.cpu()
	figure(name, 100*(after-before)/time.Since(start).Seconds(), "%_of_a_core")
	return err
}
