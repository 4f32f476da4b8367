package access

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

// TestSizeBehindInput: what was typed does not keep a terminal's size away, though
// nobody reads it yet.
func TestSizeBehindInput(t *testing.T) {
	sizes, rest := make(chan providers.TerminalSize, 1), make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := acceptWebSocket(w, r, wanted{stdin: true, tty: true})
		if err != nil || c == nil {
			t.Errorf("%v, %v", c, err)
			return
		}
		defer c.start(r.Context(), func(error) {})()
		select {
		case size := <-c.sizes():
			sizes <- size
		case <-time.After(time.Minute):
			close(sizes)
		}
		all, err := io.ReadAll(c.stdin())
		if err != nil {
			t.Error(err)
		}
		rest <- string(all)
	}))
	defer s.Close()
	conn, _, err := websocket.Dial(within(t), "ws"+strings.TrimPrefix(s.URL, "http"), &websocket.DialOptions{Subprotocols: []string{wire.Protocol}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	for _, message := range []string{"\x00stty ", "\x00size\n", "\xff\x00", "\x04" + `{"Width":101,"Height":33}`} {
		if err := conn.Write(within(t), websocket.MessageBinary, []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := <-sizes, (providers.TerminalSize{Width: 101, Height: 33}); got != want {
		t.Errorf("size: got %v, want %v", got, want)
	}
	if got := <-rest; got != "stty size\n" {
		t.Errorf("input: %q", got)
	}
}

func TestInbox(t *testing.T) {
	b := newInbox()
	if err := b.put(make([]byte, inboxSize)); err != nil {
		t.Fatal(err)
	}
	put := make(chan error)
	go func() { put <- b.put([]byte("more")) }()
	select {
	case err := <-put:
		t.Fatalf("there was room beyond %d bytes: %v", inboxSize, err)
	case <-time.After(10 * time.Millisecond):
	}
	got, err := io.ReadAll(io.LimitReader(b, inboxSize+4))
	if err != nil || string(got[inboxSize:]) != "more" || <-put != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	gone := errors.New("gone")
	b.end(gone)
	b.end(nil)
	if err := b.put([]byte("late")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("put after the end: %v", err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, gone) {
		t.Errorf("read after the end: %v", err)
	}

	for name, waits := range map[string]func(*inbox) error{
		"reader": func(b *inbox) error { _, err := b.Read(make([]byte, 1)); return err },
		"writer": func(b *inbox) error { return errors.Join(b.put(make([]byte, inboxSize)), b.put([]byte("x"))) },
	} {
		b := newInbox()
		go func() { put <- waits(b) }()
		time.Sleep(time.Millisecond) // most often it waits by now
		_ = b.Close()
		if err := <-put; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
