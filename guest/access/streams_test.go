package access

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"sandboxd.dev/sandboxd/providers"
)

// executors are client-go's own ways to run a command, by protocol.
func executors(t *testing.T, address string) map[string]remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: u.Scheme + "://" + u.Host}
	old, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	current, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, address)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"SPDY": old, "WebSocket": current}
}

// patience stops a test that hangs; nothing is expected to take so long.
const patience = 10 * time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestClientGo runs a command by the clients that kubectl has.
func TestClientGo(t *testing.T) {
	address := server(t, true) + "/exec?container=guest&stdin=true&stdout=true&stderr=true&command=sh&command=-c&command=cat%3B+echo+err+%3E%262%3B+exit+7"
	for name, e := range executors(t, address) {
		t.Run(name, func(t *testing.T) {
			var out, errOut strings.Builder
			err := e.StreamWithContext(within(t), remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &errOut})
			var exit clientexec.ExitError
			if out.String() != "typed" || errOut.String() != "err\n" || !errors.As(err, &exit) || exit.ExitStatus() != 7 {
				t.Errorf("%q, %q, %v", out.String(), errOut.String(), err)
			}
		})
	}
}

// sizes tells two sizes, the second one when it is let.
type sizes struct {
	told chan remotecommand.TerminalSize
}

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s.told
	if !ok {
		return nil
	}
	return &size
}

// typist asks for the size of the terminal that it sees until it is 33 rows high, and
// then leaves.
type typist struct {
	mu    sync.Mutex
	shown strings.Builder
	left  bool
}

func (y *typist) Write(p []byte) (int, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.shown.Write(p)
}

func (y *typist) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond) // as people type
	y.mu.Lock()
	defer y.mu.Unlock()
	switch {
	case y.left:
		return 0, io.EOF
	case strings.Contains(y.shown.String(), "\n33 101\r\n"):
		y.left = true
		return copy(p, "exit 5\r"), nil
	default:
		return copy(p, "stty size\r"), nil
	}
}

func TestClientGoTerminal(t *testing.T) {
	address := server(t, true) + "/exec?stdin=true&stdout=true&tty=true&command=sh"
	for name, e := range executors(t, address) {
		t.Run(name, func(t *testing.T) {
			told := make(chan remotecommand.TerminalSize, 2)
			defer close(told)
			told <- remotecommand.TerminalSize{Width: 101, Height: 33}
			y := &typist{}
			err := e.StreamWithContext(within(t), remotecommand.StreamOptions{Stdin: y, Stdout: y, Tty: true, TerminalSizeQueue: sizes{told}})
			var exit clientexec.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 5 {
				t.Errorf("%q, %v", y.shown.String(), err)
			}
		})
	}
}

// TestConstantMemory passes much more through than may be kept.
func TestConstantMemory(t *testing.T) {
	const size = 128 << 20
	address := server(t, true) + "/exec?stdin=true&stdout=true&command=cat"
	for name, e := range executors(t, address) {
		t.Run(name, func(t *testing.T) {
			var most, got atomic.Int64
			over := make(chan struct{})
			go func() {
				for tick := time.NewTicker(20 * time.Millisecond); ; {
					select {
					case <-over:
						tick.Stop()
						return
					case <-tick.C:
					}
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most.Store(max(most.Load(), int64(m.HeapInuse)))
				}
			}()
			err := e.StreamWithContext(within(t), remotecommand.StreamOptions{
				Stdin: io.LimitReader(zeros{}, size), Stdout: writerFunc(func(p []byte) (int, error) { got.Add(int64(len(p))); return len(p), nil }),
			})
			close(over)
			if err != nil || got.Load() != size {
				t.Errorf("%d of %d bytes came back: %v", got.Load(), size, err)
			}
			if most.Load() > size/2 {
				t.Errorf("%d MiB were kept of %d", most.Load()>>20, size>>20)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// forwarding is a connection for ports of a guest, and opens one on it.
func forwarding(t *testing.T) (httpstream.Connection, func(port, id string) (data, failures httpstream.Stream)) {
	t.Helper()
	transport, err := spdy.NewRoundTripper(nil)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(within(t), http.MethodPost, server(t, true)+"/portforward", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(httpstream.HeaderProtocolVersion, portForwardVersion)
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	conn, err := transport.NewConnection(response)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, func(port, id string) (data, failures httpstream.Stream) {
		t.Helper()
		header := http.Header{}
		header.Set(corev1.PortHeader, port)
		header.Set(corev1.PortForwardRequestIDHeader, id)
		header.Set(corev1.StreamType, corev1.StreamTypeError)
		failures, err := conn.CreateStream(header)
		if err != nil {
			t.Fatal(err)
		}
		header.Set(corev1.StreamType, corev1.StreamTypeData)
		if data, err = conn.CreateStream(header); err != nil {
			t.Fatal(err)
		}
		return data, failures
	}
}

// TestForwardedPorts opens connections to a port of a guest without any network.
func TestForwardedPorts(t *testing.T) {
	_, open := forwarding(t)
	held, _ := open("7", "1")
	refused, why := open("99", "2")
	said, _ := io.ReadAll(why)
	if rest, _ := io.ReadAll(refused); len(rest) != 0 || !strings.Contains(string(said), "port 99: sandbox default/x: the guest does not connect to it") {
		t.Errorf("a port on which nothing listens: %q, %q", rest, said)
	}
	// The other one is as it was, and answers after its client has said all.
	if _, err := io.WriteString(held, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = held.Close()
	if got, err := io.ReadAll(held); string(got) != "hello" || err != nil {
		t.Errorf("the echo is %q, %v", got, err)
	}
}

// TestAttach types at a console.
func TestAttach(t *testing.T) {
	address := server(t, true) + "/attach?stdin=true&stdout=true&tty=true"
	for name, e := range executors(t, address) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(within(t))
			var shown strings.Builder
			in, keys := io.Pipe()
			go func() { _, _ = io.WriteString(keys, "echo typ''ed\r") }()
			_ = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Tty: true, Stdout: writerFunc(func(p []byte) (int, error) {
				if shown.Write(p); strings.Contains(shown.String(), "typed\r\n") {
					cancel()
				}
				return len(p), nil
			})})
			_ = in.Close()
			if !strings.Contains(shown.String(), "typed\r\n") {
				t.Errorf("the console shows %q", shown.String())
			}
			cancel()
		})
	}
}

// TestAttachEnds: whoever types at a machine that does not run any more is told so.
func TestAttachEnds(t *testing.T) {
	address, p, id := serverOf(t, true)
	for name, e := range executors(t, address+"/attach?stdin=true&stdout=true") {
		t.Run(name, func(t *testing.T) {
			if err := p.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			in, keys := io.Pipe()
			defer func() { _ = in.Close() }()
			go func() {
				for err := error(nil); err == nil; time.Sleep(10 * time.Millisecond) {
					_, err = io.WriteString(keys, "echo typ''ed\n")
				}
			}()
			var shown strings.Builder
			off := sync.OnceValue(func() error { return p.Stop(t.Context(), id, providers.StopForce) })
			err := e.StreamWithContext(within(t), remotecommand.StreamOptions{Stdin: in, Stdout: writerFunc(func(b []byte) (int, error) {
				if shown.Write(b); strings.Contains(shown.String(), "typed") {
					return len(b), off()
				}
				return len(b), nil
			})})
			if err == nil || !strings.Contains(err.Error(), "nobody would read what is typed") {
				t.Errorf("typing at a machine that is off ended with %v after %q", err, shown.String())
			}
		})
	}
}
