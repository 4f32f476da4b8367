//go:build linux

package kvm

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// Events implements providers.Provider. Libvirt tells of all domains: passed on is
// what concerns a machine that has a folder of ours, or had one a moment ago.
func (p *Provider) Events(ctx context.Context) <-chan providers.Event {
	out := make(chan providers.Event, 64)
	ctx, stop := context.WithCancel(ctx)
	unlink := context.AfterFunc(p.life.Context(), stop)
	send := func(e providers.Event) {
		select {
		case out <- e:
		case <-ctx.Done():
		}
	}
	watching := p.life.Go(func() {
		defer close(out)
		defer unlink()
		defer stop()
		p.conn.Watch(ctx,
			func() { send(providers.Event{Type: providers.EventResync}) },
			func(e libvirtconn.Event) {
				id := types.UID(e.ID)
				if !files.Exists(p.data.MachineDir(id)) && !p.gone.has(id, time.Now()) {
					return
				}
				p.guest.forget(id)
				if e.Agent {
					send(providers.Event{Type: providers.EventGuest, ID: id})
				} else {
					send(providers.Event{Type: providers.EventMachine, ID: id})
				}
			})
	})
	if !watching {
		stop()
		close(out)
	}
	return out
}

// goneFor is how long after its end a machine's events may come, on a busy host.
const goneFor = 10 * time.Minute

// departed are machines whose folders were removed not long ago. The zero value is
// ready for use.
type departed struct {
	mu  sync.Mutex
	ids map[types.UID]time.Time // when
}

func (d *departed) add(id types.UID, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = map[types.UID]time.Time{}
	}
	for other, at := range d.ids {
		if now.Sub(at) > goneFor {
			delete(d.ids, other)
		}
	}
	d.ids[id] = now
}

func (d *departed) has(id types.UID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, was := d.ids[id]
	return was && now.Sub(at) <= goneFor
}
