package forward

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestConnectionsAreBounded: beyond the limit clients wait, and are served when
// others go.
func TestConnectionsAreBounded(t *testing.T) {
	s := newSet(t)
	f := reserve(t, s, "m", []v1.PortForward{forward("a", guestTCP(t))}, nil)[0]
	s.SetTarget("m", loopback)
	ask := func(c net.Conn) error {
		_, _ = fmt.Fprintln(c, "hello")
		_, err := bufio.NewReader(c).ReadString('\n')
		return err
	}
	served := make([]net.Conn, maxConnections)
	for i := range served {
		served[i] = dial(t, f)
		if err := ask(served[i]); err != nil {
			t.Fatalf("the connection %d: %v", i+1, err)
		}
	}
	late := dial(t, f)
	_ = late.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if err := ask(late); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("one beyond the limit was served: %v", err)
	}
	_ = late.SetDeadline(time.Now().Add(time.Minute))
	_ = served[0].Close()
	if err := ask(late); err != nil {
		t.Errorf("it is not served when another has gone: %v", err)
	}
}
