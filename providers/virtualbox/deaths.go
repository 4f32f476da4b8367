package virtualbox

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// VBoxSVC 7.2 was seen to crash, in one of its own threads, while clients of it came and
// went. It may take VBoxManage with it, and it forgets what is in no file:
//
//	VBoxManage, or VBoxSVC under it, ends in a call ──▶ the whole verb is begun anew:
//	                                  it finds what is half done, as after a crash of ours
//	the NAT is open to the loopback again ──▶ closed anew, before and right after a start
//
// Nobody has to be told of one such end. Several in a row are an error.

const (
	// deaths is how often in a row something may end in one verb, or be forgotten.
	deaths = 3
	// deathPause is before the next try: VBoxSVC may not be gone to its end yet.
	deathPause = 500 * time.Millisecond
)

// again makes a call, of a verb that is idempotent, until nothing ended in it that was
// to do it.
func (p *Provider) again(ctx context.Context, id types.UID, verb func() error) error {
	for n := 1; ; n++ {
		err := verb()
		var f *vboxmanage.Failure
		if !errors.As(err, &f) || !f.Died() || n > deaths || ctx.Err() != nil || p.life.Over() {
			return err
		}
		providers.Logger(ctx, p.log).Info("VirtualBox ended in the middle of it: tried again", "machine", id, "error", err.Error())
		if pause(ctx, deathPause) != nil {
			return err
		}
	}
}

// forgotten is why a machine that was just started had to be powered off: VBoxSVC had
// forgotten that its NAT is closed to the loopback.
type forgotten struct{ error }

func (f forgotten) Unwrap() error { return f.error }

// opensLoopback tells whether the NAT of a machine lets it reach the loopback addresses,
// or would once it runs.
func (m machine) opensLoopback() bool {
	return m.record.Network.Mode == v1.NetworkNAT && m.info[loopbackKey] == "1"
}

// closeLoopback makes sure that a machine which is to be started on NAT will not
// reach the host's loopback addresses, and looks again at one that it had to
// change. VirtualBox 7.2 leaves that setting out of a machine's file when it is
// off, and takes it to be on when VBoxSVC reads the file anew: it is forgotten
// with each VBoxSVC. The machine's process keeps what it began with.
func (p *Provider) closeLoopback(ctx context.Context, m machine) (machine, error) {
	for n := 1; m.opensLoopback(); n++ {
		if n > deaths {
			return m, notIsolated(m.id, "it was not started", openings[loopbackKey])
		}
		if _, err := p.manage(ctx, m.id, 0, "modifyvm", string(m.id), "--nat-localhostreachable1", "off"); err != nil {
			return m, err
		}
		var err error
		if m, err = p.look(ctx, m.id); err != nil {
			return m, err
		}
	}
	return m, nil
}
