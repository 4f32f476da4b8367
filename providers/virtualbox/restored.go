package virtualbox

import (
	"context"
	"os"
	"regexp"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A guest whose memory was restored must see that before it is given a session. Its
// service then looks anew what the host can do, by asking for a message where it
// expects none. It takes a session that waits there for the answer of a host of long
// ago, and ends every session at once from then on, until it starts again
// (VBoxGuestR3LibGuestCtrl.cpp of VirtualBox 6.0 to 7.2, where it detects peeking).
// That it has looked, VirtualBox logs.

const (
	// restoredIn is how long a guest may take to see that its memory was restored:
	// two seconds where it is interpreted and the host is idle. Guest Additions
	// before 6.0 say nothing.
	restoredIn = time.Minute
	// restoredPause is between two looks into the log, which cost no process.
	restoredPause = 100 * time.Millisecond
	// restoredHead is how much of a log is searched, in bytes. All of it comes in the
	// first seconds, after what VirtualBox says of the machine: some 100 KiB.
	restoredHead = 1 << 20
)

// The words of VirtualBox 7.0 to 7.2.
var (
	memoryRestored = regexp.MustCompile(`(?m)^[0-9:.]+ Console: Machine state changed to 'Restoring'`)
	controlLooked  = regexp.MustCompile(`(?m)^[0-9:.]+ Guest Control: GUEST_MSG_REPORT_FEATURES`)
)

// awaitRestored waits until a guest has seen that its memory was restored, if it
// was. A guest that does not say so in time is not waited for again in this run.
func (p *Provider) awaitRestored(ctx context.Context, r record) error {
	for begun := time.Now(); ; {
		run, sees := seesRestored(p.logOf(r))
		switch {
		case sees || p.guest.isUnseeing(r.ID, run):
			return nil
		case time.Since(begun) > restoredIn:
			p.log.Info("a guest does not say that it has seen that its memory was restored", "machine", r.ID)
			p.guest.noteUnseeing(r.ID, run)
			return nil
		}
		if err := pause(ctx, restoredPause); err != nil {
			return err
		}
	}
}

// seesRestored tells whether the guest of a log has seen that its memory was
// restored, or had nothing to see, and which run the log is of. Without a log there
// is no guest.
func seesRestored(path string) (os.FileInfo, bool) {
	run, err := os.Stat(path)
	if err != nil {
		return nil, true
	}
	head, err := readHead(path, restoredHead)
	if err != nil {
		return nil, true
	}
	restored := memoryRestored.FindIndex(head)
	return run, restored == nil || controlLooked.Match(head[restored[1]:])
}

func (g *guestStates) isUnseeing(id types.UID, run os.FileInfo) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return os.SameFile(g.unseeing[id], run)
}

func (g *guestStates) noteUnseeing(id types.UID, run os.FileInfo) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unseeing[id] = run
}
