package virtualbox

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

const (
	// addressFor is how long a guest that is up is waited for to tell an address.
	addressFor = time.Minute
	// addressAgain is the shortest time between two questions for it.
	addressAgain = time.Second
)

// logPath is the log of a machine's present, or last, run; none when there is no
// such machine.
func (p *Provider) logPath(id types.UID) string {
	rec, err := p.readRecord(id)
	if err != nil {
		return ""
	}
	return p.logOf(rec)
}

// lookFor looks whether an awaited machine's agent is up, and if so waits for the
// guest to tell its address.
func (p *Provider) lookFor(ctx context.Context, a *awaited) {
	m, err := p.look(ctx, a.id)
	if err != nil && ctx.Err() == nil {
		p.log.V(1).Info("a guest cannot be looked at", "machine", a.id, "error", err.Error())
	}
	up := err == nil && m.power == providers.PowerRunning && agentOf(m) == providers.AgentConnected
	if p.watch.looked(a, m, up) && m.record.Network.Mode != v1.NetworkNone {
		p.awaitAddress(ctx, m)
	}
}

// awaitAddress waits until a guest that is up has told an address, which is an
// event: its service looks for them every ten seconds. VirtualBox tells one process
// that waits, so that none needs to ask again and again.
func (p *Provider) awaitAddress(ctx context.Context, m machine) {
	ctx, cancel := context.WithTimeout(ctx, addressFor)
	defer cancel()
	defer p.watch.ends(m.id, cancel)()
	for asked := false; ; asked = true {
		if len(p.addresses(ctx, m)) > 0 {
			if asked {
				p.watch.tell(m.id)
			}
			return
		}
		pause := time.After(addressAgain)
		_, err := p.vbox.Run(ctx, vboxmanage.Call{
			Object: machineObject(m.id), Interruptible: true,
			Args: []string{"guestproperty", "wait", string(m.id), "/VirtualBox/GuestInfo/Net/*/IP"},
		})
		if err != nil {
			if ctx.Err() == nil {
				p.log.V(1).Info("a guest's address is not waited for", "machine", m.id, "error", err.Error())
			}
			return
		}
		select {
		case <-pause:
		case <-ctx.Done():
			return
		}
	}
}
