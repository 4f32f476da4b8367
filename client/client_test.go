package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/guest/access"
	"sandboxd.dev/sandboxd/guest/archive"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const uid = types.UID("5f0c9b4e-6f0b-4c40-9d0e-0d7a3c0f5a11")

var key = types.NamespacedName{Namespace: "default", Name: "x"}

// patience is how long things may take on a busy machine.
const patience = 3 * time.Minute

// provider is a simulated one, some of whose methods a test replaces.
type provider struct {
	providers.Provider
	exec     func(context.Context, providers.ExecRequest) (providers.ExecResult, error)
	readFile func(context.Context, io.Writer) (providers.FileInfo, error)
}

func (p *provider) Exec(ctx context.Context, id types.UID, r providers.ExecRequest) (providers.ExecResult, error) {
	if p.exec != nil {
		return p.exec(ctx, r)
	}
	return p.Provider.Exec(ctx, id, r)
}

func (p *provider) ReadFile(ctx context.Context, id types.UID, path string, w io.Writer) (providers.FileInfo, error) {
	if p.readFile != nil {
		return p.readFile(ctx, w)
	}
	return p.Provider.ReadFile(ctx, id, path, w)
}

// start serves the guest of one running machine on a unix socket.
func start(t *testing.T) (*client.Client, *provider) {
	t.Helper()
	ctx := context.Background()
	world := fake.NewWorld(fake.Options{Source: func(string) (fake.Source, bool) { return fake.Source{SHA256: "00"}, true }})
	p := &provider{Provider: fake.New(world, v1.ProviderKVM, "instance")}
	ref := providers.ImageRef{UID: "8c6c2f04-3f1e-4b52-9a57-3a4f8b2b6c11", Revision: "1"}
	_, err := p.ImportImage(ctx, providers.ImageSpec{ImageRef: ref, Name: "i", Source: v1.ImageSource{Disk: &v1.DiskSource{Path: "/i"}}}, nil)
	if err == nil {
		err = p.EnsureMachine(ctx, providers.MachineSpec{
			ID: uid, Namespace: key.Namespace, Name: key.Name, Image: ref, CPUs: 1, MemoryBytes: 64 << 20,
			Network: v1.Network{Mode: v1.NetworkNone},
		})
	}
	if err == nil {
		err = p.Start(ctx, uid)
	}
	if err != nil {
		t.Fatal(err)
	}
	sbx := &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: uid},
		Status:     v1.SandboxStatus{MachineID: string(uid), Provider: v1.ProviderKVM},
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(sbx)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	handlers := access.New(access.Options{Providers: providers.NewSet(v1.ProviderKVM, p), Logger: testr.New(t)})
	for _, e := range handlers.Endpoints() {
		for _, method := range e.Methods {
			mux.HandleFunc(method+" /apis/sandboxd.dev/v1/namespaces/default/sandboxes/x/"+e.Name, func(w http.ResponseWriter, r *http.Request) {
				e.Serve(w, r, &unstructured.Unstructured{Object: content})
			})
		}
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		_ = server.Serve(l) // until it is closed
		close(done)
	}()
	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		_ = p.Close()
		c.CloseIdleConnections()
	})
	return c, p
}

