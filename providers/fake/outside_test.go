package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// play fails the test when the world refuses to play something.
func play(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want kind %v", what, err, kind)
	}
}

func (p *Provider) try(ctx context.Context, command ...string) (providers.ExecResult, error) {
	return p.Exec(ctx, id(1), providers.ExecRequest{Command: command})
}

// TestHowMachinesEnd plays everything that ends a machine.
func TestHowMachinesEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		play   func(w *World, p *Provider) error
		reason providers.OffReason
	}{
		"crash":         {func(w *World, _ *Provider) error { return w.Crash(id(1)) }, providers.OffCrashed},
		"guest":         {func(w *World, _ *Provider) error { return w.ShutDownGuest(id(1)) }, providers.OffShutdown},
		"by hand":       {func(w *World, _ *Provider) error { return w.Destroy(id(1)) }, providers.OffDestroyed},
		"host":          {func(w *World, _ *Provider) error { w.RebootHost(); return nil }, providers.OffUnknown},
		"paused, crash": {func(w *World, _ *Provider) error { return errors.Join(w.Pause(id(1)), w.Crash(id(1))) }, providers.OffCrashed},
		"asked":         {func(_ *World, p *Provider) error { return p.Stop(context.Background(), id(1), providers.StopGraceful) }, providers.OffShutdown},
		"forced":        {func(_ *World, p *Provider) error { return p.Stop(context.Background(), id(1), providers.StopForce) }, providers.OffDestroyed},
		"saved, by hand": {func(w *World, p *Provider) error {
			return errors.Join(p.Suspend(context.Background(), id(1)), w.Destroy(id(1)))
		}, providers.OffDestroyed},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := running(t, Options{})
			play(t, tc.play(w, p))
			if m := get(t, p, id(1)); m.Power != providers.PowerOff || m.OffReason != tc.reason || m.Agent != providers.AgentDisconnected {
				t.Errorf("got %+v", m)
			}
			play(t, p.Start(t.Context(), id(1)))
			if m := get(t, p, id(1)); m.Power != providers.PowerRunning || m.OffReason != "" || m.Agent != providers.AgentConnected {
				t.Errorf("started again: %+v", m)
			}
		})
	}
}

func TestPlaysAreRefused(t *testing.T) {
	w, p := running(t, Options{})
	play(t, p.Stop(t.Context(), id(1), providers.StopForce))
	for name, err := range map[string]error{
		"crash": w.Crash(id(1)), "guest": w.ShutDownGuest(id(1)), "by hand": w.Destroy(id(1)), "pause": w.Pause(id(1)),
		"nothing to undefine": w.Undefine(id(2)), "nothing to remove": w.RemoveForeign(id(2)), "there already": w.AddForeign(id(1), ""),
	} {
		if err == nil {
			t.Errorf("%s: played although it cannot be", name)
		}
	}
}

func TestPowerOffInTheGuest(t *testing.T) {
	_, p := running(t, Options{})
	_, err := p.try(t.Context(), "sh", "-c", "poweroff; echo no more")
	wantKind(t, "exec", err, providers.ErrUnavailable)
	if m := get(t, p, id(1)); m.OffReason != providers.OffShutdown {
		t.Errorf("got %+v", m)
	}
}

// TestLostConnections shows what becomes of a command whose guest cannot be
// reached any more.
func TestLostConnections(t *testing.T) {
	for name, lose := range map[string]func(w *World, p *Provider) error{
		"crash":       func(w *World, _ *Provider) error { return w.Crash(id(1)) },
		"hang":        func(w *World, _ *Provider) error { return w.SetAgentHung(id(1), true) },
		"pause":       func(w *World, _ *Provider) error { return w.Pause(id(1)) },
		"suspend":     func(_ *World, p *Provider) error { return p.Suspend(context.Background(), id(1)) },
		"hypervisor":  func(w *World, _ *Provider) error { w.LoseHypervisor(); return nil },
		"removed":     func(w *World, _ *Provider) error { return w.Undefine(id(1)) },
		"closed":      func(_ *World, p *Provider) error { return p.Close() },
		"deleted":     func(_ *World, p *Provider) error { return p.DeleteMachine(context.Background(), id(1)) },
		"host reboot": func(w *World, _ *Provider) error { w.RebootHost(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := running(t, Options{})
				done := make(chan error)
				go func() {
					_, err := p.try(t.Context(), "sleep", "100000")
					done <- err
				}()
				synctest.Wait()
				play(t, lose(w, p))
				wantKind(t, "exec", <-done, providers.ErrUnavailable)
				w.RestoreHypervisor()
				p = New(w, v1.ProviderKVM, instance)
				if err := p.DeleteMachine(t.Context(), id(1)); err != nil && name != "deleted" {
					t.Error(err)
				}
			})
		})
	}
}

