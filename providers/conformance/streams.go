package conformance

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// testConversation holds a conversation with a command: each line has to arrive
// before the next is sent.
func (s *suite) testConversation(t *testing.T) {
	id := s.guest(t)
	in, w := io.Pipe()
	var out bounded
	ended := s.begin(t, id, providers.ExecRequest{
		Command: []string{"sh", "-c", `cat; echo end; exit 3`}, Stdin: in, Stdout: &out, MaxOutput: providers.NoMaxOutput,
	})
	for i := range 3 {
		line := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
		s.awaitOutput(t, &out, line)
	}
	_ = w.Close()
	if code := <-ended; code != 3 || !strings.HasSuffix(out.String(), "line 2\nend\n") {
		t.Errorf("it ended with %d after %q", code, out.String())
	}
}

// testEndsFirst: a command's end does not wait for that of its input.
func (s *suite) testEndsFirst(t *testing.T) {
	in, w := io.Pipe()
	defer func() { _ = w.Close() }()
	if code := <-s.begin(t, s.guest(t), providers.ExecRequest{Command: []string{"sh", "-c", "exit 4"}, Stdin: in}); code != 4 {
		t.Errorf("it ended with %d", code)
	}
}

// testTerminal works at a terminal: its size, also when it changes and when no more sizes
// come, and Ctrl-C.
func (s *suite) testTerminal(t *testing.T) {
	id := s.guest(t)
	in, w := io.Pipe()
	var out bounded
	sizes := make(chan providers.TerminalSize, 1)
	sizes <- providers.TerminalSize{Width: 101, Height: 33}
	ended := s.begin(t, id, providers.ExecRequest{Command: []string{"sh"}, Stdin: in, Stdout: &out, TTY: true, Resize: sizes})
	typed := func(text string) {
		t.Helper()
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	typed("stty size\r")
	s.awaitOutput(t, &out, "33 101\r\n")
	sizes <- providers.TerminalSize{Width: 132, Height: 50}
	for deadline := time.Now().Add(s.b.Limits.Boot); !strings.Contains(out.String(), "50 132\r\n"); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the size does not change: %q", out.String())
		}
		typed("stty size\r")
	}
	close(sizes)
	typed("sh -c 'echo be''gun; exec sleep 100000'\r") // which Ctrl-C ends from its first word on
	s.awaitOutput(t, &out, "begun\r\n")
	typed("\x03")
	// A shell that is quick shows nothing of it but its prompt.
	for deadline := time.Now().Add(s.b.Limits.Boot); strings.HasSuffix(out.String(), "begun\r\n"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Ctrl-C does nothing after %q", out.String())
		}
	}
	typed("echo ba''ck; stty size; exit 5\r")
	if code := <-ended; code != 5 || !strings.Contains(out.String(), "back\r\n50 132\r\n") {
		t.Errorf("it ended with %d after %q", code, out.String())
	}
}

// begin runs a command beside the test and tells its exit code.
func (s *suite) begin(t *testing.T, id types.UID, req providers.ExecRequest) <-chan int {
	t.Helper()
	ctx := within(t, s.b.Limits.Boot)
	ended := make(chan int, 1)
	go func() {
		r, err := s.p.Exec(ctx, id, req)
		if err != nil {
			t.Errorf("exec %q: %v", req.Command, err)
			r.ExitCode = -1
		}
		if c, ok := req.Stdin.(io.Closer); ok && !errors.Is(err, io.ErrClosedPipe) {
			_ = c.Close()
		}
		ended <- r.ExitCode
	}()
	return ended
}

func (s *suite) awaitOutput(t *testing.T, out *bounded, text string) {
	t.Helper()
	for deadline := time.Now().Add(s.b.Limits.Boot); !strings.Contains(out.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q does not come, but %q", text, out.String())
		}
	}
}
