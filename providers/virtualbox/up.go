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
	// addressWait is how long one process waits for it, in milliseconds. Without an
	// end it would outlive a sandboxd that is killed.
	addressWait = "10000"
	// addressAgain is the pause between two of them.
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

// lookFor looks whether an awaited machine's agent is up.
func (p *Provider) lookFor(ctx context.Context, a *awaited) {
	m, err := p.look(ctx, a.id)
	if err != nil && ctx.Err() == nil {
		providers.Logger(ctx, p.log).V(1).Info("a guest cannot be looked at", "machine", a.id, "error", err.Error())
	}
	p.watch.looked(a, m, err == nil && m.power == providers.PowerRunning && agentOf(m) == providers.AgentConnected)
}

// awaitAddress waits until a guest that is up has told an address, which is news:
// its service looks for them every ten seconds. VirtualBox tells a process that
// waits, so that none needs to ask again and again.
func (p *Provider) awaitAddress(ctx context.Context, m machine) {
	if m.record.Network.Mode == v1.NetworkNone {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, addressFor)
	defer cancel()
	defer p.watch.ends(m.id, cancel)()
	for again := false; ; again = true {
		if len(p.addresses(ctx, m)) > 0 {
			p.watch.tell(m)
			return
		}
		if again { // it told something else, or nothing for long
			select {
			case <-time.After(addressAgain):
			case <-ctx.Done():
				return
			}
		}
		_, err := p.vbox.Run(ctx, vboxmanage.Call{
			Object: machineObject(m.id), Interruptible: true,
			Args: []string{"guestproperty", "wait", string(m.id), "/VirtualBox/GuestInfo/Net/*/IP", "--timeout", addressWait},
		})
		if err != nil {
			if ctx.Err() == nil {
				providers.Logger(ctx, p.log).V(1).Info("a guest's address is not waited for", "machine", m.id, "error", err.Error())
			}
			return
		}
	}
}
