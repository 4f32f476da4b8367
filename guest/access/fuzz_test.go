package access

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/guest/wire"
)

// FuzzParameters: the parameters of a command are within their bounds or refused.
func FuzzParameters(f *testing.F) {
	f.Add("command=sh&command=-c&env=A%3Db&timeout=30s&maxOutput=1&stdin")
	f.Add("command=a&timeout=-1s&maxOutput=99999999999999999999&tty=1")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		r, err := parseExec(q)
		if err == nil && (len(r.Command) == 0 || r.Command[0] == "" || len(r.Command) > maxArguments || r.Timeout < 0 || r.Timeout > maxTimeout || r.MaxOutput < 0) {
			t.Fatalf("%+v", r)
		}
		for _, name := range []string{wire.ParamTailBytes, wire.ParamTailLines} {
			if n, err := parseCount(q.Get(name), name, 1000); err == nil && (n < -1 || n > 1000) {
				t.Fatalf("%s is %d", name, n)
			}
		}
	})
}

// FuzzSession: whatever follows a client's handshake, frames or not, the session
// ends with the connection, and no more input is taken than was sent.
func FuzzSession(f *testing.F) {
	got := make(chan int64, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, err := acceptWebSocket(w, r, wanted{stdin: true, tty: true})
		if err != nil || client == nil {
			got <- 0
			return
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		stop := client.start(ctx, cancel)
		n, _ := io.Copy(io.Discard, client.stdin())
		<-ctx.Done()
		stop()
		got <- n
	}))
	f.Cleanup(server.Close)
	masked := func(opcode byte, payload string) []byte {
		return append([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	f.Add(masked(2, "\x00hello"))
	f.Add(append(masked(2, "\xff\x00"), masked(8, "\x03\xe8")...))
	f.Add(masked(2, "\x00"+strings.Repeat("x", 100)))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: "+wire.Protocol+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if r, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(err)
		}
		_, _ = conn.Write(sent)
		_ = conn.Close()
		if n := <-got; n > int64(len(sent)) {
			t.Fatalf("%d bytes of input were taken", n)
		}
	})
}
