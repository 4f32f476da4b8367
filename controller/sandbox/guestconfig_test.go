package sandbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// silentGuest never answers.
type silentGuest struct{ providers.Provider }

func (silentGuest) ConfigureGuest(ctx context.Context, _ types.UID, _ providers.GuestConfig) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestSilentGuest: a guest that never answers while it is set up holds nobody up,
// and one whose caller goes away is no guest that does not answer.
func TestSilentGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &view{sbx: &v1.Sandbox{}, img: &v1.GoldenImage{}}
		v.sbx.Namespace, v.sbx.Name = "default", "box"
		err := New(Options{}).applyGuestConfig(t.Context(), silentGuest{}, v, providers.GuestConfig{})
		if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "sandbox default/box: its guest did not let itself be set up within 2m") {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := New(Options{}).applyGuestConfig(ctx, silentGuest{}, v, providers.GuestConfig{}); !errors.Is(err, context.Canceled) {
			t.Errorf("of a caller that is gone: got %v", err)
		}
	})
}

// keptKeys is a guest whose disk keeps the keys that it was set up with.
type keptKeys struct {
	providers.Provider
	keys  []string
	calls int
	err   error // of every call, after half of its work
}

func (g *keptKeys) ConfigureGuest(_ context.Context, _ types.UID, cfg providers.GuestConfig) error {
	g.keys = cfg.SSHAuthorizedKeys
	g.calls++
	return g.err
}

// setUp is a reconciler with a sandbox whose machine runs and whose guest answers.
type setUp struct {
	*testing.T
	r     *Reconciler
	guest keptKeys
	key   client.ObjectKey
}

func newSetUp(t *testing.T) *setUp {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	sbx := &v1.Sandbox{}
	sbx.Namespace, sbx.Name, sbx.UID = "default", "web", "u"
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(sbx).WithStatusSubresource(sbx).Build()
	return &setUp{T: t, r: New(Options{Client: c}), key: client.ObjectKeyFromObject(sbx)}
}

// look is a reconciliation of a sandbox that is to have keys, which ends before
// its status is written where it is cut off.
func (s *setUp) look(power providers.Power, cutOff bool, keys ...string) *view {
	s.Helper()
	v := s.read(power, keys...)
	s.r.remember(v)
	if power == providers.PowerRunning {
		s.r.configureGuest(s.Context(), &s.guest, v)
	}
	if v.err == nil && !cutOff {
		if err := s.r.write(s.Context(), v); err != nil {
			s.Fatal(err)
		}
	}
	return v
}

func (s *setUp) read(power providers.Power, keys ...string) *view {
	s.Helper()
	sbx := &v1.Sandbox{}
	if err := s.r.o.Client.Get(s.Context(), s.key, sbx); err != nil {
		s.Fatal(err)
	}
	sbx.Spec.CloudInit.SSHAuthorizedKeys = keys
	return &view{
		sbx: sbx, before: sbx.DeepCopy(), img: &v1.GoldenImage{},
		machine: &providers.Machine{Power: power, Agent: providers.AgentConnected},
	}
}

func (s *setUp) has(keys ...string) {
	s.Helper()
	if !slices.Equal(s.guest.keys, keys) {
		s.Errorf("the guest has the keys %q, not %q", s.guest.keys, keys)
	}
}

// TestGuestConfigCutOff: a guest gets what the spec says, however an earlier change
// of it ended.
func TestGuestConfigCutOff(t *testing.T) {
	const on, off = providers.PowerRunning, providers.PowerOff

	t.Run("never set up", func(t *testing.T) {
		s := newSetUp(t)
		s.look(on, false)
		s.look(off, false)
		if s.look(on, false); s.guest.calls != 0 {
			t.Errorf("set up %d times with nothing", s.guest.calls)
		}
	})
	t.Run("once is enough", func(t *testing.T) {
		s := newSetUp(t)
		s.look(on, false, "one")
		s.look(on, false, "one")
		if s.has("one"); s.guest.calls != 1 {
			t.Errorf("set up %d times", s.guest.calls)
		}
	})
	t.Run("changed, cut off, changed back", func(t *testing.T) {
		s := newSetUp(t)
		s.look(on, false, "one")
		s.look(on, true, "two")
		s.look(on, false, "one")
		s.has("one")
	})
	t.Run("set up, cut off, emptied", func(t *testing.T) {
		s := newSetUp(t)
		s.look(on, true, "one")
		s.look(on, false)
		s.has()
	})
	t.Run("half changed, changed back", func(t *testing.T) {
		s := newSetUp(t)
		s.look(on, false, "one")
		s.guest.err = errors.New("no")
		if v := s.look(on, false, "two"); v.guest.configErr == nil {
			t.Error("not told")
		}
		s.guest.err = nil
		s.look(on, false, "one")
		s.has("one")
	})
	t.Run("emptied while off", func(t *testing.T) {
		s := newSetUp(t)
		s.look(on, false, "one")
		s.look(off, false)
		s.look(on, false)
		s.has()
	})
	t.Run("changed since it was read", func(t *testing.T) {
		s := newSetUp(t)
		stale := s.read(on, "one")
		s.look(on, false, "two")
		if s.r.configureGuest(t.Context(), &s.guest, stale); stale.err == nil {
			t.Error("what could not be written down was done")
		}
		s.has("two")
	})
}
