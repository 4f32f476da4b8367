package virtualbox

import (
	"context"
	"io"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// inGuest does something inside a machine that runs and whose agent answers.
func (p *Provider) inGuest(ctx context.Context, id types.UID, do func(machine) error) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	object := machineObject(id)
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	if m.power != providers.PowerRunning {
		return providers.Errorf(providers.ErrBusy, object, "it is %s: only a running machine can be reached inside", m.power)
	}
	if agentOf(m) != providers.AgentConnected {
		return providers.Errorf(providers.ErrUnavailable, object, "its Guest Additions do not answer: the guest is still booting, or has none")
	}
	return do(m)
}

// Exec implements providers.Guests.
func (p *Provider) Exec(ctx context.Context, id types.UID, req providers.ExecRequest) (providers.ExecResult, error) {
	err := p.inGuest(ctx, id, func(machine) error { return notReachable(id) })
	return providers.ExecResult{}, err
}

// WriteFile implements providers.Guests.
func (p *Provider) WriteFile(ctx context.Context, id types.UID, path string, mode uint32, r io.Reader) error {
	return p.inGuest(ctx, id, func(machine) error { return notReachable(id) })
}

// ReadFile implements providers.Guests.
func (p *Provider) ReadFile(ctx context.Context, id types.UID, path string, w io.Writer) (providers.FileInfo, error) {
	return providers.FileInfo{}, p.inGuest(ctx, id, func(machine) error { return notReachable(id) })
}

// ConfigureGuest implements providers.Guests.
func (p *Provider) ConfigureGuest(ctx context.Context, id types.UID, cfg providers.GuestConfig) error {
	return p.inGuest(ctx, id, func(machine) error { return notReachable(id) })
}

// notReachable is the answer where a guest cannot be reached inside.
func notReachable(id types.UID) error {
	return providers.Errorf(providers.ErrUnsupported, machineObject(id), "its guest cannot be reached inside")
}