func TestHungAgent(t *testing.T) {
	w, p := running(t, Options{})
	play(t, w.SetAgentHung(id(1), true))
	if m := get(t, p, id(1)); m.Agent != providers.AgentUnknown || m.Power != providers.PowerRunning {
		t.Errorf("got %+v", m)
	}
	_, err := p.try(t.Context(), "true")
	wantKind(t, "exec", err, providers.ErrUnavailable)
	play(t, w.SetAgentHung(id(1), false))
	if r, err := p.try(t.Context(), "true"); err != nil || r.ExitCode != 0 {
		t.Errorf("afterwards: %+v, %v", r, err)
	}
}

func TestAgentless(t *testing.T) {
	_, p := running(t, Options{Source: func(string) (Source, bool) { return Source{Agentless: true}, true }})
	if m := get(t, p, id(1)); m.Agent != providers.AgentDisconnected || m.Power != providers.PowerRunning {
		t.Errorf("got %+v", m)
	}
	_, err := p.try(t.Context(), "true")
	wantKind(t, "exec", err, providers.ErrUnavailable)
}

func TestGuestThatIgnoresShutdown(t *testing.T) {
	w, p := running(t, Options{})
	play(t, w.SetIgnoresShutdown(id(1), true))
	play(t, p.Stop(t.Context(), id(1), providers.StopGraceful))
	if m := get(t, p, id(1)); m.Power != providers.PowerRunning {
		t.Errorf("got %+v", m)
	}
	play(t, p.Stop(t.Context(), id(1), providers.StopForce))
	if m := get(t, p, id(1)); m.Power != providers.PowerOff {
		t.Errorf("by force: %+v", m)
	}
}

// TestLostHypervisor checks that every method fails while the hypervisor is
// away, that machines go on, and that providers are told of its return.
func TestLostHypervisor(t *testing.T) {
	w, p := running(t, Options{})
	events := p.Events(t.Context())
	ctx := t.Context()
	w.LoseHypervisor()
	_, probe := p.Probe(ctx)
	_, img := p.ImportImage(ctx, golden, nil)
	_, getImage := p.GetImage(ctx, golden.ImageRef)
	_, machine := p.GetMachine(ctx, id(1))
	_, exec := p.try(ctx, "true")
	_, list := p.ListResources(ctx)
	_, read := p.ReadFile(ctx, id(1), "/x", io.Discard)
	_, console := p.Console(ctx, id(1), providers.ConsoleOptions{})
	for name, err := range map[string]error{
		"probe": probe, "import": img, "get image": getImage, "get": machine, "exec": exec, "list": list,
		"read": read, "console": console,
		"check": p.CheckSource(ctx, golden), "delete image": p.DeleteImage(ctx, golden.ImageRef), "ensure": p.EnsureMachine(ctx, spec(1)),
		"start": p.Start(ctx, id(1)), "stop": p.Stop(ctx, id(1), providers.StopForce), "suspend": p.Suspend(ctx, id(1)),
		"reset": p.Reset(ctx, id(1)), "delete": p.DeleteMachine(ctx, id(1)),
		"write":     p.WriteFile(ctx, id(1), "/x", 0, strings.NewReader("")),
		"configure": p.ConfigureGuest(ctx, id(1), providers.GuestConfig{}),
		"remove":    p.RemoveResource(ctx, providers.Resource{Kind: providers.ResourceImage, ID: "a@b", Ownership: providers.Ours}),
	} {
		wantKind(t, name, err, providers.ErrUnavailable)
	}
	w.RestoreHypervisor()
	for e := range events {
		if e.Type == providers.EventResync {
			break
		}
	}
	if m := get(t, p, id(1)); m.Power != providers.PowerRunning || m.Agent != providers.AgentConnected {
		t.Errorf("afterwards: %+v", m)
	}
}

func TestNetworkFault(t *testing.T) {
	w, p := running(t, Options{})
	play(t, w.SetNetworkFault(id(1), "its interface is on another bridge"))
	if m := get(t, p, id(1)); m.Network.Isolated || m.Network.Detail != "its interface is on another bridge" {
		t.Errorf("got %+v", m.Network)
	}
	play(t, p.Stop(t.Context(), id(1), providers.StopForce))
	err := p.Start(t.Context(), id(1))
	wantKind(t, "start", err, providers.ErrUnavailable)
	if providers.ReasonOf(err) != v1.ReasonNotObserved || !strings.Contains(err.Error(), "another bridge") {
		t.Errorf("the error is %q", err)
	}
	if m := get(t, p, id(1)); m.Power != providers.PowerOff {
		t.Errorf("got %+v", m)
	}
	play(t, w.SetNetworkFault(id(1), ""))
	play(t, p.Start(t.Context(), id(1)))
}

