//go:build linux

// Command bench measures sandboxd and prints one line per figure:
//
//	bench: NAME VALUE UNIT
//
// Machines differ and are noisy, so what matters is measured as a ratio
// against a peer or a floor in the same run: the store against bare bbolt, a
// sandbox against a script of qemu-img and virsh on the same image, a revert against
// making the sandbox again.
//
//	bench --sandboxd bin/sandboxd                     the control plane, on simulated machines
//	bench --sandboxd bin/sandboxd --image tiny.qcow2  real machines too; beside a libvirt
//	bench --sandboxd bin/sandboxd --only api          the wire API, with very many objects
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	binary string
	image  string
	dir    string
	rounds int
	// kubeconfig reaches a kube-apiserver, and processes serve it; empty for none.
	kubeconfig string
	processes  []process
}

func run(ctx context.Context) error {
	b := bench{}
	flag.StringVar(&b.binary, "sandboxd", "bin/sandboxd", "the `program` to measure")
	flag.StringVar(&b.image, "image", "", "a golden `image` for real machines; none are made without it")
	flag.IntVar(&b.rounds, "rounds", 5, "how often real machines are made, each way")
	only := flag.String("only", "", "a comma-separated `list` of parts: store, control, line, real, snapshots, api, api-alone, kube-apiserver; the first five if empty")
	flag.StringVar(&b.kubeconfig, "kubeconfig", "", "a `file` that reaches a kube-apiserver with our definitions, for the part of its name")
	flag.Func("pid", "the `number` of a process that serves it; may be repeated", func(text string) error {
		pid, err := strconv.Atoi(text)
		b.processes = append(b.processes, process(pid))
		return err
	})
	alone := flag.String("serve-alone", "", "be the API server that is measured alone, with a store in this `folder`")
	socket := flag.String("socket", "", "where it is served")
	flag.Parse()
	log.SetLogger(logr.Discard()) // of controller-runtime, which complains of none
	if *alone != "" {
		return serveAlone(ctx, *alone, *socket)
	}
	var err error
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "sandboxd-bench-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	parts := []struct {
		name string
		run  func(context.Context) error
	}{
		{"store", b.store},
		{"control", b.control},
		{"line", b.line},
		{"real", b.real},
		{"snapshots", b.snapshots},
		{"api", b.api},
		{"api-alone", b.apiAlone},
		{"kube-apiserver", b.kubeAPI},
	}
	if *only == "" {
		*only = "store,control,line,real,snapshots"
	}
	for _, p := range parts {
		if !slices.Contains(strings.Split(*only, ","), p.name) {
			continue
		}
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// figure prints one measurement.
func figure(name string, value float64, unit string) {
	fmt.Printf("bench: %s %.4g %s\n", name, value, unit)
}

// quantile of durations, in milliseconds.
func quantile(d []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(d))
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i].Microseconds()) / 1000
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
