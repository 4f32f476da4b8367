package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/apiserver"
)

// knock opens a connection of its own, and begins a request on it: its first line and
// headers. There is none when there is no room for it.
func (h *host) knock(token, request string) (net.Conn, *bufio.Reader) {
	h.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.keeper.Authorities())
	conn, err := tls.Dial("tcp", h.address, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, nil
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	_, _ = fmt.Fprintf(conn, "%s\r\nHost: sandboxd\r\nAuthorization: Bearer %s\r\n\r\n", request, token)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return conn, bufio.NewReader(conn)
}

// atSocket asks the server of a host at a unix socket.
func (h *host) atSocket() *http.Client {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.server.Serve(ctx, l) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("serving the socket ended with %v", err)
		}
	})
	return &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
}

// TestManyConnectionsOfUsers: one user keeps no other out, and all of them together do
// not keep out who comes to the socket.
func TestManyConnectionsOfUsers(t *testing.T) {
	h := newHost(t, func(o *apiserver.Options) { o.Connections = 16 }) // 12 from elsewhere, 6 of each
	socket := h.atSocket()
	tokens := map[string]string{}
	for _, user := range []string{"alice", "bob"} {
		h.bind(user, "sandboxd:user", "default")
		tokens[user] = h.token(user).BearerToken
	}
	const watch = "GET /api/v1/namespaces/default/secrets?watch=true HTTP/1.1"
	of := map[string][]net.Conn{}
	for _, user := range []string{"alice", "bob"} {
		for i := range 6 {
			var conn net.Conn
			var from *bufio.Reader
			// What was refused before takes room until the server has closed it.
			eventually(t, fmt.Sprintf("%s has room for connection %d", user, i), func() bool {
				conn, from = h.knock(tokens[user], watch)
				return conn != nil
			})
			response, err := http.ReadResponse(from, nil)
			if err != nil || response.StatusCode != http.StatusOK {
				t.Fatalf("connection %d of %s: %v %v", i, user, response, err)
			}
			of[user] = append(of[user], conn)
		}
		if user == "bob" {
			break // there is no room for anybody else now
		}
		_, from := h.knock(tokens[user], watch)
		response, err := http.ReadResponse(from, nil)
		if err != nil {
			t.Fatal(err)
		}
		var status metav1.Status
		if err := json.NewDecoder(response.Body).Decode(&status); err != nil || response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "1" ||
			!response.Close || status.Reason != metav1.StatusReasonTooManyRequests || !strings.Contains(status.Message, `user "alice" has 6 connections`) {
			t.Errorf("one connection more: %v %+v %v", response, status, err)
		}
	}
	if conn, from := h.knock(tokens["bob"], watch); conn != nil {
		if response, err := http.ReadResponse(from, nil); err == nil {
			t.Errorf("one connection more than there may be from elsewhere is answered %s", response.Status)
		}
	}
	response, err := socket.Get("http://sandboxd/api")
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("the socket is shut: %v %v", response, err)
	}
	_ = response.Body.Close()
	_ = of["alice"][0].Close()
	eventually(t, "the room of a connection that was closed is free", func() bool {
		conn, from := h.knock(tokens["alice"], watch)
		if conn == nil {
			return false
		}
		response, err := http.ReadResponse(from, nil)
		return err == nil && response.StatusCode == http.StatusOK
	})
}

// TestManyBodies: a user's large bodies wait for one another before they are read, and
// neither another user nor the socket waits for them.
func TestManyBodies(t *testing.T) {
	h := newHost(t)
	socket := h.atSocket()
	const path, most, fit = "/api/v1/namespaces/default/configmaps", 3 << 20, 10 // of 32 MiB
	for _, user := range []string{"alice", "bob"} {
		h.bind(user, "sandboxd:user", "default")
	}
	token := h.token("alice").BearerToken
	begin := fmt.Sprintf("POST %s HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue", path, most)
	var holders []net.Conn
	for range fit {
		conn, from := h.knock(token, begin)
		if line, err := from.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			t.Fatalf("there is no room for a body: %q %v", line, err)
		}
		holders = append(holders, conn)
	}
	waits, _ := h.knock(token, begin)
	object := func(name string) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}}
	}
	if code, body := ask(t, h.token("bob"), "POST", path, object("of-bob")); code != 201 {
		t.Errorf("another user: %d %s", code, body)
	}
	raw, _ := json.Marshal(object("at-socket"))
	response, err := socket.Post("http://sandboxd"+path, "application/json", strings.NewReader(string(raw)))
	if err != nil || response.StatusCode != 201 {
		t.Fatalf("the socket: %v %v", response, err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	_ = waits.Close()
	// How long a body is waited with is limited, and so it is knocked for this one now.
	conn, from := h.knock(token, begin)
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if line, err := from.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one body more is not waited with: %q %v", line, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	_ = holders[0].Close()
	if line, err := from.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
		t.Errorf("after one has ended: %q %v", line, err)
	}
}
