package apiserver_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestStormStreams opens very many requests on one connection of HTTP/2 and resets
// them at once, as fast as a client can.
func TestStormStreams(t *testing.T) {
	h := newHost(t)
	count := 300
	if os.Getenv("SANDBOXD_STORM") != "" {
		count = 20_000
	}
	h.bind("root", "cluster-admin", "")
	config := h.token("root")
	c := httpClient(t, config)
	get := func(ctx context.Context, path string) (*http.Response, error) {
		rq, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+path, nil)
		if err != nil {
			return nil, err
		}
		return c.Do(rq)
	}
	response, err := get(t.Context(), sandboxes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 || response.ProtoMajor != 2 {
		t.Fatalf("answered %s by %s: %v", response.Status, response.Proto, err)
	}
	_ = response.Body.Close()
	goroutines, heap := runtime.NumGoroutine(), alive()
	var running sync.WaitGroup
	room := make(chan struct{}, 400)
	for i := range count {
		room <- struct{}{}
		running.Go(func() {
			defer func() { <-room }()
			ctx, cancel := context.WithCancel(t.Context())
			path := sandboxes + "?watch=true"
			if i%2 == 0 { // reset before it is answered, mostly
				time.AfterFunc(time.Duration(i%7)*100*time.Microsecond, cancel)
				path = sandboxes
			}
			response, err := get(ctx, path)
			if err == nil {
				if response.StatusCode != 200 {
					t.Errorf("request %d is answered %s", i, response.Status)
				}
				cancel()
				_ = response.Body.Close()
			}
			cancel()
		})
	}
	running.Wait()
	eventually(t, "the streams have ended", func() bool { return runtime.NumGoroutine() <= goroutines+10 })
	if after := alive(); after > heap+64<<20 {
		t.Errorf("%d streams left %d MB", count, (after-heap)>>20)
	}
	if code, body := ask(t, config, "GET", "/readyz", nil); code != 200 {
		t.Errorf("then it is answered %d: %s", code, body)
	}
}

// TestStormHandshakes opens connections that say nothing of TLS, or nothing of TLS
// that makes sense: who has a credential comes in all the same.
func TestStormHandshakes(t *testing.T) {
	h := newHost(t)
	count := 300 // more than there may be of strangers
	if os.Getenv("SANDBOXD_STORM") != "" {
		count = 3000
	}
	h.bind("root", "cluster-admin", "")
	config := h.token("root")
	var conns []net.Conn
	defer func() { closeAll(conns) }()
	for i := range count {
		c, err := net.Dial("tcp", h.address)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		switch i % 3 {
		case 1:
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		case 2:
			_, _ = io.WriteString(c, "\x16\x03\x01\xff\xff"+strings.Repeat("\x01", 1000))
		}
		if i%100 == 99 {
			fresh := *config
			fresh.TLSClientConfig.NextProtos = []string{"http/1.1"} // a connection of its own
			if code, body := ask(t, &fresh, "GET", "/readyz", nil); code != 200 {
				t.Fatalf("after %d strangers a client is answered %d: %s", i, code, body)
			}
		}
	}
}
