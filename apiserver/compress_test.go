package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestCompression: long answers are packed for clients elsewhere that take it,
// and for no others.
func TestCompression(t *testing.T) {
	a := newAPI(t, timeless)
	for i := range 3 {
		u := sandbox(fmt.Sprintf("s%d", i))
		u.SetAnnotations(map[string]string{"long": strings.Repeat("abcdefgh", 8<<10)})
		a.do("POST", sandboxes, u).want(201)
	}
	plain := a.get(sandboxes).want(200)
	if plain.header.Get("Content-Encoding") != "" || plain.header.Get("Content-Length") == "" {
		t.Errorf("a client that says nothing got %v", plain.header)
	}
	for _, headers := range [][]string{{}, {"Accept", asTable}, {"Accept", "application/yaml"}, {"Accept", asPartialList}} {
		want := a.do("GET", sandboxes, nil, headers...).want(200)
		got := a.do("GET", sandboxes, nil, append(headers, "Accept-Encoding", "gzip")...).want(200)
		if got.header.Get("Content-Encoding") != "gzip" || got.header.Get("Content-Length") != "" || got.header.Get("Vary") == "" {
			t.Errorf("%v: the header is %v", headers, got.header)
		}
		if body := unpacked(t, got.body); len(body) != len(want.body) || len(got.body) > len(body)/10 {
			t.Errorf("%v: %d bytes were packed into %d", headers, len(want.body), len(got.body))
		}
	}
	// What is short, an error, or a stream.
	for _, path := range []string{sandboxes + "/s0", sandboxes + "/x", sandboxes + "?watch=true&timeoutSeconds=1"} {
		if got := a.do("GET", path, nil, "Accept-Encoding", "gzip"); got.header.Get("Content-Encoding") != "" {
			t.Errorf("%s was packed", path)
		}
	}
	// A client on the same machine.
	for _, address := range []string{"127.0.0.1:4711", "[::1]:4711", "@", "pipe"} {
		r := httptest.NewRequest(http.MethodGet, sandboxes, nil)
		r.Header.Set("Accept-Encoding", "gzip")
		r.RemoteAddr = address
		w := httptest.NewRecorder()
		a.handler.ServeHTTP(w, r)
		if w.Header().Get("Content-Encoding") != "" || !bytes.Equal(w.Body.Bytes(), plain.body) {
			t.Errorf("%s got %v", address, w.Header())
		}
	}
}

// TestHTTP2 has many watches and writes on one connection.
func TestHTTP2(t *testing.T) {
	a := newAPI(t)
	server := httptest.NewUnstartedServer(a.handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	transport, ok := server.Client().Transport.(*http.Transport)
	if !ok {
		t.Fatal("the client of the server has another transport")
	}
	var dials atomic.Int32
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	watches := []*watcher{watch(t, server, sandboxes+"?watch=true"), watch(t, server, sandboxes+"?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")}
	watches[1].want("BOOKMARK true")
	for i := range 3 {
		raw, err := json.Marshal(sandbox(fmt.Sprintf("s%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+sandboxes, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		response, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.ProtoMajor != 2 || response.StatusCode != 201 {
			t.Fatalf("HTTP/%d answered %d", response.ProtoMajor, response.StatusCode)
		}
		for _, w := range watches {
			w.want(fmt.Sprintf("ADDED s%d", i))
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("watches made the client open %d connections", n)
	}
}
