package fake

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake/internal/guest"
)

// DialContext connects to a forwarded port of the simulated host, or to a guest
// that the host can reach, in place of a net.Dialer. Of the services that a
// guest has, the one on TCP port 22 greets like an ssh server and then reads until
// the connection ends, and the one on 7 sends back what it gets.
func (w *World) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	refused := func(err error) error {
		return &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, err)}
	}
	if err := ctx.Err(); err != nil {
		return nil, refused(err)
	}
	if !strings.HasPrefix(network, "tcp") {
		return nil, refused(net.UnknownNetworkError(network))
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, refused(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m, guestPort := w.target(host, port)
	service := guest.Service(guestPort)
	if m == nil || service == nil || m.power != providers.PowerRunning || !m.booted {
		return nil, refused(syscall.ECONNREFUSED)
	}
	near, far := net.Pipe()
	go func() {
		defer func() { _ = far.Close() }()
		_ = service(far, far) // until the other side closes
	}()
	return near, nil
}

// target finds the machine and its port that an address leads to; it needs the
// lock.
func (w *World) target(host, port string) (*machine, string) {
	if h, ok := w.ports.find(v1.ProtocolTCP, host, port); ok {
		m := w.machines[h.machine]
		for _, f := range m.forwards {
			if f.Name == h.name {
				return m, fmt.Sprint(f.GuestPort)
			}
		}
	}
	var found types.UID
	for _, id := range w.ids() {
		if a, ok := w.lease(w.machines[id]); ok && a.String() == host {
			found = id
		}
	}
	return w.machines[found], port
}
