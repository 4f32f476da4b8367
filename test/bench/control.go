//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

const (
	sandboxes = 1000
	// idleFor is how long the daemon's use of the processor is watched.
	idleFor = 20 * time.Second
)

// control measures the control plane with many simulated machines.
func (b *bench) control(ctx context.Context) error {
	start := time.Now()
	d, err := b.startDaemon(ctx, "control", "--simulate", "--allowed-host-paths", b.dir)
	if err != nil {
		return err
	}
	figure("daemon_ready", float64(time.Since(start).Milliseconds()), "ms")
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	if err := memory(d, "VmRSS", "rss_idle"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.dir, "disk.raw"), bytes.Repeat([]byte("disk"), 1<<18), 0o644); err != nil {
		return err
	}
	manifest, err := b.manifest()
	if err != nil {
		return err
	}
	before, err := d.cpu()
	if err != nil {
		return err
	}
	start = time.Now()
	if _, err := d.run(ctx, "apply", "-f", manifest); err != nil {
		return err
	}
	figure("apply_1000", time.Since(start).Seconds(), "s")
	if err := d.awaitAll(ctx, sandboxes); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	figure("apply_to_ready_1000", took, "s")
	figure("apply_to_ready_rate", sandboxes/took, "sandboxes/s")
	after, err := d.cpu()
	if err != nil {
		return err
	}
	// Processor time tells more than the rate where others use the machine too.
	figure("apply_to_ready_cpu_daemon", 1000*(after-before)/sandboxes, "ms_of_cpu/sandbox")
	figure("apply_to_ready_cpu_client", 1000*d.clientCPU/sandboxes, "ms_of_cpu/sandbox")
	if err := memory(d, "VmHWM", "rss_peak_1000"); err != nil {
		return err
	}
	if err := b.atRest(ctx, d); err != nil {
		return err
	}
	start = time.Now()
	if _, err := d.run(ctx, "delete", "sandbox", "--all", "--timeout", "5m"); err != nil {
		return err
	}
	figure("delete_1000", time.Since(start).Seconds(), "s")
	return d.stop()
}

// atRest measures a daemon that has nothing to do.
func (b *bench) atRest(ctx context.Context, d *daemon) error {
	if err := sleep(ctx, 5*time.Second); err != nil { // the last events are written
		return err
	}
	before, err := d.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := sleep(ctx, idleFor); err != nil {
		return err
	}
	after, err := d.cpu()
	if err != nil {
		return err
	}
	figure("idle_cpu_1000", 100*(after-before)/time.Since(start).Seconds(), "%_of_a_core")
	return memory(d, "VmRSS", "rss_1000")
}

// memory prints a line of the daemon's /proc status under a name.
func memory(d *daemon, line, name string) error {
	rss, err := d.memory(line)
	if err != nil {
		return err
	}
	figure(name, rss, "MB")
	return nil
}

// manifest writes an image and many sandboxes of it into one file.
func (b *bench) manifest() (string, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "apiVersion: sandboxd.dev/v1\nkind: GoldenImage\nmetadata: {name: golden}\nspec: {source: {disk: {path: %s/disk.raw}}}\n", b.dir)
	for i := range sandboxes {
		fmt.Fprintf(&out, "---\napiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {namespace: default, name: s%d}\nspec: {image: golden, memory: 128Mi}\n", i)
	}
	path := filepath.Join(b.dir, "thousand.yaml")
	return path, os.WriteFile(path, out.Bytes(), 0o644)
}

// awaitAll waits until as many sandboxes are ready.
func (d *daemon) awaitAll(ctx context.Context, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	w, err := d.client.Watch(ctx, &v1.SandboxList{}, client.InNamespace("default"))
	if err != nil {
		return err
	}
	defer w.Stop()
	ready := make(map[string]bool, want)
	for e := range w.ResultChan() {
		s, ok := e.Object.(*v1.Sandbox)
		if !ok {
			return fmt.Errorf("watch: %v", e.Object)
		}
		if c := apimeta.FindStatusCondition(s.Status.Conditions, v1.ConditionReady); c != nil && c.Status == metav1.ConditionTrue {
			ready[s.Name] = true
		}
		if len(ready) == want {
			return nil
		}
	}
	return fmt.Errorf("only %d of %d sandboxes became ready", len(ready), want)
}
