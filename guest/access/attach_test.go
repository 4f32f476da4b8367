package access

import (
	"context"
	"io"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/remotecommand"

	"sandboxd.dev/sandboxd/providers"
)

// deaf has a guest that reads nothing of what is typed, and a log that cannot be read
// any more once somebody types.
type deaf struct {
	providers.Provider
	typed chan struct{}
	once  *sync.Once
}

func (d deaf) TypeAtConsole(context.Context, types.UID) (io.WriteCloser, error) {
	_, w := io.Pipe()
	return deafKeys{w, d}, nil
}

// deafKeys are those of a guest that does not read.
type deafKeys struct {
	io.WriteCloser
	d deaf
}

func (k deafKeys) Write(b []byte) (int, error) {
	k.d.once.Do(func() { close(k.d.typed) })
	return k.WriteCloser.Write(b)
}

func (d deaf) Console(_ context.Context, id types.UID, _ providers.ConsoleOptions) (io.ReadCloser, error) {
	return io.NopCloser(readerFunc(func([]byte) (int, error) {
		<-d.typed
		return 0, providers.Errorf(providers.ErrUnavailable, "machine "+string(id), "its disk is broken")
	})), nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestAttachFails: whoever types where nobody reads is told of a log that fails, and not
// kept until they leave.
func TestAttachFails(t *testing.T) {
	for _, protocol := range []string{"SPDY", "WebSocket"} {
		t.Run(protocol, func(t *testing.T) {
			_, p, id := serverOf(t, true)
			e := executors(t, serve(t, deaf{p, make(chan struct{}), &sync.Once{}}, id, running(id))+"/attach?stdin=true&stdout=true")[protocol]
			in, keys := io.Pipe()
			defer func() { _ = in.Close() }()
			go func() { _, _ = io.WriteString(keys, "nobody reads that") }()
			err := e.StreamWithContext(within(t), remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard})
			if err == nil || err.Error() != "sandbox default/x: its disk is broken" {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
