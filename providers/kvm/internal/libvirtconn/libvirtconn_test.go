package libvirtconn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/go-logr/logr"
	"go.uber.org/goleak"

	"sandboxd.dev/sandboxd/providers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTranslate(t *testing.T) {
	code := func(n libvirt.ErrorNumber) error { return libvirt.Error{Code: uint32(n), Message: "words"} }
	for name, tc := range map[string]struct{ err, want error }{
		"no domain":         {code(libvirt.ErrNoDomain), providers.ErrNotFound},
		"no network":        {code(libvirt.ErrNoNetwork), providers.ErrNotFound},
		"no metadata":       {code(libvirt.ErrNoDomainMetadata), providers.ErrNotFound},
		"domain exists":     {code(libvirt.ErrDomExist), providers.ErrAlreadyExists},
		"not running":       {code(libvirt.ErrOperationInvalid), providers.ErrBusy},
		"job under way":     {code(libvirt.ErrOperationTimeout), providers.ErrBusy},
		"bad XML":           {code(libvirt.ErrXMLError), providers.ErrInvalid},
		"unsupported":       {code(libvirt.ErrConfigUnsupported), providers.ErrUnsupported},
		"unknown procedure": {libvirt.ErrUnsupported, providers.ErrUnsupported},
		"no memory":         {code(libvirt.ErrNoMemory), providers.ErrCapacity},
		"anything":          {code(libvirt.ErrInternalError), providers.ErrUnavailable},
		"a code to come":    {code(9999), providers.ErrUnavailable},
		"connection lost":   {libvirt.ErrInterrupted, providers.ErrUnavailable},
		"wrapped":           {fmt.Errorf("more: %w", code(libvirt.ErrNoDomain)), providers.ErrNotFound},
	} {
		got := Translate("machine x", tc.err)
		if providers.KindOf(got) != tc.want || !errors.Is(got, tc.err) {
			t.Errorf("%s: %v, want kind %v", name, got, tc.want)
		}
		if again := Translate("other", got); again != got {
			t.Errorf("%s: translated twice: %v", name, again)
		}
	}
	if Translate("x", nil) != nil || Code(nil) != libvirt.ErrOk {
		t.Error("no error became one")
	}
	if got := Code(Translate("x", code(libvirt.ErrNoDomain))); got != libvirt.ErrNoDomain {
		t.Errorf("code %d", got)
	}
}

func TestOutage(t *testing.T) {
	now := time.Now()
	o := newOutage(func() time.Time { return now })
	if o.check() != nil || o.wait() != 0 {
		t.Fatal("it begins with an outage")
	}
	lost := errors.New("lost")
	if !o.failed(lost) || o.failed(lost) {
		t.Error("an outage begins once")
	}
	if o.check() != lost || o.wait() <= 0 {
		t.Errorf("check %v, wait %v", o.check(), o.wait())
	}
	now = now.Add(time.Hour)
	if o.check() != nil {
		t.Error("the next attempt is never due")
	}
	for range 50 {
		o.failed(lost)
		if o.wait() > 10*time.Second {
			t.Fatalf("a pause of %v", o.wait())
		}
	}
	if !o.over() || o.over() || o.check() != nil {
		t.Error("an outage ends once")
	}
}

func newClient(t *testing.T, socket string) *Client {
	c := New(Options{URI: "test:///default", Socket: socket, Logger: logr.Discard()})
	t.Cleanup(c.Close)
	return c
}

func ask(ctx context.Context, l *Link, limit time.Duration) error {
	_, err := Get(ctx, l, "x", limit, (*libvirt.Libvirt).ConnectGetLibVersion)
	return err
}

