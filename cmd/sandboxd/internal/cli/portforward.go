package cli

import (
	"context"
	"errors"
	"fmt"
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
	cmd := &cobra.Command{
		Use:   "port-forward SANDBOX [LOCAL:]REMOTE…",
		Short: "Forward local ports to ports of a sandbox",
		Long: `Forward TCP connections to local ports to ports of a sandbox's guest, until
interrupted. LOCAL is REMOTE unless it is given; where it is empty or 0, a free port
is taken. A machine without a network is reached through its guest agent, by socat,
ncat or nc in the guest; its isolation stays as it is.`,
		GroupID: groupGuests,
		Example: examples(`
sandboxd port-forward web 8080:80
sandboxd port-forward web :5432 9000`),
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
			c, err := a.client()
			if err != nil {
				return err
			}
			tunnel, err := c.PortForward(cmd.Context(), key)
			if err != nil {
				return err
			}
			defer func() { _ = tunnel.Close() }()
			return a.forward(cmd.Context(), tunnel, addresses, ports)
		},
	}
	cmd.Flags().StringSliceVar(&addresses, "address", []string{"localhost"}, "Local addresses to listen on: localhost, or addresses of this host")
	cmd.ValidArgsFunction = a.completeSandboxes()
	return a.namespaced(cmd)
}

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
