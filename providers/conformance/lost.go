package conformance

import (
	"errors"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

// testLostExec: a command whose machine ends has no outcome that anybody knows, and
// is told apart from one that was never begun.
func (s *suite) testLostExec(t *testing.T) {
	s.need(t, Outside)
	if s.b.Brief || testing.Short() {
		t.Skip("it boots a machine of its own, and waits for it in vain")
	}
	id := s.made(t, s.spec(t, "lost"))
	s.boot(t, id)
	out := &signalled{text: "begun\n", seen: make(chan struct{})}
	done := make(chan error, 1)
	ctx := within(t, s.b.Limits.Boot)
	go func() {
		_, err := s.p.Exec(ctx, id, providers.ExecRequest{Command: []string{"sh", "-c", "echo begun; sleep 100000"}, Stdout: out})
		done <- err
	}()
	select {
	case <-out.seen:
	case err := <-done:
		t.Fatalf("the command ended before the machine did: %v", err)
	}
	s.b.Crash(t, id)
	err := <-done
	if !errors.Is(err, providers.ErrUnavailable) || providers.ReasonOf(err) == providers.ReasonNotReached {
		t.Errorf("of a command that was lost: %v (%s)", err, providers.ReasonOf(err))
	}
	s.waitPower(t, id, providers.PowerOff)
	_, err = s.p.Exec(s.ctx(t), id, providers.ExecRequest{Command: []string{"true"}})
	want(t, "exec in a machine that is off", err, providers.ErrBusy)
}
