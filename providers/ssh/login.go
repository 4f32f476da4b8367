package ssh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	xssh "golang.org/x/crypto/ssh"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

const (
	defaultPort = 22
	defaultUser = "root"
	// dialTimeout bounds the way to a guest, which is on the same host.
	dialTimeout = 5 * time.Second
	// loginTimeout bounds a login. An emulated guest on a busy host, which has to
	// make its host key first, takes seconds.
	loginTimeout = time.Minute
)

// Port is the port of the guest's ssh server.
func Port(sbx *v1.Sandbox) int32 {
	if sbx.Spec.Readiness.Mode == v1.ReadinessSSH {
		return cmp.Or(sbx.Spec.Readiness.Port, defaultPort)
	}
	return defaultPort
}

// login finds the guest and logs in.
func (c *Client) login(ctx context.Context) (*connection, error) {
	m, err := c.p.GetMachine(ctx, c.sbx.UID)
	if err != nil {
		return nil, err
	}
	if m.Power != providers.PowerRunning {
		return nil, providers.Errorf(providers.ErrBusy, c.object, "it is %s: only a running machine can be reached inside", m.Power)
	}
	way, err := c.route(m)
	if err != nil {
		return nil, err
	}
	config, state, err := c.config(ctx, way)
	if err != nil {
		return nil, err
	}
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := c.g.o.Dialer.DialContext(dialCtx, "tcp", way.Address)
	if err != nil {
		return nil, providers.Errorf(providers.ErrUnavailable, c.object, "no connection to its ssh server: the guest is still booting, or runs none (%w)", err)
	}
	conn, err := handshake(ctx, raw, way.Address, config)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case state.asked && !isBroken(err):
		return nil, c.refused(state)
	default:
		return nil, providers.Errorf(providers.ErrUnavailable, c.object, "its ssh server at %s does not let us get as far as logging in: %s", way.Address, guestcall.Printable(err.Error()))
	}
}

// route is the way to the guest's ssh server, or says what is missing.
func (c *Client) route(m providers.Machine) (providers.Route, error) {
	port, network := Port(c.sbx), c.sbx.Spec.Network
	way := m.Route(port)
	forward := fmt.Sprintf("add {name: ssh, guestPort: %d} to spec.network.portForwards", port)
	agentless := fmt.Sprintf("GoldenImage %q has no guest agent (its guest.agent is None), so only ssh leads into its guests", c.img.Name)
	switch {
	case way.Address != "":
		return way, nil
	case network.Mode == v1.NetworkNAT && c.p.Name() == v1.ProviderVirtualBox:
		return way, providers.Errorf(providers.ErrUnsupported, c.object, "%s, and through VirtualBox's nat the host reaches them by port forwards only: %s", agentless, forward)
	case network.Mode == v1.NetworkHostOnly || network.Mode == v1.NetworkNAT || network.Mode == v1.NetworkBridged:
		return way, providers.Errorf(providers.ErrUnavailable, c.object, "%s, and the host has not seen an address of this one yet: it is still booting, or does not ask for one by DHCP", agentless)
	default:
		return way, providers.Errorf(providers.ErrUnsupported, c.object, "%s, and with network mode %s the host does not reach them: set spec.network.mode to hostonly, or to nat and %s",
			agentless, cmp.Or(network.Mode, v1.NetworkNone), forward)
	}
}

// attempt is how far a login got.
type attempt struct {
	asked    bool // the server wanted to know who we are
	password bool // and there was a password to tell
	withheld bool // or it was not told, because somebody else might listen
}

// hostKeys are what a guest may prove itself by, those first that it makes fastest:
// a fresh clone often makes the key that it is asked for, which with RSA takes an
// emulated one minutes.
var hostKeys = []string{
	xssh.KeyAlgoED25519, xssh.KeyAlgoECDSA256, xssh.KeyAlgoECDSA384, xssh.KeyAlgoECDSA521,
	xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256, xssh.KeyAlgoRSA,
}

// config is how we log in by some way.
func (c *Client) config(ctx context.Context, way providers.Route) (*xssh.ClientConfig, *attempt, error) {
	signer, err := c.g.o.Key.get()
	if err != nil {
		return nil, nil, err
	}
	password := ""
	if c.g.o.Password != nil {
		if password, err = c.g.o.Password(ctx, c.img); err != nil {
			return nil, nil, err
		}
	}
	state := &attempt{}
	auth := []xssh.AuthMethod{xssh.PublicKeysCallback(func() ([]xssh.Signer, error) {
		state.asked = true
		return []xssh.Signer{signer}, nil
	})}
	switch {
	case password == "":
	case way.Shared:
		state.withheld = true
	default:
		state.password = true
		auth = append(auth, xssh.PasswordCallback(func() (string, error) {
			state.asked = true
			return password, nil
		}))
	}
	return &xssh.ClientConfig{
		User: cmp.Or(c.img.Spec.Guest.User, defaultUser), Auth: auth,
		// See the package comment: the way to a guest identifies it, its key
		// cannot.
		HostKeyCallback:   func(string, net.Addr, xssh.PublicKey) error { return nil },
		HostKeyAlgorithms: hostKeys,
	}, state, nil
}

// refused says what was offered to a server that refused it.
func (c *Client) refused(a *attempt) error {
	user := cmp.Or(c.img.Spec.Guest.User, defaultUser)
	const byKey = "its cloud-init has not authorized, or not kept, the key that the seed gives it"
	switch {
	case a.withheld:
		return providers.Errorf(providers.ErrUnavailable, c.object, "its ssh server refuses user %q: %s, and no password is sent over a network where others may answer in its place: set spec.network.mode to hostonly, or to nat and add {name: ssh, guestPort: %d} to spec.network.portForwards",
			user, byKey, Port(c.sbx))
	case a.password:
		return providers.Errorf(providers.ErrUnavailable, c.object, "its ssh server refuses user %q: %s, and the password in the Secret that guest.passwordSecretRef of GoldenImage %q names is wrong or not accepted",
			user, byKey, c.img.Name)
	default:
		return providers.Errorf(providers.ErrUnavailable, c.object, "its ssh server refuses user %q: %s; where there is no cloud-init, set guest.passwordSecretRef of GoldenImage %q",
			user, byKey, c.img.Name)
	}
}

// isBroken tells a connection that failed from a server that refused.
func isBroken(err error) bool {
	var n net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &n)
}

// handshake turns a connection into one of ssh, in bounded time. It takes raw
// over.
func handshake(ctx context.Context, raw net.Conn, address string, config *xssh.ClientConfig) (*connection, error) {
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	err := raw.SetDeadline(time.Now().Add(loginTimeout))
	if err == nil {
		var inner xssh.Conn
		var channels <-chan xssh.NewChannel
		var requests <-chan *xssh.Request
		if inner, channels, requests, err = xssh.NewClientConn(raw, address, config); err == nil {
			err = raw.SetDeadline(time.Time{})
			if err == nil && stop() {
				return newConnection(xssh.NewClient(inner, channels, requests)), nil
			}
			// NewClient not being reached, nobody else takes these.
			go xssh.DiscardRequests(requests)
			_ = inner.Close()
			return nil, errors.Join(err, ctx.Err())
		}
	}
	_ = raw.Close()
	return nil, err
}
