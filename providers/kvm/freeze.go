//go:build linux

package kvm

import (
	"context"
	"errors"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/agent"
)

// While a snapshot is taken, a guest's file systems hold still:
//
//	hold the agent ──▶ mark "asked" ──freeze──▶ mark "frozen" ──▶ ... ──thaw──▶ no mark ──▶ leave the agent
//
// The agent is held so that what else is asked of it waits: a frozen one refuses.
// Who finds the mark later (Start, the same snapshot again, commands, GetMachine)
// thaws.

// Marks of a guest whose file systems were asked to hold still.
const (
	markAsked  = "asked\n"
	markFrozen = "frozen\n"
)

const (
	// freezeLimit is how long a guest may take to bring its file systems to rest.
	freezeLimit = 20 * time.Second
	// thawLimit is how long the agent of a guest that was just restored may take
	// to come to itself on a busy host.
	thawLimit = 60 * time.Second
	// thawPause is between attempts to reach it.
	thawPause = 250 * time.Millisecond
)

// holdAgent keeps all others from a guest's agent.
func (p *Provider) holdAgent(ctx context.Context, id types.UID) (leave func(), err error) {
	return p.locks.Lock(ctx, "agent "+string(id))
}

// heldAgent speaks with an agent that is held.
func (p *Provider) heldAgent(id types.UID) *agent.Client {
	return agent.New(func(ctx context.Context, command string) (string, error) {
		return p.agentCommand(ctx, id, command, agentReply)
	})
}

// freeze holds the file systems of a running guest still, if it has an agent
// that does; the agent is held. What is asked is on disk before.
func (p *Provider) freeze(ctx context.Context, m machine) bool {
	if !m.live.AgentConnected {
		return false
	}
	p.steps.next()
	mark := p.data.frozen(m.id)
	if err := files.Write(mark, []byte(markAsked), 0o600); err != nil {
		return false
	}
	p.steps.next()
	limited, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	n, err := p.heldAgent(m.id).Freeze(limited)
	if err != nil || n < 1 {
		providers.Logger(ctx, p.log).V(1).Info("the guest's file systems were not frozen", "machine", m.id)
		return false
	}
	return files.Write(mark, []byte(markFrozen), 0o600) == nil
}

// isFrozen tells whether a guest's file systems are known to be frozen.
func (p *Provider) isFrozen(id types.UID) bool {
	b, err := os.ReadFile(p.data.frozen(id))
	return err == nil && string(b) == markFrozen
}

// thaw lets the file systems of a running guest go on, if they may have been
// frozen. The machine is locked.
func (p *Provider) thaw(ctx context.Context, m machine) error {
	if m.power != providers.PowerRunning || !files.Exists(p.data.frozen(m.id)) {
		return nil
	}
	leave, err := p.holdAgent(ctx, m.id)
	if err != nil {
		return err
	}
	defer leave()
	return p.thawHeld(ctx, m)
}

// thawHeld is thaw with an agent that is held. That one does not answer which has
// never said that it froze anything is no error.
func (p *Provider) thawHeld(ctx context.Context, m machine) error {
	if m.power != providers.PowerRunning || !files.Exists(p.data.frozen(m.id)) {
		return nil
	}
	frozen := p.isFrozen(m.id)
	switch err := p.askToThaw(ctx, m.id); {
	case err == nil, errors.Is(err, guestcall.ErrRefused) && !frozen: // it can neither freeze nor thaw
	case ctx.Err() != nil:
		return ctx.Err()
	case !frozen:
		providers.Logger(ctx, p.log).Info("a guest that was asked to freeze its file systems does not answer", "machine", m.id, "error", err.Error())
		return nil
	default:
		return providers.Errorf(providers.ErrUnavailable, machineObject(m.id),
			"its guest agent does not thaw the file systems that were frozen for a snapshot: %v; it is asked again", err)
	}
	p.steps.next()
	if err := os.Remove(p.data.frozen(m.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return p.fileError(machineObject(m.id), err)
	}
	return nil
}

// askToThaw asks an agent until it answers.
func (p *Provider) askToThaw(ctx context.Context, id types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, thawLimit)
	defer cancel()
	for {
		p.steps.next()
		err := p.heldAgent(id).Thaw(ctx)
		if err == nil || errors.Is(err, guestcall.ErrRefused) || ctx.Err() != nil {
			return err
		}
		pause := time.NewTimer(thawPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// thawOrLog is for a machine that runs whatever becomes of it: its guest is asked
// again when something is wanted of it.
func (p *Provider) thawOrLog(ctx context.Context, m machine) {
	if err := p.thaw(ctx, m); err != nil {
		providers.Logger(ctx, p.log).Info("file systems of a guest are still frozen", "machine", m.id, "error", err.Error())
	}
}

// goOnAfter thaws the guest of a machine that could not be saved. One whose caller
// has gone is thawed later.
func (p *Provider) goOnAfter(ctx context.Context, m machine, cause error) {
	providers.Logger(ctx, p.log).V(1).Info("a machine was not saved for a snapshot", "machine", m.id, "error", cause.Error())
	if ctx.Err() != nil || p.thawHeld(ctx, m) != nil {
		p.thawLater(m.id)
	}
}

// thawFirst waits for who has the machine, and thaws its guest, before anything
// else is asked of that.
func (p *Provider) thawFirst(ctx context.Context, id types.UID) error {
	if !files.Exists(p.data.frozen(id)) {
		return nil
	}
	return p.withMachine(ctx, id, func(m machine) error { return p.thaw(ctx, m) })
}

// thawLater is thawFirst for who does not wait.
func (p *Provider) thawLater(id types.UID) {
	if !files.Exists(p.data.frozen(id)) {
		return
	}
	p.later(thawLimit, func(ctx context.Context) {
		if err := p.thawFirst(ctx, id); err != nil {
			providers.Logger(ctx, p.log).V(1).Info("file systems of a guest are still frozen", "machine", id, "error", err.Error())
		}
	})
}
