package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"sandboxd.dev/sandboxd/guest/wire"
)

const (
	// portForwardVersion is the protocol within SPDY.
	portForwardVersion = "portforward.k8s.io"
	// maxForwarded bounds the connections that one client forwards at a time.
	maxForwarded = 512
	// pairTimeout is how long the second stream of a connection may take.
	pairTimeout = 30 * time.Second
)

// PortForward carries TCP connections of a client to ports of the guest. Each one
// is a pair of SPDY streams, the data and the errors of it, over SPDY itself or in
// a WebSocket.
//
//	streams of one connection ──▶ pair ──▶ dial ──▶ both ways, each until its end
func (h *Handlers) PortForward(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.enter(w, r, parent, func(m machine) error {
		f := &forwarder{h: h, m: m, pairs: map[string]*pair{}, slots: make(chan struct{}, maxForwarded)}
		var cancel context.CancelCauseFunc
		f.ctx, cancel = context.WithCancelCause(r.Context())
		defer cancel(nil)
		conn, raw, err := f.accept(w, r)
		if err != nil || conn == nil {
			return err
		}
		f.begin(conn)
		select {
		case <-conn.CloseChan():
		case <-r.Context().Done():
		}
		cancel(errClientGone)
		_ = raw.SetDeadline(time.Now().Add(time.Second))
		_ = conn.Close()
		_ = raw.Close()
		f.running.Wait()
		return nil
	})
}

// forwarder serves one client.
type forwarder struct {
	h       *Handlers
	m       machine
	ctx     context.Context
	running sync.WaitGroup
	slots   chan struct{}

	mu    sync.Mutex
	conn  httpstream.Connection // nil until begin
	early []*pair
	pairs map[string]*pair // those of which one stream is missing, by request
}

// pair are the streams of one connection.
type pair struct {
	port         int
	data, errors httpstream.Stream
	late         *time.Timer
}

// accept makes a connection of a request.
func (f *forwarder) accept(w http.ResponseWriter, r *http.Request) (httpstream.Connection, net.Conn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		conn, raw, _, err := upgradeSPDY(w, r, []string{portForwardVersion}, f.opened)
		if raw == nil {
			return conn, nil, err
		}
		return conn, raw, err
	}
	if offers := offered(r); !slices.Contains(offers, wire.PortForwardProtocol) {
		return nil, nil, badRequestf("the subprotocol %s is needed, and the client offers %q", wire.PortForwardProtocol, offers)
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{wire.PortForwardProtocol},
		// The socket admits those who may; a browser's origin says nothing.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, nil, nil //nolint:nilerr // Accept has answered
	}
	raw := websocket.NetConn(context.WithoutCancel(r.Context()), ws, websocket.MessageBinary)
	ws.SetReadLimit(wire.MaxMessage)
	conn, err := spdy.NewServerConnectionWithPings(&framedConn{Conn: raw}, f.opened, pingInterval)
	if err != nil { // it has closed the connection
		return nil, nil, nil //nolint:nilerr // nobody is left to tell
	}
	return conn, raw, nil
}

// begin serves what was opened before the connection was known, and all that
// follows.
func (f *forwarder) begin(conn httpstream.Connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn = conn
	for _, p := range f.early {
		f.running.Go(func() { f.serve(p) })
	}
	f.early = nil
}

// opened takes a stream that the client opens. Streams of one connection name
// the same request; those of the oldest clients follow one another.
func (f *forwarder) opened(s httpstream.Stream, _ <-chan struct{}) error {
	header := s.Headers()
	port, err := strconv.ParseUint(header.Get(corev1.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("%q is not a port", header.Get(corev1.PortHeader))
	}
	kind, id := header.Get(corev1.StreamType), header.Get(corev1.PortForwardRequestIDHeader)
	if id == "" {
		first := s.Identifier()
		if kind == corev1.StreamTypeData {
			first -= 2
		}
		id = "#" + strconv.FormatUint(uint64(first), 10)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pairs[id]
	if p == nil {
		if len(f.pairs) >= maxForwarded {
			return errors.New("too many connections have not begun")
		}
		p = &pair{port: int(port)}
		p.late = time.AfterFunc(pairTimeout, func() { f.forget(id, p) })
		f.pairs[id] = p
	}
	switch {
	case kind == corev1.StreamTypeData && p.data == nil:
		p.data = s
	case kind == corev1.StreamTypeError && p.errors == nil:
		p.errors = s
	default:
		return fmt.Errorf("a stream of the type %q was not expected", kind)
	}
	if p.data == nil || p.errors == nil {
		return nil
	}
	p.late.Stop()
	delete(f.pairs, id)
	if f.conn == nil {
		f.early = append(f.early, p)
		return nil
	}
	if f.ctx.Err() == nil {
		f.running.Go(func() { f.serve(p) })
	}
	return nil
}

// forget drops a connection whose second stream never came.
func (f *forwarder) forget(id string, p *pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pairs[id] != p {
		return
	}
	delete(f.pairs, id)
	for _, s := range []httpstream.Stream{p.data, p.errors} {
		if s != nil {
			_ = s.Reset()
		}
	}
}

// serve carries one connection, and tells on its stream of errors what went
// wrong.
func (f *forwarder) serve(p *pair) {
	defer f.conn.RemoveStreams(p.data, p.errors)
	defer func() { _ = p.data.Reset() }()
	defer func() { _ = p.errors.Close() }()
	var err error
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
		err = f.carry(p)
	default:
		err = fmt.Errorf("more than %d connections at a time are not forwarded", maxForwarded)
	}
	if err != nil && f.ctx.Err() == nil {
		_, _ = fmt.Fprintf(p.errors, "port %d: %s", p.port, message(f.m.object, err))
	}
}

// halves is a connection of which each direction ends by itself.
type halves interface {
	io.ReadWriteCloser
	CloseWrite() error
}

func (f *forwarder) carry(p *pair) error {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	conn, err := f.h.dial(ctx, f.m, p.port)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(conn, p.data)
		_ = conn.CloseWrite()
	}()
	_, err = io.Copy(p.data, conn)
	var refused *guestRefusal
	if errors.As(err, &refused) {
		return err
	}
	if err != nil || p.data.Close() != nil {
		return nil // one of them has broken off
	}
	_ = p.errors.Close() // the guest has said all: the client may end
	select {
	case <-sent:
	case <-ctx.Done():
	}
	return nil
}