func TestExec(t *testing.T) {
	c, _ := start(t)
	for name, test := range map[string]struct {
		o              client.ExecOptions
		want           client.ExecResult
		stdout, stderr string
		status         int32
		message        string
	}{
		"output":      {o: client.ExecOptions{Command: []string{"echo", "a b", "c"}}, stdout: "a b c\n"},
		"both":        {o: client.ExecOptions{Command: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}}, stdout: "out\n", stderr: "err\n", want: client.ExecResult{ExitCode: 3}},
		"input":       {o: client.ExecOptions{Command: []string{"cat"}, Stdin: strings.NewReader("in")}, stdout: "in"},
		"no input":    {o: client.ExecOptions{Command: []string{"cat"}}},
		"env and dir": {o: client.ExecOptions{Command: []string{"sh", "-c", `echo "$A"; pwd`}, Env: []string{"A=1 2"}, Dir: "/tmp"}, stdout: "1 2\n/tmp\n"},
		"truncated":   {o: client.ExecOptions{Command: []string{"echo", "123456"}, MaxOutput: 3}, stdout: "123", want: client.ExecResult{Truncated: true}},
		"timed out":   {o: client.ExecOptions{Command: []string{"sleep", "1000"}, Timeout: 50 * time.Millisecond}, want: client.ExecResult{ExitCode: 137, TimedOut: true}},
		"no program":  {o: client.ExecOptions{Command: []string{"nosuch"}}, want: client.ExecResult{ExitCode: 127, NotStarted: true}, message: "sandbox default/x: "},
		"no dir":      {o: client.ExecOptions{Command: []string{"true"}, Dir: "/nosuch"}, want: client.ExecResult{ExitCode: 126, NotStarted: true}},
		"no user":     {o: client.ExecOptions{Command: []string{"true"}, User: "nosuch"}, want: client.ExecResult{ExitCode: 126, NotStarted: true}},
		"no command":  {status: http.StatusBadRequest, message: "no command was given"},
		"bad timeout": {o: client.ExecOptions{Command: []string{"true"}, Timeout: 1000 * time.Hour * 24}, status: http.StatusBadRequest, message: "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			test.o.Stdout, test.o.Stderr = &stdout, &stderr
			got, err := c.Exec(context.Background(), key, test.o)
			if test.status != 0 {
				var status apierrors.APIStatus
				if !errors.As(err, &status) || status.Status().Code != test.status || !strings.Contains(err.Error(), test.message) {
					t.Fatalf("got %v, want code %d and %q", err, test.status, test.message)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(got.Message, test.message) {
				t.Errorf("got the message %q, want %q", got.Message, test.message)
			}
			got.Message = ""
			if got != test.want || stdout.String() != test.stdout || stderr.String() != test.stderr {
				t.Errorf("got %+v %q %q, want %+v %q %q", got, stdout.String(), stderr.String(), test.want, test.stdout, test.stderr)
			}
		})
	}
}

// TestExecLargeStreams: nothing is lost either way, whoever is slow.
func TestExecLargeStreams(t *testing.T) {
	c, _ := start(t)
	in := bytes.Repeat([]byte("0123456789abcdef"), 60<<10) // just below 1 MiB
	var out slowBuffer
	result, err := c.Exec(context.Background(), key, client.ExecOptions{Command: []string{"cat"}, Stdin: bytes.NewReader(in), Stdout: &out})
	if err != nil || result.ExitCode != 0 {
		t.Fatalf("got %+v and %v", result, err)
	}
	if !bytes.Equal(out.Bytes(), in) {
		t.Errorf("%d bytes of %d came back, or others", out.Len(), len(in))
	}
}

// slowBuffer takes its time.
type slowBuffer struct{ bytes.Buffer }

func (b *slowBuffer) Write(p []byte) (int, error) {
	if b.Len()%(1<<18) < len(p) {
		time.Sleep(5 * time.Millisecond)
	}
	return b.Buffer.Write(p)
}

// TestExecCancelled: a command ends with its client's context, and an input that
// never ends holds up nothing.
func TestExecCancelled(t *testing.T) {
	c, p := start(t)
	running, ended := make(chan struct{}), make(chan error, 1)
	p.exec = func(ctx context.Context, r providers.ExecRequest) (providers.ExecResult, error) {
		close(running)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return providers.ExecResult{}, ctx.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	input, never := io.Pipe()
	defer func() { _ = never.Close() }()
	failed := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, key, client.ExecOptions{Command: []string{"x"}, Stdin: input})
		failed <- err
	}()
	<-running
	cancel()
	for _, done := range []chan error{failed, ended} {
		select {
		case err := <-done:
			if err == nil {
				t.Error("it did not fail")
			}
		case <-time.After(patience):
			t.Fatal("it goes on")
		}
	}
}

// TestExecOutcomeUnknown: a connection that breaks is not taken for an end.
func TestExecOutcomeUnknown(t *testing.T) {
	c, p := start(t)
	p.exec = func(context.Context, providers.ExecRequest) (providers.ExecResult, error) {
		panic(http.ErrAbortHandler) // the daemon dies
	}
	_, err := c.Exec(context.Background(), key, client.ExecOptions{Command: []string{"x"}})
	if !errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("got %v", err)
	}
}

