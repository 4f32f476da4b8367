package apiserver

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

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
		return c.enter(server)
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

// TestRefused: who cannot be let in is told why.
func TestRefused(t *testing.T) {
	client, server := net.Pipe()
	got := make(chan string)
	go func() {
		answer, _ := io.ReadAll(client)
		got <- string(answer)
	}()
	refuse(server)
	_ = server.Close()
	if answer := <-got; !strings.HasPrefix(answer, "HTTP/1.1 503 ") || !strings.Contains(answer, `"kind":"Status"`) || !strings.HasSuffix(answer, "}}\n") {
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
