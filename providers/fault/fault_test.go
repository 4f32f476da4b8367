package fault_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
	"sandboxd.dev/sandboxd/providers/fault"
)

const instance = providers.Instance("0f1e2d3c-0000-4000-8000-000000000001")

var (
	golden = providers.ImageSpec{
		ImageRef: providers.ImageRef{UID: "11111111-0000-4000-8000-000000000000", Revision: "r1"},
		Name:     "golden",
		Source:   v1.ImageSource{Disk: &v1.DiskSource{Path: "/golden"}},
	}
	spec = providers.MachineSpec{
		ID: "22222222-0000-4000-8000-000000000000", Namespace: "default", Name: "m", Image: golden.ImageRef,
		CPUs: 1, MemoryBytes: 128 << 20, Network: v1.Network{Mode: v1.NetworkNone},
	}
)

func newWorld(o fake.Options) *fake.World {
	o.Source = func(string) (fake.Source, bool) { return fake.Source{SHA256: "00"}, true }
	return fake.NewWorld(o)
}

// converge is a caller: it makes a machine run.
func converge(ctx context.Context, p providers.Provider) error {
	if _, err := p.ImportImage(ctx, golden, nil); err != nil {
		return err
	}
	if err := p.EnsureMachine(ctx, spec); err != nil {
		return err
	}
	return p.Start(ctx, spec.ID)
}

func exists(t *testing.T, w *fake.World) bool {
	t.Helper()
	_, err := fake.New(w, v1.ProviderKVM, instance).GetMachine(t.Context(), spec.ID)
	if err != nil && !errors.Is(err, providers.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestErrorsBeforeAndAfter(t *testing.T) {
	for _, when := range []fault.When{fault.Before, fault.After} {
		w := newWorld(fake.Options{})
		var errs []error
		p := fault.Wrap(fake.New(w, v1.ProviderKVM, instance), func(_ context.Context, at fault.Point) error {
			if at.Verb == "EnsureMachine" && at.ID == string(spec.ID) && at.When == when {
				return providers.ErrUnavailable
			}
			errs = append(errs, at.Err)
			return nil
		})
		if err := converge(t.Context(), p); !errors.Is(err, providers.ErrUnavailable) {
			t.Errorf("%s: got %v", when, err)
		}
		if got, want := exists(t, w), when == fault.After; got != want {
			t.Errorf("%s: the machine exists: %v", when, got)
		}
		if _, err := p.GetMachine(t.Context(), "33333333-0000-4000-8000-000000000000"); !errors.Is(err, providers.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, providers.ErrNotFound) }) {
			t.Errorf("the hook did not see the error of the call: %v", errs)
		}
	}
}

func TestCancelMidway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(fake.Options{Latency: fake.Latency{Step: time.Second}})
		p := fault.Wrap(fake.New(w, v1.ProviderKVM, instance), func(_ context.Context, at fault.Point) error {
			if at.Verb == "EnsureMachine" && at.When == fault.Before {
				time.AfterFunc(1500*time.Millisecond, at.Cancel)
			}
			return nil
		})
		if err := converge(t.Context(), p); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if exists(t, w) {
			t.Error("the machine was made by a call that was cancelled")
		}
		if err := converge(t.Context(), fake.New(w, v1.ProviderKVM, instance)); err != nil {
			t.Error(err)
		}
		clean(t, w)
	})
}

