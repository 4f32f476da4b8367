package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	xssh "golang.org/x/crypto/ssh"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func TestMain(m *testing.M) {
	// What is started by nohup, or in the background, ignores what hangs up on or
	// interrupts the commands of guests here: they are to get it as from an ssh server.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience stops a test that hangs; nothing is expected to take so long.
const patience = 2 * time.Minute

// guest is an ssh server whose guest is this host: it runs what it is told by a
// shell that is here, unless a test says otherwise.
type guest struct {
	t testing.TB
	// key and password that log in; a nil key means any.
	key      xssh.PublicKey
	password string
	// shell is the login shell with its arguments.
	shell []string
	// session, if set, serves a session in place of the shell: it has been asked
	// to run something.
	session func(xssh.Channel)
	// mute: it makes no terminals.
	mute bool
	// channel, if set, serves a request to open a channel.
	channel func(xssh.NewChannel)
	// raw, if set, serves a connection.
	raw func(net.Conn)

	listener net.Listener
	running  sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
	shells   []int    // their process groups
	laid     []string // directories of commands at terminals
	offered  []string // passwords
	logins   int
}

// start serves until the test ends.
func (g *guest) start() *guest {
	g.t.Helper()
	if g.shell == nil {
		g.shell = []string{"/bin/sh", "-c"}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(g.t, err)
	host, err := xssh.NewSignerFromKey(private)
	must(g.t, err)
	g.listener, err = net.Listen("tcp", "127.0.0.1:0")
	must(g.t, err)
	g.running.Go(func() {
		for {
			conn, err := g.listener.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conns = append(g.conns, conn)
			g.mu.Unlock()
			g.running.Go(func() { g.serve(conn, host) })
		}
	})
	g.t.Cleanup(func() {
		_ = g.listener.Close()
		g.hangUp()
		g.running.Wait()
		for _, dir := range g.laid { // a guest whose connection was lost keeps it
			if strings.HasPrefix(dir, "/tmp/.sandboxd-") {
				must(g.t, os.RemoveAll(dir))
			}
		}
	})
	return g
}

// hangUp ends all connections, and the shells that they started.
func (g *guest) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		_ = c.Close()
	}
	for _, pid := range g.shells {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	g.shells = nil
}

func (g *guest) port() int32 { return int32(g.listener.Addr().(*net.TCPAddr).Port) }

func (g *guest) serve(conn net.Conn, host xssh.Signer) {
	defer func() { _ = conn.Close() }()
	if g.raw != nil {
		g.raw(conn)
		return
	}
	config := &xssh.ServerConfig{
		PublicKeyCallback: func(_ xssh.ConnMetadata, key xssh.PublicKey) (*xssh.Permissions, error) {
			if g.key != nil && string(g.key.Marshal()) != string(key.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		},
		PasswordCallback: func(_ xssh.ConnMetadata, password []byte) (*xssh.Permissions, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.offered = append(g.offered, string(password))
			if g.password == "" || string(password) != g.password {
				return nil, errors.New("wrong password")
			}
			return nil, nil
		},
	}
	config.AddHostKey(host)
	inner, channels, requests, err := xssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	g.mu.Lock()
	g.logins++
	g.mu.Unlock()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer func() { _ = inner.Close() }()
	sessions.Go(func() { xssh.DiscardRequests(requests) })
	for c := range channels {
		if g.channel != nil {
			g.channel(c)
			continue
		}
		ch, requests, err := c.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() { g.serveSession(ch, requests) })
	}
}

func (g *guest) serveSession(ch xssh.Channel, requests <-chan *xssh.Request) {
	defer func() { _ = ch.Close() }()
	var pty *pty
	for r := range requests {
		if r.Type == "pty-req" && !g.mute {
			pty = openPTY(g.t, r.Payload)
			_ = r.Reply(true, nil)
			continue
		}
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for r := range requests {
				if r.Type == "window-change" && pty != nil {
					pty.resize(r.Payload)
				}
				_ = r.Reply(false, nil)
			}
		}()
		switch {
		case g.session != nil:
			g.session(ch)
		case pty != nil:
			g.runAtTerminal(ch, string(r.Payload[4:]), pty, gone)
		default:
			g.run(ch, string(r.Payload[4:]), gone)
		}
		_ = ch.Close()
		<-gone
	}
}