func TestAmbiguous(t *testing.T) {
	w, p := running(t, Options{})
	play(t, w.AddForeign(id(2), instance.Short()))
	play(t, w.AddForeign(id(3), "another"))
	all, err := p.ListResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var seen []providers.Ownership
	for _, r := range all {
		if r.Kind == providers.ResourceMachine {
			seen = append(seen, r.Ownership)
			if r.Ownership == providers.Ambiguous && r.ID != string(id(2)) {
				t.Errorf("listed: %+v", r)
			}
		}
	}
	slices.Sort(seen)
	if !slices.Equal(seen, []providers.Ownership{providers.Ambiguous, providers.Ours}) {
		t.Errorf("the machines are %v", seen)
	}
}

// TestEventsNeverBlock does more than any channel holds, without a reader.
func TestEventsNeverBlock(t *testing.T) {
	_, p := running(t, Options{})
	events := p.Events(t.Context())
	for range 1000 {
		play(t, p.Stop(t.Context(), id(1), providers.StopForce))
		play(t, p.Start(t.Context(), id(1)))
	}
	// What waits already is not told again, so that the order says nothing.
	missing := map[providers.Event]bool{
		{Type: providers.EventMachine, ID: id(1)}: true, {Type: providers.EventGuest, ID: id(1)}: true,
	}
	for len(missing) > 0 {
		delete(missing, <-events)
	}
}

func TestFakeClock(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(0, 0))
	_, p := running(t, Options{Clock: clock, Latency: Latency{Boot: time.Minute}})
	if m := get(t, p, id(1)); m.Agent == providers.AgentConnected {
		t.Error("the guest booted in no time")
	}
	clock.Step(time.Minute)
	for deadline := time.Now().Add(time.Minute); get(t, p, id(1)).Agent != providers.AgentConnected; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) { // the clock calls back on another goroutine
			t.Fatal("the guest has not booted")
		}
	}
}

func TestDial(t *testing.T) {
	w, p := running(t, Options{})
	play(t, p.Stop(t.Context(), id(1), providers.StopForce))
	s := spec(1)
	s.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{
		{Name: "ssh", GuestPort: 22, HostAddress: "0.0.0.0"}, {Name: "web", GuestPort: 80},
	}}
	play(t, p.EnsureMachine(t.Context(), s))
	ssh := func() string {
		return "127.0.0.1:" + port(t, p, "ssh")
	}
	if _, err := w.DialContext(t.Context(), "tcp", ssh()); err == nil {
		t.Error("a machine that is off answers")
	}
	play(t, p.Start(t.Context(), id(1)))
	m := get(t, p, id(1))
	for address, answers := range map[string]bool{
		ssh(): true, "127.0.0.1:" + port(t, p, "web"): false, "127.0.0.1:1": false,
		m.Addresses[0].IP + ":22": true, m.Addresses[0].IP + ":80": false, "10.0.0.1:22": false, "nonsense": false,
	} {
		conn, err := w.DialContext(t.Context(), "tcp", address)
		if (err == nil) != answers {
			t.Errorf("%s: %v", address, err)
		}
		if err == nil {
			b := make([]byte, 4)
			if _, err := io.ReadFull(conn, b); err != nil || string(b) != "SSH-" {
				t.Errorf("%s: greets with %q, %v", address, b, err)
			}
			play(t, conn.Close())
		}
	}
}

func port(t *testing.T, p *Provider, name string) string {
	t.Helper()
	for _, f := range get(t, p, id(1)).PortForwards {
		if f.Name == name {
			return fmt.Sprint(f.HostPort)
		}
	}
	t.Fatalf("no forward %q", name)
	return ""
}

// TestInstances checks that machines of two instances share nothing but the
// hypervisor.
func TestInstances(t *testing.T) {
	w, p := running(t, Options{})
	other := New(w, v1.ProviderKVM, "another")
	if _, err := other.ImportImage(t.Context(), golden, nil); err != nil {
		t.Fatal(err)
	}
	s := spec(2)
	s.Network.Mode = v1.NetworkNAT
	play(t, other.EnsureMachine(t.Context(), s))
	_, err := p.GetMachine(t.Context(), id(2))
	wantKind(t, "get", err, providers.ErrNotFound)
	play(t, other.DeleteMachine(t.Context(), id(2)))
	play(t, other.DeleteImage(t.Context(), golden.ImageRef))
	left := w.Inventory()
	if slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, "another") || strings.Contains(l, string(id(2))) }) {
		t.Errorf("left: %q", left)
	}
}
