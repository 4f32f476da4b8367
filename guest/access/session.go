package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

const (
	// pingInterval is how often a connection on which nothing is under way is
	// tried, and pingTimeout how long the answer may take.
	pingInterval = 15 * time.Second
	pingTimeout  = time.Minute
	// maxChunk is the most output in one message, in bytes. Common clients
	// read messages of 32 KiB.
	maxChunk = 32<<10 - 1
)

// webSocket is a subprotocol of Kubernetes' exec. In all of them the first byte of
// a message is its channel.
type webSocket struct {
	name string
	// text: messages are text, the channel is a digit and the rest base64.
	text bool
	// status: the end is told by a Status; else by a sentence, or nothing.
	status bool
}

// webSockets are the subprotocols, the preferred one first. Only the first one
// can tell the end of standard input.
var webSockets = []webSocket{
	{name: wire.Protocol, status: true},
	{name: "v4.channel.k8s.io", status: true},
	{name: "v4.base64.channel.k8s.io", status: true, text: true},
	{name: "channel.k8s.io"},
	{name: "base64.channel.k8s.io", text: true},
}

// session is a client's WebSocket.
type session struct {
	conn     *websocket.Conn
	protocol webSocket
	want     wanted
	in       *inbox
	resized  latest
	// sending and feeding count who waits for the client and for the guest: a
	// ping could not get through, or not be answered, and its silence would mean
	// nothing.
	sending, feeding atomic.Int32
}

// offered are the subprotocols that a client offers.
func offered(r *http.Request) []string {
	var list []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			list = append(list, strings.TrimSpace(p))
		}
	}
	return list
}

// chooseWebSocket picks the best subprotocol of those that a client offers; a
// client that offers none speaks the oldest.
func chooseWebSocket(offers []string) (webSocket, error) {
	if len(offers) == 0 {
		return webSocket{}, nil
	}
	i := slices.IndexFunc(webSockets, func(p webSocket) bool { return slices.Contains(offers, p.name) })
	if i < 0 {
		return webSocket{}, badRequestf("the subprotocol %s is needed, and the client offers %q", wire.Protocol, offers)
	}
	return webSockets[i], nil
}

func acceptWebSocket(w http.ResponseWriter, r *http.Request, want wanted) (remote, error) {
	protocol, err := chooseWebSocket(offered(r))
	if err != nil {
		return nil, err
	}
	options := &websocket.AcceptOptions{
		// The socket admits those who may; a browser's origin says nothing.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	}
	if protocol.name != "" {
		options.Subprotocols = []string{protocol.name}
	}
	conn, err := websocket.Accept(w, r, options)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // Accept has answered
	}
	conn.SetReadLimit(wire.MaxMessage)
	s := &session{conn: conn, protocol: protocol, want: want, in: newInbox(), resized: newLatest()}
	return s, nil
}

func (s *session) stdin() io.ReadCloser { return s.in }

func (s *session) sizes() <-chan providers.TerminalSize { return s.resized }

// start reads from the connection and keeps it alive. It goes on when the
// command's context has ended, so that the client can still be told the end.
func (s *session) start(ctx context.Context, gone func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { s.read(ctx, gone) })
	running.Go(func() { s.keepAlive(ctx, gone) })
	return func() {
		_ = s.in.Close()
		cancel()
		_ = s.conn.CloseNow()
		running.Wait()
	}
}

// read takes what the client sends until the connection ends.
func (s *session) read(ctx context.Context, gone func(error)) {
	open := s.want.stdin
	if !open {
		s.in.end(nil)
	}
	for {
		_, message, err := s.conn.Read(ctx)
		if err != nil {
			s.in.end(errClientGone)
			gone(errClientGone)
			return
		}
		channel, data, ok := s.protocol.decode(message)
		if !ok {
			continue
		}
		switch {
		case channel == wire.Close && len(data) > 0 && data[0] == wire.Stdin:
			open = false
			s.in.end(nil)
		case channel == wire.Resize:
			if size, ok := parseSize(data); ok {
				s.resized.put(size)
			}
		case channel == wire.Stdin && open && len(data) > 0:
			s.feeding.Add(1)
			err := s.in.put(data)
			s.feeding.Add(-1)
			open = err == nil // or nobody reads it any more
		}
		// Input that nobody wants is dropped.
	}
}

// decode takes a message apart.
func (p webSocket) decode(message []byte) (channel byte, data []byte, ok bool) {
	if len(message) == 0 {
		return 0, nil, false
	}
	if !p.text {
		return message[0], message[1:], true
	}
	n, err := base64.StdEncoding.Decode(message[1:], message[1:])
	return message[0] - '0', message[1 : 1+n], err == nil && message[0] >= '0'
}

// encode makes a message.
func (p webSocket) encode(channel byte, data []byte) (websocket.MessageType, []byte) {
	if p.text {
		return websocket.MessageText, base64.StdEncoding.AppendEncode([]byte{'0' + channel}, data)
	}
	message := make([]byte, 1, 1+len(data))
	message[0] = channel
	return websocket.MessageBinary, append(message, data...)
}

// parseSize reads the message that tells a terminal's size.
func parseSize(raw []byte) (providers.TerminalSize, bool) {
	var size struct{ Width, Height uint16 }
	if json.Unmarshal(raw, &size) != nil || size.Width == 0 || size.Height == 0 {
		return providers.TerminalSize{}, false
	}
	return providers.TerminalSize{Width: size.Width, Height: size.Height}, true
}

// write sends one message.
func (s *session) write(ctx context.Context, channel byte, data []byte) error {
	s.sending.Add(1)
	defer s.sending.Add(-1)
	kind, message := s.protocol.encode(channel, data)
	return s.conn.Write(ctx, kind, message)
}

func (s *session) output(ctx context.Context, channel byte) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		for done := 0; done < len(p); {
			n := min(len(p)-done, maxChunk)
			if err := s.write(ctx, channel, p[done:done+n]); err != nil {
				return done, errClientGone
			}
			done += n
		}
		return len(p), nil
	})
}

func (s *session) end(ctx context.Context, status metav1.Status) {
	if s.protocol.status {
		if raw, err := json.Marshal(status); err == nil {
			_ = s.write(ctx, wire.Result, raw)
		}
	} else if text := toldInText(status); text != "" {
		_ = s.write(ctx, wire.Result, []byte(text))
	}
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
}

// keepAlive ends the command when the client no longer answers.
func (s *session) keepAlive(ctx context.Context, gone func(error)) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.sending.Load() > 0 {
			continue
		}
		pingCtx, done := context.WithTimeout(ctx, pingTimeout)
		err := s.conn.Ping(pingCtx)
		done()
		// While the guest is waited for, nobody reads the answer; but a ping that
		// cannot be sent tells that there is nobody.
		waiting := s.sending.Load() > 0 || s.feeding.Load() > 0
		if err != nil && ctx.Err() == nil && (!waiting || !errors.Is(err, context.DeadlineExceeded)) {
			gone(errClientGone)
			return
		}
	}
}
