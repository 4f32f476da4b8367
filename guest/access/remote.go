package access

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/providers"
)

// remote is the client of a command or of a console, whatever protocol it
// speaks.
//
//	client ──▶ stdin (bounded: the client waits for the guest), sizes
//	client ◀── output, end   (the guest waits for the client)
//
// A connection that fails ends what it is for.
type remote interface {
	// start listens to the client, and calls gone when there is none any more.
	// stop, which must be called, ends that, waits for it and closes the connection.
	start(ctx context.Context, gone func(error)) (stop func())
	// stdin is what the client types, until its end or until it is closed.
	stdin() io.ReadCloser
	// output sends what is written to it on a channel of package wire.
	output(ctx context.Context, channel byte) io.Writer
	// sizes tells the latest size of the client's terminal.
	sizes() <-chan providers.TerminalSize
	// end tells the client how it ended, and that nothing follows.
	end(ctx context.Context, s metav1.Status)
}

// wanted are the streams that a client asks for.
type wanted struct {
	stdin, stdout, stderr, tty bool
}

// farewell is how long a client may take to be told the end.
const farewell = 30 * time.Second

// errClientGone ends a command whose client has gone away.
var errClientGone = errors.New("the client has gone away")

// accept makes a connection of a request, in the protocol that its client asks
// for. A nil remote without an error means that the client was answered already.
func accept(w http.ResponseWriter, r *http.Request, want wanted) (remote, error) {
	upgrade := strings.ToLower(r.Header.Get("Upgrade"))
	switch {
	case upgrade == "websocket":
		return acceptWebSocket(w, r, want)
	case strings.HasPrefix(upgrade, "spdy/"):
		return acceptSPDY(w, r, want)
	default:
		return nil, badRequestf("this needs a connection: ask for the upgrade to a WebSocket with the subprotocol %s, or to SPDY/3.1", webSockets[0].name)
	}
}

// latest keeps only the newest size that nobody has taken yet. It is for one
// sender.
type latest chan providers.TerminalSize

func newLatest() latest { return make(chan providers.TerminalSize, 1) }

func (l latest) put(s providers.TerminalSize) {
	for {
		select {
		case l <- s:
			return
		default:
		}
		select {
		case <-l:
		default:
		}
	}
}

// toldInText is how protocols before the fourth tell an end: by a sentence, and
// success by none.
func toldInText(s metav1.Status) string {
	if s.Status == metav1.StatusSuccess {
		return ""
	}
	return s.Message
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
