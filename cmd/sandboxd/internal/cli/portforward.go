package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"sandboxd.dev/sandboxd/client"
)

func (a *app) portForward() *cobra.Command {
	var addresses []string
	var stdio bool
	cmd := &cobra.Command{
		Use:   "port-forward SANDBOX [LOCAL:]REMOTE…",
		Short: "Forward local ports to ports of a sandbox",
		Long: `Forward TCP connections to local ports to ports of a sandbox's guest, until
interrupted. LOCAL is REMOTE unless it is given; where it is empty or 0, a free port
is taken. A machine without a network is reached through its guest agent, by socat,
ncat or nc in the guest; its isolation stays as it is.

With --stdio, nothing listens: standard input and output are one connection to the
port REMOTE, as the ProxyCommand of ssh and other programs want it.`,
		GroupID: groupGuests,
		Example: examples(`
sandboxd port-forward web 8080:80
sandboxd port-forward web :5432 9000
ssh -o 'ProxyCommand sandboxd port-forward web --stdio 22' root@web`),
		Args: argsBetween(2, math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := a.sandboxKey(args[0])
			if err != nil {
				return err
			}
			ports := make([]portPair, 0, len(args)-1)
			for _, arg := range args[1:] {
				p, err := parsePorts(arg)
				if err != nil {
					return err
				}
				ports = append(ports, p)
			}
			if stdio && (len(ports) != 1 || strings.Contains(args[1], ":") || cmd.Flags().Changed("address")) {
				return errors.New("--stdio is one connection, and nothing listens: say one port of the guest, such as 22, and no --address")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			tunnel, err := c.PortForward(cmd.Context(), key)
			if err != nil {
				return err
			}
			defer func() { _ = tunnel.Close() }()
			if stdio {
				return tunnel.Carry(&ownStreams{Reader: a.In, Writer: a.Out}, ports[0].remote)
			}
			return a.forward(cmd.Context(), tunnel, addresses, ports)
		},
	}
	cmd.Flags().StringSliceVar(&addresses, "address", []string{"localhost"}, "Local addresses to listen on: localhost, or addresses of this host")
	cmd.Flags().BoolVar(&stdio, "stdio", false, "Connect standard input and output with the port, and listen nowhere")
	cmd.ValidArgsFunction = a.completeSandboxes()
	return a.namespaced(cmd)
}

// ownStreams are our standard streams, as the near side of a connection.
type ownStreams struct {
	io.Reader
	io.Writer
}

// CloseWrite implements client.Local: the other side of a pipe sees that the guest has
// said all.
func (s *ownStreams) CloseWrite() error {
	if c, ok := s.Writer.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Close implements client.Local. What is still to be read is the caller's.
func (s *ownStreams) Close() error { return nil }

// portPair is a local port and the guest's.
type portPair struct{ local, remote int }

func parsePorts(arg string) (portPair, error) {
	local, remote, both := strings.Cut(arg, ":")
	if !both {
		remote = local
	}
	read := func(text string, least int) (int, error) {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || int(n) < least {
			return 0, fmt.Errorf("%q is not [LOCAL:]REMOTE, two ports from 1 to 65535 such as 8080:80", arg)
		}
		return int(n), nil
	}
	to, err := read(remote, 1)
	if err != nil {
		return portPair{}, err
	}
	if local == "" {
		return portPair{0, to}, nil
	}
	from, err := read(local, 0)
	return portPair{from, to}, err
}

// forward listens and carries connections until it is interrupted or the tunnel
// breaks.
func (a *app) forward(ctx context.Context, tunnel *client.Tunnel, addresses []string, ports []portPair) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, p := range ports {
		for _, address := range addresses {
			if address == "localhost" {
				address = "127.0.0.1"
			}
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(p.local)))
			if err != nil {
				return fmt.Errorf("cannot listen for port %d: %w", p.remote, err)
			}
			context.AfterFunc(ctx, func() { _ = l.Close() })
			fmt.Fprintf(a.Out, "Forwarding from %s -> %d\n", l.Addr(), p.remote)
			running.Go(func() { a.acceptAll(l, tunnel, p.remote) })
		}
	}
	select {
	case <-ctx.Done():
		return nil // the user has had enough
	case <-tunnel.Done():
		return errors.New("the connection to the daemon broke, and with it what was forwarded")
	}
}

func (a *app) acceptAll(l net.Listener, tunnel *client.Tunnel, port int) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		local, ok := conn.(client.Local)
		if !ok {
			_ = conn.Close()
			continue
		}
		go func() {
			if err := tunnel.Carry(local, port); err != nil {
				fmt.Fprintln(a.Err, "error:", err)
			}
		}()
	}
}
