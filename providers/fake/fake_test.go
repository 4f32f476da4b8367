package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const instance = providers.Instance("0f1e2d3c-0000-4000-8000-000000000001")

// anySource makes every path a disk image of 1 GiB.
func anySource(string) (Source, bool) { return Source{SHA256: "00"}, true }

func id(n int) types.UID {
	return types.UID(uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)).String())
}

var golden = providers.ImageSpec{
	ImageRef: providers.ImageRef{UID: "11111111-0000-4000-8000-000000000000", Revision: "r1"},
	Name:     "golden",
	Source:   v1.ImageSource{Disk: &v1.DiskSource{Path: "/golden"}},
}

func spec(n int) providers.MachineSpec {
	return providers.MachineSpec{
		ID: id(n), Namespace: "default", Name: fmt.Sprintf("m%d", n), Image: golden.ImageRef,
		CPUs: 1, MemoryBytes: 128 << 20, Network: v1.Network{Mode: v1.NetworkNone},
	}
}

// running makes a world with one running machine.
func running(t testing.TB, o Options) (*World, *Provider) {
	t.Helper()
	if o.Source == nil {
		o.Source = anySource
	}
	w := NewWorld(o)
	p := New(w, v1.ProviderKVM, instance)
	ctx := t.Context()
	if _, err := p.ImportImage(ctx, golden, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.EnsureMachine(ctx, spec(1)), p.Start(ctx, id(1))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		w.RestoreHypervisor()
		if err := New(w, v1.ProviderKVM, instance).DeleteMachine(ctx, id(1)); err != nil && !errors.Is(err, providers.ErrNotFound) {
			t.Error(err)
		}
	})
	return w, p
}

func get(t testing.TB, p providers.Provider, id types.UID) providers.Machine {
	t.Helper()
	m, err := p.GetMachine(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestLatencies follows a machine through its life on the bubble's clock.
func TestLatencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := running(t, Options{Latency: Latency{
			Import: 10 * time.Second, Boot: 5 * time.Second, Shutdown: 3 * time.Second, Step: time.Second,
		}})
		check := func(power providers.Power, reason providers.OffReason, agent providers.AgentState) {
			t.Helper()
			synctest.Wait()
			if m := get(t, p, id(1)); m.Power != power || m.OffReason != reason || m.Agent != agent {
				t.Errorf("got %s %s %s, want %s %s %s", m.Power, m.OffReason, m.Agent, power, reason, agent)
			}
		}
		check(providers.PowerRunning, "", providers.AgentDisconnected)
		time.Sleep(5 * time.Second)
		check(providers.PowerRunning, "", providers.AgentConnected)
		if err := p.Stop(t.Context(), id(1), providers.StopGraceful); err != nil {
			t.Fatal(err)
		}
		check(providers.PowerStopping, "", providers.AgentDisconnected)
		if err := p.Start(t.Context(), id(1)); !errors.Is(err, providers.ErrBusy) {
			t.Errorf("start while stopping: %v", err)
		}
		time.Sleep(3 * time.Second)
		check(providers.PowerOff, providers.OffShutdown, providers.AgentDisconnected)
	})
}

// TestEndlessOutputInABubble shows that an endless loop in a guest lets the
// time of a bubble pass.
func TestEndlessOutputInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := running(t, Options{})
		var out bytes.Buffer
		r, err := p.Exec(t.Context(), id(1), providers.ExecRequest{
			Command: []string{"sh", "-c", "while :; do echo y; done"},
			Timeout: 100 * time.Millisecond, MaxOutput: 10, Stdout: &out,
		})
		if err != nil || !r.TimedOut || !r.Truncated || out.String() != "y\ny\ny\ny\ny\n" {
			t.Errorf("got %+v, %v, output %q", r, err, out.String())
		}
	})
}

func BenchmarkMachine(b *testing.B) {
	w := NewWorld(Options{Source: anySource})
	p := New(w, v1.ProviderKVM, instance)
	ctx := b.Context()
	if _, err := p.ImportImage(ctx, golden, nil); err != nil {
		b.Fatal(err)
	}
	for n := 0; b.Loop(); n++ {
		s := spec(n)
		s.Network.Mode = v1.NetworkNAT
		if err := errors.Join(p.EnsureMachine(ctx, s), p.Start(ctx, s.ID)); err != nil {
			b.Fatal(err)
		}
		if m := get(b, p, s.ID); m.Agent != providers.AgentConnected {
			b.Fatal("the agent is not connected")
		}
		if n >= 1000 { // as many machines are there at a time
			if err := p.DeleteMachine(ctx, id(n-1000)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestRevertOfWhatDiscards: a machine that begins anew at each start begins once with the
// snapshot that it was put back to, also when it did not come to run with its memory.
func TestRevertOfWhatDiscards(t *testing.T) {
	failsToStart := func(t *testing.T, w *World, p *Provider) {
		err := w.SetNetworkFault(id(1), "somebody's")
		startErr := p.Start(t.Context(), id(1))
		if err = errors.Join(err, w.SetNetworkFault(id(1), "")); err != nil || !errors.Is(startErr, providers.ErrUnavailable) {
			t.Fatalf("%v, and it starts: %v", err, startErr)
		}
	}
	for name, tc := range map[string]struct {
		memory bool
		before func(t *testing.T, w *World, p *Provider)
	}{
		"the disk":                     {false, func(*testing.T, *World, *Provider) {}},
		"the memory":                   {true, func(*testing.T, *World, *Provider) {}},
		"a memory that is discarded":   {true, func(t *testing.T, _ *World, p *Provider) { stopped(t, p) }},
		"a memory that fails to start": {true, failsToStart},
		"a disk that fails to start":   {false, failsToStart},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := running(t, Options{})
			ctx := t.Context()
			stopped(t, p)
			s := spec(1)
			s.DiscardOnStop = true
			ref := providers.SnapshotRef{Machine: s.ID, ID: id(2)}
			err := errors.Join(p.EnsureMachine(ctx, s), p.Start(ctx, s.ID),
				p.WriteFile(ctx, s.ID, "/root/mark", 0o600, bytes.NewReader([]byte("mark"))))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.TakeSnapshot(ctx, providers.SnapshotSpec{SnapshotRef: ref, Namespace: "default", Name: "mark", Memory: tc.memory}); err != nil {
				t.Fatal(err)
			}
			if err := p.RevertMachine(ctx, ref); err != nil {
				t.Fatal(err)
			}
			tc.before(t, w, p)
			for _, want := range []string{"mark", ""} {
				if err := p.Start(ctx, s.ID); err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				if _, err := p.ReadFile(ctx, s.ID, "/root/mark", &got); got.String() != want || (err != nil) != (want == "") {
					t.Errorf("the file has %q, want %q: %v", &got, want, err)
				}
				stopped(t, p)
			}
		})
	}
}

func stopped(t *testing.T, p *Provider) {
	t.Helper()
	if err := p.Stop(t.Context(), id(1), providers.StopForce); err != nil {
		t.Fatal(err)
	}
}
