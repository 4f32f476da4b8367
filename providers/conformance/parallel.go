package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testParallel(t *testing.T) {
	t.Run("machines are made, run and deleted at the same time", s.testManyMachines)
	t.Run("calls on one machine are serialized by the provider", s.testOneMachine)
}

// testManyMachines lets machines come and go on one network.
func (s *suite) testManyMachines(t *testing.T) {
	var wg sync.WaitGroup
	for i := range s.b.Parallel {
		spec := s.spec(t, fmt.Sprintf("machine-%d", i))
		if s.has(Mode(v1.NetworkNAT)) && s.has(PortForwards) {
			spec.Network = v1.Network{Mode: v1.NetworkNAT, PortForwards: []v1.PortForward{tcp("a", 0, 22)}}
		}
		t.Cleanup(func() { s.remove(t, spec.ID) })
		ctx := within(t, s.b.Limits.Boot)
		wg.Go(func() {
			for range 2 {
				if err := s.liveOnce(ctx, spec); err != nil {
					t.Errorf("%s: %v", spec.Name, err)
				}
			}
		})
	}
	wg.Wait()
}

func (s *suite) liveOnce(ctx context.Context, spec providers.MachineSpec) error {
	if err := s.p.EnsureMachine(ctx, spec); err != nil {
		return fmt.Errorf("ensure: %w", err)
	}
	if err := s.p.Start(ctx, spec.ID); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	m, err := s.p.GetMachine(ctx, spec.ID)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if m.Power != providers.PowerRunning || !m.Network.Isolated || m.Hashes != spec.Hashes() {
		return fmt.Errorf("it is %+v", m)
	}
	if err := s.p.Stop(ctx, spec.ID, providers.StopForce); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return deleted(ctx, s.p, spec.ID)
}

func (s *suite) testOneMachine(t *testing.T) {
	spec := s.spec(t, "machine")
	id := spec.ID
	t.Cleanup(func() { s.remove(t, id) })
	ctx := within(t, s.b.Limits.Boot)
	together := func(what string, call func() error) {
		t.Helper()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := call(); err != nil {
					t.Errorf("%s, several at once: %v", what, err)
				}
			})
		}
		wg.Wait()
	}
	together("ensure", func() error { return s.p.EnsureMachine(ctx, spec) })
	s.one(t, providers.ResourceMachine, id)
	s.one(t, providers.ResourceDisk, id)
	together("start", func() error { return s.p.Start(ctx, id) })
	s.wantPower(t, id, providers.PowerRunning)
	together("stop", func() error { return s.p.Stop(ctx, id, providers.StopForce) })
	s.wantPower(t, id, providers.PowerOff)
	together("delete", func() error { return deleted(ctx, s.p, id) })
	if _, err := s.p.GetMachine(ctx, id); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
}
