//go:build linux

// Command soakreal works a sandboxd on a real libvirt hard for a while, and looks for what
// is left over:
//
//	world ──▶ baseline
//	slots:  apply, change, use, snapshot, revert, fork, delete …   ┐ at the same time,
//	chaos:  kill the daemon, libvirtd, QEMU; destroy, undefine …   ┘ for the duration
//	settle: everything that is wanted becomes ready; marks in the disks are as they were left
//	empty:  everything is deleted
//	audit:  the world against the baseline; then with planted things, which it must find
//
// It runs beside a libvirt of its own, as root (make soak): hypervisor, processes and
// network rules are all its own then.
//
//	soakreal --sandboxd bin/sandboxd --image tiny.qcow2 --duration 5m [--seed N]
//
// The seed chooses what is done; how it interleaves differs from run to run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	sandboxd, image string
	duration        time.Duration
	seed            uint64
	slots           int
	patience        time.Duration
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.sandboxd, "sandboxd", "bin/sandboxd", "the `program`")
	flag.StringVar(&o.image, "image", "", "a golden `image` with a guest agent")
	flag.DurationVar(&o.duration, "duration", 5*time.Minute, "how long")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64(), "what to choose by")
	flag.IntVar(&o.slots, "slots", 4, "how many sandboxes are worked on at a time")
	flag.DurationVar(&o.patience, "patience", 5*time.Minute, "how long anything may take to settle")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("argument %q is not known", flag.Arg(0))
	case o.image == "":
		return errors.New("--image is missing")
	case os.Getenv("SANDBOXD_PRIVATE_LIBVIRT") != "1":
		return errors.New("there is no private libvirt, and nobody else's is worked hard: run make soak")
	}
	dir, err := os.MkdirTemp("", "sandboxd-soak-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU's user must be able to pass through
		return err
	}
	h, err := newHost(o, dir)
	if err != nil {
		return err
	}
	defer h.kill()
	fmt.Printf("soak: seed %d, %d slots, %v\n", o.seed, o.slots, o.duration)
	if err := soak(ctx, h); err != nil {
		return fmt.Errorf("%w\n--- the end of the daemon's log\n%s", err, h.logTail())
	}
	return nil
}

// soak is the whole run.
func soak(ctx context.Context, h *host) error {
	before, err := h.world()
	if err != nil {
		return err
	}
	if err := h.start(ctx); err != nil {
		return err
	}
	if err := h.apply(ctx, image); err != nil {
		return err
	}
	if err := h.await(ctx, "the image is ready", h.waitFor("goldenimage/tiny")); err != nil {
		return err
	}
	slots := work(ctx, h)
	if err := ctx.Err(); err != nil {
		return err
	}
	h.count.print()
	for _, s := range slots {
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	fmt.Println("soak: everything that is wanted is as wanted")
	if err := h.empty(ctx); err != nil {
		return err
	}
	clean := func() error { return h.compare(before) }
	if err := h.await(ctx, "nothing is left over", clean); err != nil {
		return err
	}
	fmt.Printf("soak: nothing is left over: %d things before and after\n", len(before))
	if err := h.prove(ctx, before); err != nil {
		return err
	}
	if err := h.stop(); err != nil {
		return err
	}
	return clean()
}

// work has slots and chaos at work for the duration.
func work(ctx context.Context, h *host) []*slot {
	ctx, cancel := context.WithTimeout(ctx, h.o.duration)
	defer cancel()
	var wg sync.WaitGroup
	slots := make([]*slot, h.o.slots)
	for i := range slots {
		slots[i] = newSlot(h, i)
		wg.Go(func() { slots[i].work(ctx) })
	}
	wg.Go(func() { newChaos(h).work(ctx) })
	wg.Wait()
	return slots
}

// path of a file of the run.
func (h *host) path(name string) string { return filepath.Join(h.dir, name) }
