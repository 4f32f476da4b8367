package conformance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fault"
)

// errOwn is the error of the suite's own readers and writers.
var errOwn = errors.New("the caller's own error")

// check returns a provider whose errors are looked at, whoever causes them.
func check(t testing.TB, p providers.Provider) providers.Provider {
	return fault.Wrap(p, func(_ context.Context, at fault.Point) error {
		if at.When == fault.After && at.Err != nil {
			if wrong := wrongError(at.Err); wrong != "" {
				t.Errorf("%s %q: the error %q %s", at.Verb, at.ID, at.Err, wrong)
			}
		}
		return nil
	})
}

// wrongError says what is wrong with an error of a provider.
func wrongError(err error) string {
	if errors.Is(err, errOwn) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	kinds := 0
	for _, k := range []error{
		providers.ErrNotFound, providers.ErrAlreadyExists, providers.ErrBusy, providers.ErrUnavailable,
		providers.ErrInvalid, providers.ErrUnsupported, providers.ErrCapacity,
	} {
		if errors.Is(err, k) {
			kinds++
		}
	}
	var e *providers.Error
	switch {
	case kinds != 1:
		return "is not of exactly one kind"
	case !errors.As(err, &e) || e.Object == "":
		return "does not say what it is about"
	case strings.ContainsFunc(err.Error(), unicode.IsControl):
		return "is not one printable line"
	case strings.Contains(err.Error(), "%!"):
		return "has a part that was not filled in"
	}
	return ""
}

// get observes a machine and checks that it makes sense.
func (s *suite) get(t testing.TB, id types.UID) providers.Machine {
	t.Helper()
	m, err := s.p.GetMachine(s.ctx(t), id)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	off := m.Power == providers.PowerOff
	running := m.Power == providers.PowerRunning
	powers := []providers.Power{
		providers.PowerOff, providers.PowerRunning, providers.PowerPaused,
		providers.PowerSaved, providers.PowerStopping,
	}
	for wrong, is := range map[string]bool{
		"has another ID":                                   m.ID != id,
		"has no known power state":                         !slices.Contains(powers, m.Power),
		"says how it went off although it is on":           !off && m.OffReason != "",
		"does not say how it went off":                     off && m.OffReason == "",
		"has an agent although it does not run":            !running && m.Agent == providers.AgentConnected,
		"knows nothing of its agent":                       m.Agent == "",
		"does not say what was seen of its network":        m.Network.Detail == "",
		"is isolated although there is nothing to be seen": off && m.Network.Isolated,
		"does not say which image it was cloned from":      m.ImageRevision == "" && !s.bare[id],
		"has addresses although it is off":                 off && len(m.Addresses) > 0,
		"has a port forward without a port or an address":  slices.ContainsFunc(m.PortForwards, unresolved),
		"does not say what it runs with":                   running && m.Accelerator == "",
	} {
		if is {
			t.Errorf("the machine %s: %+v", wrong, m)
		}
	}
	s.checkDrift(t, m)
	return m
}

func unresolved(f v1.PortForward) bool {
	return f.HostPort < 1 || f.HostPort > 65535 || f.HostAddress == "" || f.Protocol == "" || f.Name == ""
}

// want fails unless an error is of one of the kinds.
func want(t testing.TB, what string, err error, kinds ...error) {
	t.Helper()
	if !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
		t.Errorf("%s: got error %v, want one of kind %v", what, err, kinds)
	}
}

// must fails at once unless a call succeeded.
func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// eventually looks until f says that all is well, and fails with its last word.
func eventually(t testing.TB, limit time.Duration, f func() string) {
	t.Helper()
	const first, slowest = 5 * time.Millisecond, 500 * time.Millisecond
	deadline := time.Now().Add(limit)
	for pause := first; ; pause = min(pause*2, slowest) {
		wrong := f()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still: %s", limit, wrong)
		}
		time.Sleep(pause)
	}
}

func (s *suite) ensure(t testing.TB, spec providers.MachineSpec) {
	t.Helper()
	must(t, "ensure", s.p.EnsureMachine(s.ctx(t), spec))
}

func (s *suite) start(t testing.TB, id types.UID) {
	t.Helper()
	must(t, "start", s.p.Start(s.ctx(t), id))
	s.wantPower(t, id, providers.PowerRunning)
}

func (s *suite) forceOff(t testing.TB, id types.UID) {
	t.Helper()
	must(t, "stop", s.p.Stop(s.ctx(t), id, providers.StopForce))
	s.wantPower(t, id, providers.PowerOff)
}

func (s *suite) suspend(t testing.TB, id types.UID) {
	t.Helper()
	must(t, "suspend", s.p.Suspend(s.ctx(t), id))
	s.wantPower(t, id, providers.PowerSaved)
}

func (s *suite) wantPower(t testing.TB, id types.UID, want providers.Power) providers.Machine {
	t.Helper()
	m := s.get(t, id)
	if m.Power != want {
		t.Fatalf("the machine is %s, not %s", m.Power, want)
	}
	return m
}

// waitPower waits for a state that follows by itself.
func (s *suite) waitPower(t testing.TB, id types.UID, want providers.Power) providers.Machine {
	t.Helper()
	var m providers.Machine
	eventually(t, s.b.Limits.Boot, func() string {
		if m = s.get(t, id); m.Power != want {
			return "the machine is " + string(m.Power) + ", not " + string(want)
		}
		return ""
	})
	return m
}

// waitAgent waits until a guest can be reached.
func (s *suite) waitAgent(t testing.TB, id types.UID) {
	t.Helper()
	eventually(t, s.b.Limits.Boot, func() string {
		if m := s.get(t, id); m.Agent != providers.AgentConnected {
			return "the agent is " + string(m.Agent) + " on a machine that is " + string(m.Power)
		}
		return ""
	})
}

// boot starts a machine and waits for its guest.
func (s *suite) boot(t testing.TB, id types.UID) {
	t.Helper()
	s.start(t, id)
	s.waitAgent(t, id)
}

// recorder keeps what one provider reported.
type recorder struct {
	cancel context.CancelFunc
	closed chan struct{}

	mu   sync.Mutex
	seen map[providers.Event]int
}

func record(p providers.Provider) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{cancel: cancel, closed: make(chan struct{}), seen: map[providers.Event]int{}}
	events := p.Events(ctx)
	go func() {
		defer close(r.closed)
		for e := range events {
			r.mu.Lock()
			r.seen[e]++
			r.mu.Unlock()
		}
	}()
	return r
}

// stop ends the context and waits for the channel to be closed.
func (r *recorder) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	select {
	case <-r.closed:
	case <-time.After(time.Minute):
		t.Error("the channel of events is still open a minute after its context has ended")
	}
}

func (r *recorder) count(e providers.Event) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[e]
}

// reports runs f and waits for an event that it causes. A provider that lost its
// hypervisor, and with it perhaps the event, says so as well.
func (s *suite) reports(t testing.TB, kind providers.EventType, id types.UID, f func()) {
	t.Helper()
	e, resync := providers.Event{Type: kind, ID: id}, providers.Event{Type: providers.EventResync}
	before, resyncs := s.events.count(e), max(2, s.events.count(resync)) // up to two are those of the beginning
	f()
	eventually(t, s.b.Limits.Call, func() string {
		if s.events.count(e) == before && s.events.count(resync) <= resyncs {
			return "no event of type " + string(kind) + " was delivered"
		}
		return ""
	})
}
