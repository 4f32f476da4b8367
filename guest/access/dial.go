package access

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

// dialTimeout bounds the way to a guest, which is on the same host.
const dialTimeout = 10 * time.Second

// dial connects to a TCP port of the guest: over the network where the host knows
// a way, else from inside the guest, which works without any network and opens
// none.
func (h *Handlers) dial(ctx context.Context, m machine, port int) (halves, error) {
	if h.o.Dial != nil {
		found, err := m.provider.GetMachine(ctx, m.id)
		if err != nil {
			return nil, err
		}
		if found.Power != providers.PowerRunning {
			return nil, providers.Errorf(providers.ErrBusy, m.object, "it is %s: only a running machine has ports", found.Power)
		}
		if way := found.Route(int32(port)); way.Address != "" {
			return h.dialRoute(ctx, m, way)
		}
	}
	return dialInside(ctx, m, port), nil
}

func (h *Handlers) dialRoute(ctx context.Context, m machine, way providers.Route) (halves, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := h.o.Dial(ctx, "tcp", way.Address)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, providers.Errorf(providers.ErrUnavailable, m.object, "nothing listens there in the guest (%s refused the connection)", way.Address)
	case err != nil:
		return nil, providers.Errorf(providers.ErrUnavailable, m.object, "no connection: %w", err)
	}
	if both, ok := conn.(halves); ok {
		return both, nil
	}
	return noHalves{conn}, nil
}

// noHalves is a connection that ends as a whole only.
type noHalves struct{ net.Conn }

// CloseWrite implements halves.
func (noHalves) CloseWrite() error { return nil }

// connectScript connects its standard streams with a port of the guest. What
// differs between the programs called nc is whether they pass the end of the input
// on.
const connectScript = `if command -v socat >/dev/null 2>&1; then exec socat - "TCP:127.0.0.1:$1"; fi
if command -v ncat >/dev/null 2>&1; then exec ncat 127.0.0.1 "$1"; fi
if command -v nc >/dev/null 2>&1; then
if nc -h 2>&1 | grep -q -e -N >/dev/null 2>&1; then exec nc -N 127.0.0.1 "$1"; fi
exec nc 127.0.0.1 "$1"
fi
exit 127`

// maxComplaint bounds what is kept of a guest's complaint, in bytes.
const maxComplaint = 300

// inside is a connection that a command in the guest makes.
type inside struct {
	in   *io.PipeWriter
	out  *io.PipeReader
	stop context.CancelFunc
	over chan struct{}
}

// guestRefusal is why a command in the guest did not connect.
type guestRefusal struct{ err error }

func (r *guestRefusal) Error() string { return r.err.Error() }

func (r *guestRefusal) Unwrap() error { return r.err }

func dialInside(ctx context.Context, m machine, port int) *inside {
	ctx, cancel := context.WithCancel(ctx)
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	complaint := &bounded{}
	c := &inside{in: in, out: out, stop: cancel, over: make(chan struct{})}
	go func() {
		defer close(c.over)
		result, err := m.Exec(ctx, providers.ExecRequest{
			Command: []string{"sh", "-c", connectScript, "sh", strconv.Itoa(port)},
			Stdin:   stdin, Stdout: stdout, Stderr: complaint, MaxOutput: providers.NoMaxOutput,
		})
		switch {
		case err != nil:
		case result.ExitCode == 127:
			err = providers.Errorf(providers.ErrUnsupported, m.object, "the host has no way to this port, and the guest has none of socat, ncat and nc, by which it could be reached from inside: install one, or add the port to spec.network.portForwards")
		case result.ExitCode != 0:
			err = providers.Errorf(providers.ErrUnavailable, m.object, "the guest does not connect to it: %s", complaint.text())
		}
		if err != nil {
			err = &guestRefusal{err}
		}
		_ = stdout.CloseWithError(err) // nil means the end
		_ = stdin.Close()
	}()
	return c
}

// Read implements io.Reader.
func (c *inside) Read(p []byte) (int, error) { return c.out.Read(p) }

// Write implements io.Writer.
func (c *inside) Write(p []byte) (int, error) { return c.in.Write(p) }

// CloseWrite implements halves.
func (c *inside) CloseWrite() error { return c.in.Close() }

// Close ends the command.
func (c *inside) Close() error {
	c.stop()
	_ = c.in.Close()
	_ = c.out.Close()
	<-c.over
	return nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Write(p[:min(len(p), maxComplaint-b.b.Len())])
	return len(p), nil
}

func (b *bounded) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return printable(b.b.String())
}
