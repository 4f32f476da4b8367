package fake

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/keyboard"
)

// Provider drives a World for one instance. It holds nothing but what it was
// made with.
type Provider struct {
	w        *World
	name     v1.ProviderName
	instance providers.Instance

	close  sync.Once
	closed chan struct{}

	keys *keyboard.Set // of the consoles that are typed at
}

var _ providers.Provider = (*Provider)(nil)

// New makes a provider that calls itself name in manifests and works for an
// instance. A world is one hypervisor: a daemon that drives two needs two.
func New(w *World, name v1.ProviderName, instance providers.Instance) *Provider {
	p := &Provider{w: w, name: name, instance: instance, closed: make(chan struct{})}
	p.keys = keyboard.New(p.spawn)
	return p
}

// spawn runs something in a goroutine, until the provider is closed.
func (p *Provider) spawn(do func()) bool {
	select {
	case <-p.closed:
		return false
	default:
		go do()
		return true
	}
}

// Name implements providers.Provider.
func (p *Provider) Name() v1.ProviderName { return p.name }

// accelerator of every machine.
const accelerator = "simulated"

// Probe implements providers.Provider.
func (p *Provider) Probe(ctx context.Context) (providers.Info, error) {
	err := p.look(ctx, func() error { return nil })
	if err != nil {
		return providers.Info{}, err
	}
	return providers.Info{
		Version:     "fake 1",
		Accelerator: accelerator,
		Notes:       []string{"the hypervisor is simulated: machines exist in memory only and run no real code"},
	}, nil
}

// Close implements providers.Provider.
func (p *Provider) Close() error {
	p.close.Do(func() {
		close(p.closed)
		p.keys.Close()
	})
	return nil
}

// alive tells whether a call may touch the world now; it needs the lock.
func (p *Provider) alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-p.closed:
		return providers.Errorf(providers.ErrUnavailable, "provider "+string(p.name), "it was closed")
	default:
	}
	if p.w.down {
		return providers.Errorf(providers.ErrDown, "provider "+string(p.name),
			"the simulated hypervisor does not answer: it is down until the test brings it back")
	}
	return nil
}

// look runs f under the world's lock.
func (p *Provider) look(ctx context.Context, f func() error) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.alive(ctx); err != nil {
		return err
	}
	return f()
}

// verb is one call that changes things in steps.
type verb struct {
	ctx  context.Context
	p    *Provider
	name string
	id   types.UID
}

// do runs a call on one thing, after those that are at work on it.
func (p *Provider) do(ctx context.Context, name, key string, id types.UID, f func(v *verb) error) error {
	if err := p.look(ctx, func() error { return nil }); err != nil {
		return err
	}
	unlock, err := p.w.locks.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	return f(&verb{ctx, p, name, id})
}

// step makes one change, unless the call has to end before it.
func (v *verb) step(name string, change func() error) error {
	w := v.p.w
	w.mu.Lock()
	hook := w.onStep
	w.mu.Unlock()
	if hook != nil {
		hook(Step{Verb: v.name, Name: name, ID: v.id})
	}
	if w.latency.Step > 0 {
		t := w.clock.NewTimer(w.latency.Step)
		defer t.Stop()
		select {
		case <-t.C():
		case <-v.ctx.Done():
		}
	}
	return v.p.look(v.ctx, change)
}

// steps makes changes in order until one fails.
func (v *verb) steps(steps ...namedStep) error {
	for _, s := range steps {
		if err := v.step(s.name, s.change); err != nil {
			return err
		}
	}
	return nil
}

type namedStep struct {
	name   string
	change func() error
}

// machineObject names a machine in an error. What is no UUID may be anything
// and is quoted.
func machineObject(id types.UID) string {
	if isUUID(id) {
		return "machine " + string(id)
	}
	return fmt.Sprintf("machine %q", string(id))
}

func errNoMachine(id types.UID) error {
	return providers.Errorf(providers.ErrNotFound, machineObject(id), "no such machine")
}
