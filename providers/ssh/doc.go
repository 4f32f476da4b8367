// Package ssh reaches into guests that have no agent, by the ssh server that
// they run. It gives what providers.Guests gives, for machines of any provider.
//
//	Client ── Route ──▶ guest's port 22 ── session ──▶ login shell: /bin/sh
//	                                        │            ◀── one line: what to do
//	                                        └── stdout, stderr ... \001TOKEN done CODE
//
// A server runs what it is told by the login shell of the user, which may be any,
// and tells of a command's end before or after its output, as it likes. So all
// that the login shell gets to see is how to start /bin/sh, which reads one line:
// a script of ours with its arguments. The script reports its beginning and its
// end in the streams themselves, behind a token that nobody in the guest can guess
// in advance. Nothing runs unless its line has arrived in full.
//
// # Whom we talk to
//
// A guest is not trusted, and its host key, which it makes itself and anew with
// each clone, says nothing: any is accepted. That it is this guest who answers
// follows from the way to it, which is an address that the host itself has seen
// at the machine's interface, or a port forward into the machine. On a bridged
// network, where the host finds the guest among its neighbours, somebody else may
// take an address over; so there we log in by a key only, which gives nothing
// away, and never send a password.
//
// Everything that comes from a guest is hostile: what it prints is passed on or
// compared with words, never used as a path or as part of a command.
package ssh

import (
	"errors"
	"time"

	"sandboxd.dev/sandboxd/providers/internal/guestio"
)

// errLost: the guest is not there any more.
var errLost = errors.New("the connection to the guest's ssh server was lost")

const (
	// inlineMax is the input, in bytes, that travels in the line of its command.
	// A shell reads a line byte by byte: more is slower than one session more.
	inlineMax = 4 << 10
	// goodbye is how long a session may take to end once nobody wants it.
	goodbye = 2 * time.Second
)

// limits bound what a guest may take for what its callers have no limit for.
type limits struct {
	// start bounds the wait for the report of a script's start.
	start time.Duration
	// kill bounds killing and cleaning up once the caller is gone. An emulated guest, busy with the
	// command, may take some of it.
	kill time.Duration
	// settle is how long a script may take to end once its input has.
	settle time.Duration
	// hangup is how long the programs at a terminal that was hung up have to end by
	// themselves.
	hangup time.Duration
}

var defaultLimits = limits{start: guestio.StartLimit, kill: time.Minute, settle: 15 * time.Second, hangup: time.Second}
