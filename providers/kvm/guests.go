//go:build linux

package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/digitalocean/go-libvirt"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/agent"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// agentReply is how long libvirt waits for an agent's reply, in seconds. The
// agent answers in milliseconds, unless its guest is starved.
const agentReply = 10

// agentOf speaks with a machine's agent. libvirt lets only one command at a
// time through to an agent; so do we, in order, so that none waits inside
// libvirt and holds up other machines there.
func (p *Provider) agentOf(id types.UID) *agent.Client {
	return agent.New(func(ctx context.Context, command string) (string, error) {
		unlock, err := p.locks.Lock(ctx, "agent "+string(id))
		if err != nil {
			return "", err
		}
		defer unlock()
		return p.agentCommand(ctx, id, command, agentReply)
	})
}

// agentCommand sends one command. What the agent itself refuses comes back as
// guestcall.ErrRefused.
func (p *Provider) agentCommand(ctx context.Context, id types.UID, command string, seconds int32) (string, error) {
	object := machineObject(id)
	reply, err := libvirtconn.Get(ctx, p.conn.Agent(string(id)), object, libvirtconn.Quick, func(l *libvirt.Libvirt) (string, error) {
		out, err := l.QEMUDomainAgentCommand(libvirtDomain(id), command, seconds, 0)
		if err != nil || len(out) == 0 {
			return "", err
		}
		return out[0], nil
	})
	switch libvirtconn.Code(err) {
	case libvirt.ErrOk:
		return reply, err
	case libvirt.ErrInternalError, libvirt.ErrAgentCommandFailed:
		var e libvirt.Error
		errors.As(err, &e)
		return "", fmt.Errorf("%w: %s", guestcall.ErrRefused, guestcall.Printable(e.Message))
	case libvirt.ErrAgentUnresponsive, libvirt.ErrAgentUnsynced, libvirt.ErrAgentCommandTimeout, libvirt.ErrArgumentUnsupported,
		libvirt.ErrOperationTimeout:
		p.guest.unanswered(id)
		return "", providers.Errorf(providers.ErrUnavailable, object, "the guest agent does not answer")
	}
	return reply, err
}

// inGuest does something inside a machine that runs and whose agent answers.
func (p *Provider) inGuest(ctx context.Context, id types.UID, do func(*agent.Client, machine) error) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	object := machineObject(id)
	if err := p.thawFirst(ctx, id); err != nil {
		return err
	}
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	if m.power != providers.PowerRunning {
		return providers.Errorf(providers.ErrBusy, object, "it is %s: only a running machine can be reached inside", m.power)
	}
	if !m.live.AgentConnected {
		return providers.Errorf(providers.ErrUnavailable, object, "no guest agent is connected: the guest is still booting, or has no qemu-guest-agent")
	}
	if err := do(p.agentOf(id), m); err != nil {
		return guestcall.Kind(ctx, object, err)
	}
	p.guest.answered(id)
	return nil
}

// Exec implements providers.Guests.
func (p *Provider) Exec(ctx context.Context, id types.UID, req providers.ExecRequest) (providers.ExecResult, error) {
	var result providers.ExecResult
	reached := false
	err := p.inGuest(ctx, id, func(a *agent.Client, _ machine) (err error) {
		reached = true
		result, err = a.Exec(ctx, req)
		return err
	})
	if !reached {
		err = providers.NotReached(err)
	}
	return result, err
}

// WriteFile implements providers.Guests.
func (p *Provider) WriteFile(ctx context.Context, id types.UID, path string, mode uint32, r io.Reader) error {
	return p.inGuest(ctx, id, func(a *agent.Client, _ machine) error {
		return a.WriteFile(ctx, path, mode, r)
	})
}

// ReadFile implements providers.Guests.
func (p *Provider) ReadFile(ctx context.Context, id types.UID, path string, w io.Writer) (providers.FileInfo, error) {
	var info providers.FileInfo
	err := p.inGuest(ctx, id, func(a *agent.Client, _ machine) (err error) {
		info, err = a.ReadFile(ctx, path, w)
		return err
	})
	return info, err
}

// ConfigureGuest implements providers.Guests.
func (p *Provider) ConfigureGuest(ctx context.Context, id types.UID, cfg providers.GuestConfig) error {
	return p.inGuest(ctx, id, func(a *agent.Client, m machine) error {
		return guestcall.Configure(ctx, a, cfg, m.live.Shares)
	})
}
