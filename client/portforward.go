package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/coder/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"sandboxd.dev/sandboxd/guest/wire"
)

// Tunnel carries TCP connections to ports of a guest. It may be used
// concurrently.
type Tunnel struct {
	conn     httpstream.Connection
	requests atomic.Int64
}

// PortForward opens a tunnel into a sandbox. The caller closes it; it ends with
// the context too.
func (c *Client) PortForward(ctx context.Context, key types.NamespacedName) (*Tunnel, error) {
	ws, response, err := websocket.Dial(ctx, c.sandboxURL(key, wire.PortForward, nil), &websocket.DialOptions{
		HTTPClient: c.http, Subprotocols: []string{wire.PortForwardProtocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, dialError(err, response)
	}
	raw := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	ws.SetReadLimit(wire.MaxMessage)
	conn, err := spdy.NewClientConnection(raw)
	if err != nil {
		return nil, fmt.Errorf("the tunnel could not be opened: %w", err)
	}
	return &Tunnel{conn: conn}, nil
}

// Done is closed when the tunnel has ended.
func (t *Tunnel) Done() <-chan bool { return t.conn.CloseChan() }

// Close ends the tunnel with all its connections.
func (t *Tunnel) Close() error { return t.conn.Close() }

// Local is the near side of a connection.
type Local interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Carry connects a local connection with a port of the guest and returns when both
// have said all, or with what the daemon says went wrong. It closes the local one.
func (t *Tunnel) Carry(local Local, port int) error {
	defer func() { _ = local.Close() }()
	header := http.Header{}
	header.Set(corev1.PortHeader, strconv.Itoa(port))
	header.Set(corev1.PortForwardRequestIDHeader, strconv.FormatInt(t.requests.Add(1), 10))
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	failures, err := t.conn.CreateStream(header)
	if err != nil {
		return fmt.Errorf("the tunnel to the daemon broke: %w", err)
	}
	defer t.conn.RemoveStreams(failures)
	_ = failures.Close() // we have no errors to tell
	header.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := t.conn.CreateStream(header)
	if err != nil {
		return fmt.Errorf("the tunnel to the daemon broke: %w", err)
	}
	defer t.conn.RemoveStreams(data)
	defer func() { _ = data.Reset() }()
	told := make(chan error, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(failures, maxStatus))
		if said := strings.TrimSpace(string(text)); said != "" {
			told <- errors.New(said)
		} else {
			told <- nil
		}
	}()
	go func() {
		_, _ = io.Copy(data, local)
		_ = data.Close()
	}()
	_, _ = io.Copy(local, data)
	_ = local.CloseWrite()
	return <-told
}
