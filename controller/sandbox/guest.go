package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

const (
	// probeTimeout bounds one look at a guest's port. A guest on the same host
	// answers within milliseconds or not yet.
	probeTimeout = 500 * time.Millisecond
	// probeInterval is how often a port that is not open yet is looked at.
	probeInterval = time.Second
	// addressInterval is how often a guest that counts as up but has no address yet
	// is looked at, for addressPatience: it may get one later, or never.
	addressInterval = 5 * time.Second
	addressPatience = time.Minute
	// guestConfigRetry is when a guest that could not be set up is tried again.
	guestConfigRetry = 10 * time.Second
	defaultSSHPort   = 22
)

// SSH reaches guests that have no agent.
type SSH interface {
	// AuthorizedKey is what such a guest has to authorize, as a line of an
	// authorized_keys file.
	AuthorizedKey() (string, error)
	// ConfigureGuest is providers.Guests' within bounded time. ErrUnsupported
	// when there is no way to the guest as its Sandbox is specified.
	ConfigureGuest(ctx context.Context, p providers.Provider, sbx *v1.Sandbox, img *v1.GoldenImage, cfg providers.GuestConfig) error
}

// agentless tells whether the guests of an image, which may be nil, have no agent.
func agentless(img *v1.GoldenImage) bool {
	return img != nil && img.Spec.Guest.Agent == v1.GuestAgentNone
}

// Dialer opens connections to guests.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// checkAgent judges readiness by the guest's agent. img may be nil.
func checkAgent(sbx *v1.Sandbox, img *v1.GoldenImage, m *providers.Machine) guestCheck {
	if m.Agent == providers.AgentConnected {
		return guestCheck{
			status: metav1.ConditionTrue, reason: v1.ReasonAgentConnected,
			message: "the guest agent answers",
		}
	}
	if agentless(img) {
		return guestCheck{
			status: metav1.ConditionFalse, reason: v1.ReasonUnsupported,
			message: fmt.Sprintf("GoldenImage %q has no guest agent (its guest.agent is None) to wait for: set spec.readiness.mode to ssh, tcp or none", img.Name),
		}
	}
	if answeredBefore(sbx) {
		return guestCheck{
			status: metav1.ConditionUnknown, reason: v1.ReasonAgentUnknown,
			message: "the guest agent answered before and does not now",
		}
	}
	return guestCheck{
		status: metav1.ConditionFalse, reason: v1.ReasonWaitingForAgent,
		message: "waiting for the guest agent, since the start at " + stamp(sbx.Status.StartedAt),
	}
}

// answeredBefore tells whether the guest was found ready in its current run.
func answeredBefore(sbx *v1.Sandbox) bool {
	c := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionGuestReady)
	if c == nil || (c.Status != metav1.ConditionTrue && c.Reason != v1.ReasonAgentUnknown && c.Reason != v1.ReasonUnavailable) {
		return false
	}
	started := sbx.Status.StartedAt
	return started == nil || !c.LastTransitionTime.Before(started)
}

// checkPort judges readiness by a port of the guest: that it accepts a
// connection, and with ssh that a server greets there (RFC 4253, section 4.2).
func checkPort(ctx context.Context, d Dialer, sbx *v1.Sandbox, m *providers.Machine) guestCheck {
	waiting := guestCheck{status: metav1.ConditionFalse, reason: v1.ReasonWaitingForProbe}
	ssh := sbx.Spec.Readiness.Mode == v1.ReadinessSSH
	port := sbx.Spec.Readiness.Port
	if ssh {
		port = firstSet(port, defaultSSHPort)
	}
	way := m.Route(port)
	if way.Address == "" {
		waiting.message = fmt.Sprintf("waiting for an address of the guest, to check its port %d", port)
		return waiting
	}
	if err := probe(ctx, d, way.Address, ssh, way.Forwarded); err != nil {
		waiting.message = fmt.Sprintf("waiting for %s: %v", way.Address, err)
		return waiting
	}
	return guestCheck{
		status: metav1.ConditionTrue, reason: v1.ReasonProbeSucceeded,
		message: "port " + strconv.Itoa(int(port)) + " of the guest answers",
	}
}

// probe connects, and with ssh waits for the greeting. Behind a forward a
// connection counts only if it is not ended again at once, which is how a
// forward tells that the guest refused.
func probe(ctx context.Context, d Dialer, address string, ssh, forwarded bool) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("no connection yet")
	}
	defer func() { _ = conn.Close() }()
	if !ssh && !forwarded {
		return nil
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if !ssh {
		if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("connected, but the guest does not accept yet")
		}
		return nil
	}
	greeting := make([]byte, len("SSH-"))
	for n := 0; n < len(greeting); {
		k, err := conn.Read(greeting[n:])
		if err != nil {
			return fmt.Errorf("connected, but no ssh server greets yet")
		}
		n += k
	}
	if string(greeting) != "SSH-" {
		return fmt.Errorf("connected, but what answers is not an ssh server")
	}
	return nil
}
