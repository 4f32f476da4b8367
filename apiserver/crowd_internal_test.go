package apiserver

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
)

// TestCrowd: the connection that was idle for the longest time goes when one more
// comes, and nobody is let in when all are at work.
func TestCrowd(t *testing.T) {
	var logged []string
	log := funcr.New(func(_, args string) { logged = append(logged, args) }, funcr.Options{})
	c := newCrowd(3, log)
	enter := func() (*member, *member) {
		_, server := net.Pipe()
		return c.enter(server, false)
	}
	a, _ := enter()
	b, _ := enter()
	d, _ := enter()
	for _, m := range []*member{a, b, d} {
		c.state(m, http.StateNew)
		c.state(m, http.StateActive)
	}
	if m, ended := enter(); m != nil || ended != nil {
		t.Fatalf("one more came in while all were at work")
	}
	c.state(b, http.StateIdle)
	c.state(a, http.StateIdle)
	e, ended := enter()
	if e == nil || ended != b {
		t.Fatalf("%p was ended where %p had been idle for the longest time", ended, b)
	}
	_ = b.Close()
	c.state(b, http.StateClosed)
	c.state(b, http.StateIdle) // however late
	c.state(a, http.StateActive)
	c.state(d, http.StateHijacked)
	if f, ended := enter(); f == nil || ended != e {
		t.Fatalf("%p was ended where only %p, which has asked nothing yet, is idle", ended, e)
	}
	_ = d.Close()
	_ = d.Close()
	if g, ended := enter(); g == nil || ended != nil {
		t.Fatal("the room of a closed connection is not free")
	}
	if c.count != 3 || c.idle.Len() != 2 {
		t.Errorf("there are %d connections, %d of them idle", c.count, c.idle.Len())
	}
	if len(logged) != 1 || !strings.Contains(logged[0], "more connections") {
		t.Errorf("the log tells %q", logged)
	}
}

// TestCrowdFromElsewhere: connections from elsewhere that are all at work leave room for
// the socket's, and take none that is the socket's.
func TestCrowdFromElsewhere(t *testing.T) {
	c := newCrowd(8, logr.Discard())
	enter := func(far bool) (*member, *member) {
		_, server := net.Pipe()
		m, ended := c.enter(server, far)
		if m != nil {
			c.state(m, http.StateActive)
		}
		return m, ended
	}
	near, _ := enter(false)
	c.state(near, http.StateIdle)
	var all []*member
	for range 6 {
		m, ended := enter(true)
		if m == nil || ended != nil {
			t.Fatal("there is no room from elsewhere")
		}
		all = append(all, m)
	}
	if m, ended := enter(true); m != nil || ended != nil {
		t.Fatal("one more came in from elsewhere, for which the socket's made room")
	}
	if m, ended := enter(false); m == nil || ended != nil {
		t.Fatal("the socket is shut by those from elsewhere")
	}
	c.state(all[3], http.StateIdle)
	if m, ended := enter(true); m == nil || ended != all[3] {
		t.Fatal("who is idle elsewhere does not give way")
	}
	_ = all[0].Close()
	_ = all[0].Close()
	if m, ended := enter(true); m == nil || ended != nil {
		t.Fatal("the room of a closed connection is not free")
	}
	if c.far != 6 || c.count != 8 {
		t.Errorf("%d connections, %d from elsewhere", c.count, c.far)
	}
}

// TestRefused: who cannot be let in is told why.
func TestRefused(t *testing.T) {
	// A socket, which takes the answer before anybody reads it.
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	refuse(server)
	_ = server.Close()
	got, _ := io.ReadAll(client)
	if answer := string(got); !strings.HasPrefix(answer, "HTTP/1.1 503 ") || !strings.Contains(answer, `"kind":"Status"`) || !strings.HasSuffix(answer, "}}\n") {
		t.Errorf("it is told %q", answer)
	}
	_, server = net.Pipe()
	refuse(server) // nobody reads: it ends all the same
}

func TestConnectionLimit(t *testing.T) {
	if n := connectionLimit(); n < fewConnections || n > maxConnections {
		t.Errorf("there may be %d connections", n)
	}
}