// TestExecLost: what the provider lost sight of is unknown too, and run once; what was
// never begun is not.
func TestExecLost(t *testing.T) {
	c, p := start(t)
	runs := 0
	var lost error = providers.Errorf(providers.ErrUnavailable, "machine", "the agent has gone")
	p.exec = func(context.Context, providers.ExecRequest) (providers.ExecResult, error) {
		runs++
		return providers.ExecResult{}, lost
	}
	_, err := c.Exec(context.Background(), key, client.ExecOptions{Command: []string{"x"}})
	var status apierrors.APIStatus
	if !errors.Is(err, client.ErrOutcomeUnknown) || !errors.As(err, &status) || status.Status().Code != http.StatusServiceUnavailable ||
		!strings.Contains(err.Error(), "unknown, and it was not run again") {
		t.Errorf("lost: %v", err)
	}
	if runs != 1 {
		t.Errorf("it was run %d times", runs)
	}
	lost = providers.NotReached(lost)
	if _, err := c.Exec(context.Background(), key, client.ExecOptions{Command: []string{"x"}}); err == nil || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("never begun: %v", err)
	}
}

func TestExecErrorKinds(t *testing.T) {
	c, p := start(t)
	for kind, code := range map[error]int32{
		providers.ErrBusy:        http.StatusConflict,
		providers.ErrUnsupported: http.StatusNotImplemented,
		providers.ErrCapacity:    http.StatusInsufficientStorage,
	} {
		p.exec = func(context.Context, providers.ExecRequest) (providers.ExecResult, error) {
			return providers.ExecResult{}, providers.Errorf(kind, "machine "+string(uid), "it went wrong")
		}
		_, err := c.Exec(context.Background(), key, client.ExecOptions{Command: []string{"x"}})
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != code || err.Error() != "sandbox default/x: it went wrong" {
			t.Errorf("%v: got %v", kind, err)
		}
	}
}

func TestFiles(t *testing.T) {
	c, p := start(t)
	ctx := context.Background()
	data := bytes.Repeat([]byte("data\n"), 100_000)
	if err := c.WriteFile(ctx, key, "/tmp/f", 0o750, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	info, err := c.ReadFile(ctx, key, "/tmp/f", &got)
	if err != nil || info.Size != int64(len(data)) || info.Mode != 0o750 || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("got %+v, %d bytes and %v", info, got.Len(), err)
	}
	for path, code := range map[string]int32{"/tmp/nosuch": 404, "relative": 400, "/tmp": 422, "": 400} {
		_, err := c.ReadFile(ctx, key, path, io.Discard)
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != code {
			t.Errorf("%q: got %v, want code %d", path, err, code)
		}
	}
	for path, code := range map[string]int32{"/nosuch/f": 404, "relative": 400, "/tmp": 422} {
		err := c.WriteFile(ctx, key, path, 0o644, strings.NewReader("x"))
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != code {
			t.Errorf("%q: got %v, want code %d", path, err, code)
		}
	}
	// A transfer that fails midway is not taken for whole, and says why.
	p.readFile = func(_ context.Context, w io.Writer) (providers.FileInfo, error) {
		_, _ = w.Write(make([]byte, 1<<20))
		return providers.FileInfo{}, providers.Errorf(providers.ErrUnavailable, "machine", "the guest went away")
	}
	if _, err := c.ReadFile(ctx, key, "/tmp/f", io.Discard); err == nil || !strings.Contains(err.Error(), "the guest went away") {
		t.Errorf("got %v", err)
	}
}

// TestBrokenTransfer: those who do not look at trailers see the connection
// break.
func TestBrokenTransfer(t *testing.T) {
	c, p := start(t)
	p.readFile = func(_ context.Context, w io.Writer) (providers.FileInfo, error) {
		_, _ = w.Write(make([]byte, 1<<20))
		return providers.FileInfo{}, providers.Errorf(providers.ErrUnavailable, "machine", "the guest went away")
	}
	plain := &http.Client{Transport: &http.Transport{DialContext: c.Config().Dial}}
	defer plain.CloseIdleConnections()
	response, err := plain.Get("http://sandboxd/apis/sandboxd.dev/v1/namespaces/default/sandboxes/x/files?path=/tmp/f")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if n, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Errorf("%d bytes were taken for a whole file", n)
	}
}