func TestNoDaemon(t *testing.T) {
	c := newClient(t, filepath.Join(t.TempDir(), "none"))
	err := ask(context.Background(), c.Lifecycle(), Quick)
	if !errors.Is(err, providers.ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if again := ask(context.Background(), c.Agent("a"), Quick); again == nil {
		t.Error("an outage is not shared")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := ask(ended, c.Lifecycle(), Quick); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	c.Close()
	c.Close()
	if err := ask(context.Background(), c.Lifecycle(), Quick); !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("closed: %v", err)
	}
}

// deafDaemon accepts connections and never answers.
func deafDaemon(t *testing.T) (socket string, connections *atomic.Int32) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int32{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			defer func() { _ = conn.Close() }() //nolint:revive // all at the end
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return socket, connections
}

func TestDeafDaemon(t *testing.T) {
	socket, connections := deafDaemon(t)
	c := newClient(t, socket)
	limit := 50 * time.Millisecond
	for ; connections.Load() == 0; limit *= 2 { // on a busy machine that may be too short to connect
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		err := ask(ctx, c.Lifecycle(), Quick)
		if cancel(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if limit > 10*time.Second {
			t.Fatal("it was not even asked")
		}
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	socket, _ := deafDaemon(t)
	for _, s := range []string{socket, filepath.Join(t.TempDir(), "none")} {
		c := newClient(t, s)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Watch(ctx, func() { t.Error("connected") }, func(Event) { t.Error("event") })
		}()
		time.Sleep(20 * time.Millisecond)
		cancel()
		<-done
	}
}

// answer reads requests and lets a client in, but ends the connection at
// whatever it asks for then. Requests and replies begin with their length and
// six numbers: program, version, procedure, type, serial, status.
func answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	const reply, connectOpen, authList = 1, 1, 66
	for {
		var head [7]uint32
		if binary.Read(conn, binary.BigEndian, &head) != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, conn, int64(head[0])-28); err != nil {
			return
		}
		out := []uint32{28, head[1], head[2], head[3], reply, head[5], 0}
		switch head[3] {
		case authList:
			out = append(out, 0) // of no kind of authentication
			out[0] += 4
		case connectOpen:
		default:
			return
		}
		if binary.Write(conn, binary.BigEndian, out) != nil {
			return
		}
	}
}

// TestWatchDoesNotSpin: a daemon that lets clients in and gives them no events
// is asked now and then only.
func TestWatchDoesNotSpin(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var connections atomic.Int32
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			serving.Go(func() { answer(conn) })
		}
	})
	c := newClient(t, socket)
	ctx, cancel := context.WithCancel(context.Background())
	begun := time.Now()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		c.Watch(ctx, func() { t.Error("connected") }, func(Event) { t.Error("event") })
	}()
	for connections.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
	got, most := connections.Load(), int32(2+time.Since(begun)/resubscribe)
	if got > most {
		t.Errorf("it was asked %d times, and %d are enough", got, most)
	}
	cancel()
	<-watching
	_ = l.Close()
	c.Close()
	serving.Wait()
}

// TestNothingBeginsAfterClose: what Close has waited for stays so.
func TestNothingBeginsAfterClose(t *testing.T) {
	c := newClient(t, filepath.Join(t.TempDir(), "none"))
	var over atomic.Bool
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for c.spawn(func() {
				if over.Load() {
					t.Error("something began after Close")
				}
			}) {
			}
		})
	}
	c.Close()
	over.Store(true)
	callers.Wait()
}

// realDaemon is a client of a real libvirtd's test driver.
func realDaemon(t *testing.T) *Client {
	const socket = "/var/run/libvirt/libvirt-sock"
	if os.Getenv("SANDBOXD_PRIVATE_LIBVIRT") != "1" {
		t.Skip("there is no private libvirt: run the test by hack/private-libvirt")
	}
	return newClient(t, socket)
}

func TestHangingCallCostsItsConnectionOnly(t *testing.T) {
	c := realDaemon(t)
	ctx := context.Background()
	if err := ask(ctx, c.Lifecycle(), Quick); err != nil {
		t.Fatal(err)
	}
	before := c.Epoch()
	first := c.Lifecycle().cur
	err := Do(ctx, c.Lifecycle(), "x", 50*time.Millisecond, func(*libvirt.Libvirt) error {
		<-first.conn.dead // hangs until its connection is given up
		return libvirt.ErrInterrupted
	})
	if !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("the hanging call: %v", err)
	}
	if err := ask(ctx, c.Lifecycle(), Quick); err != nil {
		t.Errorf("the next call: %v", err)
	}
	if c.Epoch() == before {
		t.Error("the connection was not made anew")
	}
}

func TestCallsAreLimitedPerLink(t *testing.T) {
	c := realDaemon(t)
	ctx := context.Background()
	release, busy := make(chan struct{}), make(chan error, callsPerLink)
	started := make(chan struct{}, callsPerLink)
	for range callsPerLink {
		go func() {
			busy <- Do(ctx, c.Agent("a"), "a", Slow, func(*libvirt.Libvirt) error {
				started <- struct{}{}
				<-release
				return nil
			})
		}()
	}
	for range callsPerLink {
		<-started
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := ask(short, c.Agent("a"), Quick); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one call too many: %v", err)
	}
	if err := ask(ctx, c.Lifecycle(), Quick); err != nil { // hung guests hold up no lifecycle call
		t.Errorf("a lifecycle call: %v", err)
	}
	close(release)
	for range callsPerLink {
		if err := <-busy; err != nil {
			t.Error(err)
		}
	}
}