// TestDeathAtEveryPoint dies at each point and converges afterwards.
func TestDeathAtEveryPoint(t *testing.T) {
	count := fault.NewDeath(0)
	w := newWorld(fake.Options{})
	if err := converge(t.Context(), fault.Wrap(fake.New(w, v1.ProviderKVM, instance), count.Hook)); err != nil {
		t.Fatal(err)
	}
	clean(t, w)
	if count.Points() != 6 {
		t.Fatalf("three calls have %d points", count.Points())
	}
	for n := int64(1); n <= count.Points(); n++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(fake.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			death := fault.NewDeath(n)
			done := make(chan error)
			go func() { done <- converge(ctx, fault.Wrap(fake.New(w, v1.ProviderKVM, instance), death.Hook)) }()
			<-death.Died()
			before := w.Inventory()
			synctest.Wait()
			if after := w.Inventory(); !slices.Equal(before, after) {
				t.Errorf("death at %d: the dead changed %q into %q", n, before, after)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("death at %d: the dead got %v", n, err)
			}
			if err := converge(t.Context(), fake.New(w, v1.ProviderKVM, instance)); err != nil {
				t.Errorf("death at %d: %v", n, err)
			}
			clean(t, w)
		})
	}
}

// clean removes everything, and checks that nothing else is there.
func clean(t *testing.T, w *fake.World) {
	t.Helper()
	p := fake.New(w, v1.ProviderKVM, instance)
	for !errors.Is(p.DeleteMachine(t.Context(), spec.ID), providers.ErrNotFound) {
	}
	for !errors.Is(p.DeleteImage(t.Context(), golden.ImageRef), providers.ErrNotFound) {
	}
	if left := w.Inventory(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestFlaky(t *testing.T) {
	run := func(seed uint64) (failed []int) {
		hook := fault.Flaky(seed, 4, providers.ErrUnavailable, providers.ErrBusy)
		for i := range 1000 {
			err := hook(t.Context(), fault.Point{When: fault.Before, Verb: "Start", ID: "x"})
			if err == nil {
				continue
			}
			if k := providers.KindOf(err); !errors.Is(k, providers.ErrUnavailable) && !errors.Is(k, providers.ErrBusy) {
				t.Fatalf("got %v", err)
			}
			failed = append(failed, i)
		}
		return failed
	}
	one, again, two := run(1), run(1), run(2)
	if !slices.Equal(one, again) {
		t.Error("the same seed gave other faults")
	}
	if slices.Equal(one, two) {
		t.Error("another seed gave the same faults")
	}
	if n := len(one); n < 150 || n > 350 {
		t.Errorf("%d of 1000 points failed where 250 were expected", n)
	}
}

// TestPassesThrough makes every call once through a wrapper that does nothing.
func TestPassesThrough(t *testing.T) {
	w := newWorld(fake.Options{})
	inner := fake.New(w, v1.ProviderKVM, instance)
	count := fault.NewDeath(0)
	p := fault.Wrap(inner, fault.Chain(count.Hook, count.Hook))
	ctx := t.Context()
	if err := converge(ctx, p); err != nil {
		t.Fatal(err)
	}
	if p.Name() != inner.Name() {
		t.Errorf("name %q", p.Name())
	}
	info, err := p.Probe(ctx)
	if err != nil || info.Version == "" {
		t.Errorf("probe: %+v, %v", info, err)
	}
	r, err := p.Exec(ctx, spec.ID, providers.ExecRequest{Command: []string{"sh", "-c", "exit 7"}})
	if err != nil || r.ExitCode != 7 {
		t.Errorf("exec: %+v, %v", r, err)
	}
	all, err := p.ListResources(ctx)
	if err != nil || len(all) == 0 {
		t.Errorf("resources: %v, %v", all, err)
	}
	if err := p.RemoveResource(ctx, providers.Resource{Kind: providers.ResourceDisk, ID: "x", Ownership: providers.Ours}); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("remove: %v", err)
	}
	for _, err := range []error{
		p.Suspend(ctx, spec.ID), p.Start(ctx, spec.ID),
		p.Stop(ctx, spec.ID, providers.StopForce), p.Reset(ctx, spec.ID),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := p.ConfigureGuest(ctx, types.UID("x"), providers.GuestConfig{}); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("configure: %v", err)
	}
	if count.Points()%4 != 0 || count.Points() < 4*12 {
		t.Errorf("%d points", count.Points())
	}
	if err := p.DeleteMachine(ctx, spec.ID); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	clean(t, w)
}