func TestDirectories(t *testing.T) {
	c, _ := start(t)
	ctx := context.Background()
	from, to := t.TempDir(), t.TempDir()
	for i := range 50 {
		name := filepath.Join(from, fmt.Sprintf("d%d", i%5), fmt.Sprintf("f%d", i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WriteDir(ctx, key, "/srv/in", from); err != nil {
		t.Fatal(err)
	}
	if is, err := c.IsDir(ctx, key, "/srv/in/d1"); !is || err != nil {
		t.Errorf("got %v and %v", is, err)
	}
	if err := c.ReadDir(ctx, key, "/srv/in", to, archive.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		name := filepath.Join(fmt.Sprintf("d%d", i%5), fmt.Sprintf("f%d", i))
		if data, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(data) != filepath.Join(from, name) {
			t.Errorf("%s: got %q and %v", name, data, err)
		}
	}
	if err := c.ReadDir(ctx, key, "/srv/in", t.TempDir(), archive.Limits{Entries: 3, Bytes: 1 << 20}); !errors.Is(err, archive.ErrRefused) {
		t.Errorf("beyond the limits: got %v", err)
	}
	if err := c.ReadDir(ctx, key, "/nosuch", t.TempDir(), archive.DefaultLimits); err == nil || !strings.Contains(err.Error(), "tar could not pack /nosuch") {
		t.Errorf("a directory that is not there: got %v", err)
	}
	if err := c.WriteDir(ctx, key, "/srv/in", filepath.Join(from, "nosuch")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not here: got %v", err)
	}
	// The daemon clears up after a client that broke off once it notices.
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var left bytes.Buffer
		_, err := c.Exec(ctx, key, client.ExecOptions{Command: []string{"ls", "/tmp"}, Stdout: &left})
		if err == nil && !strings.Contains(left.String(), "sandboxd") {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("left in the guest: %q (%v)", left.String(), err)
		}
	}
}

func TestLog(t *testing.T) {
	c, p := start(t)
	ctx := context.Background()
	read := func(o client.LogOptions) string {
		t.Helper()
		var b bytes.Buffer
		if err := c.Log(ctx, key, o, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	all := read(client.LogOptions{})
	lines := strings.SplitAfter(strings.TrimSuffix(all, "\n"), "\n")
	for n := range int64(4) {
		want := strings.Join(lines[max(0, len(lines)-int(n)):], "")
		if n > 0 {
			want += "\n"
		}
		if got := read(client.LogOptions{TailLines: &n}); n > 0 && got != want || n == 0 && got != "" {
			t.Errorf("the last %d lines: got %q, want %q", n, got, want)
		}
	}
	// Followed, it ends with the machine.
	var seen atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- c.Log(ctx, key, client.LogOptions{Follow: true}, writerFunc(func(p []byte) (int, error) {
			seen.Add(int64(len(p)))
			return len(p), nil
		}))
	}()
	for deadline := time.Now().Add(patience); seen.Load() < int64(len(all)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing came")
		}
	}
	if err := p.DeleteMachine(ctx, uid); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on without a machine")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	for socket, want := range map[string]error{filepath.Join(dir, "none"): os.ErrNotExist, stale: syscall.ECONNREFUSED} {
		c, err := client.New(client.Options{Socket: socket})
		if err != nil {
			t.Fatal(err)
		}
		_, execErr := c.Exec(context.Background(), key, client.ExecOptions{Command: []string{"x"}})
		for what, err := range map[string]error{
			"exec": execErr,
			"get":  c.Get(context.Background(), key, &v1.Sandbox{}),
			"log":  c.Log(context.Background(), key, client.LogOptions{}, io.Discard),
		} {
			var unreachable *client.UnreachableError
			if !errors.As(err, &unreachable) || !errors.Is(err, want) || unreachable.Socket != socket || !strings.Contains(unreachable.Error(), "sandboxd serve") {
				t.Errorf("%s at %s: got %v", what, socket, err)
			}
		}
	}
}