// run runs a command as servers do: what it leaves in the background keeps the
// session open, and what is closed does not end the command.
func (g *guest) run(ch xssh.Channel, command string, gone <-chan struct{}) {
	cmd := exec.Command(g.shell[0], append(g.shell[1:len(g.shell):len(g.shell)], command)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	stdin, err := cmd.StdinPipe()
	must(g.t, err)
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(g.t, cmd.Start())
	g.mu.Lock()
	g.shells = append(g.shells, cmd.Process.Pid)
	g.mu.Unlock()
	go func() { // ends with the channel
		_, _ = io.Copy(stdin, ch)
		_ = stdin.Close()
	}()
	_ = cmd.Wait()
	tellEnd(ch, cmd, gone)
}

// tellEnd tells how a command ended, if anybody is there to hear it.
func tellEnd(ch xssh.Channel, cmd *exec.Cmd, gone <-chan struct{}) {
	select {
	case <-gone:
		return
	default:
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		_, _ = ch.SendRequest("exit-signal", false, xssh.Marshal(struct {
			Signal, Message, Language string
			Dumped                    bool
		}{Signal: map[syscall.Signal]string{syscall.SIGKILL: "KILL", syscall.SIGTERM: "TERM"}[status.Signal()]}))
		return
	}
	_, _ = ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(status.ExitStatus())))
}

// host is a provider whose only machine is as it is told.
type host struct {
	providers.Provider
	name    v1.ProviderName
	machine providers.Machine
	err     error
}

func (h *host) Name() v1.ProviderName { return h.name }

func (h *host) GetMachine(context.Context, types.UID) (providers.Machine, error) {
	return h.machine, h.err
}

// forwarded is a host on which a port forward leads to a guest.
func forwarded(port int32) *host {
	return &host{name: v1.ProviderKVM, machine: providers.Machine{
		Power:        providers.PowerRunning,
		PortForwards: []v1.PortForward{{Name: "ssh", HostAddress: "127.0.0.1", HostPort: port, GuestPort: 22}},
	}}
}

func sandboxAndImage(mode v1.NetworkMode) (*v1.Sandbox, *v1.GoldenImage) {
	sbx, img := &v1.Sandbox{}, &v1.GoldenImage{}
	sbx.Namespace, sbx.Name, sbx.UID = "default", "x", "5f0c9b4e-6f0b-4c40-9d0e-0d7a3c0f5a11"
	sbx.Spec.Network.Mode = mode
	img.Name, img.Spec.Guest = "plain", v1.GuestAccess{Agent: v1.GuestAgentNone, User: "root"}
	return sbx, img
}

// client opens a client of a guest.
func (g *guest) client() *Client {
	g.t.Helper()
	guests := New(Options{Key: NewKey(filepath.Join(g.t.TempDir(), "ssh", "key"))})
	sbx, img := sandboxAndImage(v1.NetworkNAT)
	c := guests.Open(forwarded(g.port()), sbx, img)
	g.t.Cleanup(c.Close)
	return c
}

func newGuest(t testing.TB) *guest { return &guest{t: t} }

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never %s", what)
		}
	}
}

// alive tells whether a process exists and is no zombie.
func alive(t testing.TB, pid string) bool {
	n, err := strconv.Atoi(pid)
	must(t, err)
	if syscall.Kill(n, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat") // PID (NAME) STATE ...
	if err != nil {
		return false
	}
	_, state, found := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	return found && !strings.HasPrefix(state, "Z")
}
