package ssh

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// TestAddress: the way to a guest, or what is missing, for every network.
func TestAddress(t *testing.T) {
	lease := []v1.GuestAddress{{IP: "10.9.8.7", Source: v1.AddressFromLease}}
	neighbour := []v1.GuestAddress{{IP: "fd00::7", Source: v1.AddressFromNeighbour}}
	claim := []v1.GuestAddress{{IP: "192.0.2.1", Source: v1.AddressFromAgent}}
	to := func(port int32, p v1.Protocol) []v1.PortForward {
		return []v1.PortForward{{Name: "f", Protocol: p, HostAddress: "127.0.0.1", HostPort: 4022, GuestPort: port}}
	}
	for name, tc := range map[string]struct {
		mode      v1.NetworkMode
		provider  v1.ProviderName
		readiness v1.Readiness
		addresses []v1.GuestAddress
		forwards  []v1.PortForward
		want      string
		kind      error
		says      string
	}{
		"hostonly":                  {mode: v1.NetworkHostOnly, addresses: lease, want: "10.9.8.7:22"},
		"bridged":                   {mode: v1.NetworkBridged, addresses: neighbour, want: "[fd00::7]:22"},
		"nat":                       {mode: v1.NetworkNAT, addresses: lease, want: "10.9.8.7:22"},
		"nat by a forward":          {mode: v1.NetworkNAT, provider: v1.ProviderVirtualBox, forwards: to(22, v1.ProtocolTCP), want: "127.0.0.1:4022"},
		"another port":              {mode: v1.NetworkHostOnly, readiness: v1.Readiness{Mode: v1.ReadinessSSH, Port: 2222}, addresses: lease, want: "10.9.8.7:2222"},
		"another port by a forward": {mode: v1.NetworkNAT, provider: v1.ProviderVirtualBox, readiness: v1.Readiness{Mode: v1.ReadinessSSH, Port: 2222}, forwards: to(2222, ""), want: "127.0.0.1:4022"},
		"a port that is not ssh's":  {mode: v1.NetworkHostOnly, readiness: v1.Readiness{Mode: v1.ReadinessTCP, Port: 80}, addresses: lease, want: "10.9.8.7:22"},
		"a claim leads nowhere":     {mode: v1.NetworkBridged, addresses: claim, kind: providers.ErrUnavailable, says: "has not seen an address"},
		"no lease yet":              {mode: v1.NetworkHostOnly, kind: providers.ErrUnavailable, says: "has not seen an address"},
		"a forward of UDP": {
			mode: v1.NetworkNAT, provider: v1.ProviderVirtualBox, forwards: to(22, v1.ProtocolUDP),
			kind: providers.ErrUnsupported, says: "add {name: ssh, guestPort: 22} to spec.network.portForwards",
		},
		"VirtualBox's nat without a forward": {
			mode: v1.NetworkNAT, provider: v1.ProviderVirtualBox, readiness: v1.Readiness{Mode: v1.ReadinessSSH, Port: 2222}, addresses: claim, forwards: to(80, v1.ProtocolTCP),
			kind: providers.ErrUnsupported, says: "add {name: ssh, guestPort: 2222} to spec.network.portForwards",
		},
		"none":   {mode: v1.NetworkNone, kind: providers.ErrUnsupported, says: "with network mode none the host does not reach them: set spec.network.mode to hostonly, or to nat and add"},
		"unset":  {kind: providers.ErrUnsupported, says: "with network mode none"},
		"intnet": {mode: v1.NetworkIntnet, addresses: claim, kind: providers.ErrUnsupported, says: "with network mode intnet"},
	} {
		t.Run(name, func(t *testing.T) {
			sbx, img := sandboxAndImage(tc.mode)
			sbx.Spec.Readiness = tc.readiness
			c := New(Options{}).Open(&host{name: tc.provider}, sbx, img)
			got, err := c.route(providers.Machine{Addresses: tc.addresses, PortForwards: tc.forwards})
			if got.Address != tc.want || providers.KindOf(err) != tc.kind || got.Shared != strings.HasPrefix(name, "bridged") {
				t.Errorf("got %+v, %v", got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `sandbox default/x: GoldenImage "plain" has no guest agent`)) {
				t.Errorf("it says: %v", err)
			}
		})
	}
}

func TestMachineThatCannotBeReached(t *testing.T) {
	for name, tc := range map[string]struct {
		host *host
		kind error
	}{
		"no machine":    {&host{err: providers.Errorf(providers.ErrNotFound, "machine", "gone")}, providers.ErrNotFound},
		"off":           {&host{machine: providers.Machine{Power: providers.PowerOff}}, providers.ErrBusy},
		"nobody listen": {forwarded(closedPort(t)), providers.ErrUnavailable},
	} {
		sbx, img := sandboxAndImage(v1.NetworkNAT)
		c := New(Options{Key: NewKey(filepath.Join(t.TempDir(), "key"))}).Open(tc.host, sbx, img)
		defer c.Close()
		if _, err := c.Exec(within(t), sh("true")); providers.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func closedPort(t *testing.T) int32 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

// TestLogin: by the key, else by the password, which is kept from networks where
// somebody else may answer.
func TestLogin(t *testing.T) {
	const secret = "correct horse"
	for name, tc := range map[string]struct {
		mode     v1.NetworkMode
		provider v1.ProviderName
		keyKnown bool
		server   string // the password that it takes
		given    string
		says     string           // when it fails
		source   v1.AddressSource // of the guest's address; empty for a port forward
		offered  []string
	}{
		"key":                                {mode: v1.NetworkNAT, keyKnown: true},
		"key before the password":            {mode: v1.NetworkNAT, keyKnown: true, server: secret, given: secret},
		"password":                           {mode: v1.NetworkNAT, server: secret, given: secret, offered: []string{secret}},
		"neither":                            {mode: v1.NetworkNAT, server: secret, says: `set guest.passwordSecretRef of GoldenImage "plain"`},
		"wrong password":                     {mode: v1.NetworkNAT, server: secret, given: "wrong", offered: []string{"wrong"}, says: "names is wrong or not accepted"},
		"password over a bridge":             {mode: v1.NetworkBridged, source: v1.AddressFromNeighbour, server: secret, given: secret, says: "no password is sent over a network where others may answer"},
		"password when no longer to be one":  {mode: v1.NetworkNAT, source: v1.AddressFromNeighbour, server: secret, given: secret, says: "set spec.network.mode to hostonly, or to nat and add {name: ssh"},
		"password when a bridge is to come":  {mode: v1.NetworkBridged, server: secret, given: secret, offered: []string{secret}},
		"password on VirtualBox's host-only": {mode: v1.NetworkHostOnly, source: v1.AddressFromLease, provider: v1.ProviderVirtualBox, server: secret, given: secret, offered: []string{secret}},
		"password on kvm's host-only":        {mode: v1.NetworkHostOnly, source: v1.AddressFromLease, provider: v1.ProviderKVM, server: secret, given: secret, offered: []string{secret}},
		"key over a bridge, as it is so":     {mode: v1.NetworkBridged, source: v1.AddressFromNeighbour, keyKnown: true, given: secret},
	} {
		t.Run(name, func(t *testing.T) {
			key := NewKey(filepath.Join(t.TempDir(), "key"))
			signer, err := key.get()
			must(t, err)
			g := newGuest(t)
			g.password, g.key = tc.server, signer.PublicKey()
			if !tc.keyKnown {
				other, err := NewKey(filepath.Join(t.TempDir(), "key")).get()
				must(t, err)
				g.key = other.PublicKey()
			}
			g.start()
			guests := New(Options{Key: key, Password: func(context.Context, *v1.GoldenImage) (string, error) { return tc.given, nil }})
			sbx, img := sandboxAndImage(tc.mode)
			p := forwarded(g.port())
			p.name = tc.provider
			if tc.source != "" {
				p.machine.Addresses, p.machine.PortForwards = []v1.GuestAddress{{IP: "127.0.0.1", Source: tc.source}}, nil
				sbx.Spec.Readiness = v1.Readiness{Mode: v1.ReadinessSSH, Port: g.port()}
			}
			c := guests.Open(p, sbx, img)
			defer c.Close()
			_, err = c.Exec(within(t), sh("true"))
			switch {
			case tc.says == "" && err != nil:
				t.Error(err)
			case tc.says != "" && (providers.KindOf(err) != providers.ErrUnavailable || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("it says: %v", err)
			case err != nil && strings.Contains(err.Error(), secret):
				t.Errorf("the password is told: %v", err)
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if !slices.Equal(g.offered, tc.offered) {
				t.Errorf("passwords offered: %q, want %q", g.offered, tc.offered)
			}
		})
	}
}

// TestLost: what is under way fails, and later calls log in again.
func TestLost(t *testing.T) {
	g := newGuest(t).start()
	c := g.client()
	out := make(chan struct{})
	var once sync.Once
	req := sh("echo begun; sleep 60")
	req.Stdout = writerFunc(func(p []byte) (int, error) { once.Do(func() { close(out) }); return len(p), nil })
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(within(t), req)
		done <- err
	}()
	<-out
	g.hangUp()
	if err := <-done; providers.KindOf(err) != providers.ErrUnavailable {
		t.Errorf("got %v", err)
	}
	// It may take a moment until the end of the connection is noticed.
	eventually(t, "logged in again", func() bool {
		r, err := c.Exec(within(t), sh("exit 5"))
		if err != nil && providers.KindOf(err) != providers.ErrUnavailable {
			t.Fatal(err)
		}
		return err == nil && r.ExitCode == 5
	})
	g.mu.Lock()
	if g.logins != 2 {
		t.Errorf("%d logins", g.logins)
	}
	g.mu.Unlock()
	c.Close()
	if _, err := c.Exec(within(t), sh("true")); providers.KindOf(err) != providers.ErrUnavailable {
		t.Errorf("after Close: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// reported is a server that gets a line, answers by say with what the line's
// script would report with, and ends.
func reported(say func(ch xssh.Channel, mark string)) func(xssh.Channel) {
	return func(ch xssh.Channel) {
		var line []byte
		for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); {
			if _, err := ch.Read(b); err != nil {
				return
			}
			line = append(line, b[0])
		}
		_, rest, _ := strings.Cut(string(line), "'")
		id, _, _ := strings.Cut(rest, "'")
		say(ch, "\x01"+id+" ")
	}
}

// TestHostileGuest: whatever a guest answers, the outcome is an error of one
// printable line, or a context that ends.
func TestHostileGuest(t *testing.T) {
	both := func(ch xssh.Channel, text string) {
		_, _ = io.WriteString(ch, text)
		_, _ = io.WriteString(ch.Stderr(), text)
	}
	silent := func(ch xssh.Channel) { _, _ = io.Copy(io.Discard, ch) }
	for name, tc := range map[string]struct {
		change func(*guest)
		hangs  bool
	}{
		"no ssh":         {func(g *guest) { g.raw = func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400\x1b[31m\r\n\r\n") } }, false},
		"endless banner": {func(g *guest) { g.raw = func(c net.Conn) { endless(c) } }, false},
		"silence":        {func(g *guest) { g.raw = func(c net.Conn) { _, _ = io.Copy(io.Discard, c) } }, true},
		"no session":     {func(g *guest) { g.channel = func(c xssh.NewChannel) { _ = c.Reject(xssh.Prohibited, "no\x1b[31m\n") } }, false},
		"no answer":      {func(g *guest) { g.channel = func(xssh.NewChannel) {} }, true},
		"no shell":       {func(g *guest) { g.shell = []string{"/bin/false"} }, false},
		"greets and ends": {func(g *guest) {
			g.session = func(ch xssh.Channel) { _, _ = io.WriteString(ch, "bye") }
		}, false},
		"reads nothing":  {func(g *guest) { g.session = func(xssh.Channel) { time.Sleep(100 * time.Millisecond) } }, false},
		"says nothing":   {func(g *guest) { g.session = silent }, true},
		"endless output": {func(g *guest) { g.session = func(ch xssh.Channel) { endless(ch) } }, true},
		"endless output once begun": {func(g *guest) {
			g.session = reported(func(ch xssh.Channel, mark string) { both(ch, mark+"start\n"); endless(ch) })
		}, true},
		"endless report": {func(g *guest) {
			g.session = reported(func(ch xssh.Channel, mark string) { both(ch, mark); endless(ch) })
		}, true},
		"a code too large": {func(g *guest) { g.session = reported(func(ch xssh.Channel, m string) { both(ch, m+"done 256\n") }) }, false},
		"a negative code":  {func(g *guest) { g.session = reported(func(ch xssh.Channel, m string) { both(ch, m+"done -1\n") }) }, false},
		"an unknown reason": {func(g *guest) {
			g.session = reported(func(ch xssh.Channel, m string) { both(ch, m+"refused \x1b[31mred\n") })
		}, false},
		"half a report": {func(g *guest) {
			g.session = reported(func(ch xssh.Channel, m string) { _, _ = io.WriteString(ch, m+"done 0\n") })
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t)
			tc.change(g)
			c := g.start().client()
			c.g.limits = limits{start: patience, kill: time.Second, settle: 100 * time.Millisecond}
			patient := patience
			if tc.hangs {
				patient = 300 * time.Millisecond
			}
			for what, call := range map[string]func(context.Context) error{
				"exec": func(ctx context.Context) error {
					req := sh("true")
					req.Stdin, req.Stdout, req.MaxOutput = strings.NewReader(strings.Repeat("x", 100_000)), io.Discard, 1000
					_, err := c.Exec(ctx, req)
					return err
				},
				"exec without input": func(ctx context.Context) error {
					_, err := c.Exec(ctx, sh("true"))
					return err
				},
				"write":     func(ctx context.Context) error { return c.WriteFile(ctx, "/x", 0o644, strings.NewReader("x")) },
				"read":      func(ctx context.Context) error { _, err := c.ReadFile(ctx, "/x", io.Discard); return err },
				"configure": func(ctx context.Context) error { return c.ConfigureGuest(ctx, providers.GuestConfig{User: "root"}) },
			} {
				ctx, cancel := context.WithTimeout(context.Background(), patient)
				err := call(ctx)
				cancel()
				kind := providers.KindOf(err)
				switch {
				case err == nil:
					t.Errorf("%s: no error", what)
				case tc.hangs && err != context.DeadlineExceeded && kind == nil, !tc.hangs && kind == nil:
					t.Errorf("%s: %v", what, err)
				case strings.ContainsAny(err.Error(), "\x1b\n\x01") || len(err.Error()) > 600:
					t.Errorf("%s: not a printable line: %q", what, err)
				}
			}
		})
	}
}

// endless writes until nobody takes it any more.
func endless(w io.Writer) {
	text := bytes.Repeat([]byte("y"), 1<<15)
	for {
		if _, err := w.Write(text); err != nil {
			return
		}
	}
}

// TestHostileFiles: a guest that lies about a file delivers no more than it said.
func TestHostileFiles(t *testing.T) {
	for answer, want := range map[string]string{
		"ok 3 644\nabc":                 "abc",
		"ok 3 644\nabcd":                "",
		"ok 3 644\nab":                  "ab",
		"ok -3 644\n":                   "",
		"ok 3 9\nabc":                   "",
		"ok 99999999999999999999 644\n": "",
		"ok 3 644 x\nabc":               "",
		"done 0\n":                      "",
		"":                              "",
		strings.Repeat("o", 1<<20):      "",
		"ok 3 " + strings.Repeat("6", 200) + "\nabcde": "",
	} {
		g := newGuest(t)
		g.session = reported(func(ch xssh.Channel, m string) {
			_, _ = io.WriteString(ch, m+"start\n"+answer+m+"done 0\n")
			_, _ = io.WriteString(ch.Stderr(), m+"start\n"+m+"done 0\n")
		})
		c := g.start().client()
		var out bytes.Buffer
		_, err := c.ReadFile(within(t), "/x", &out)
		if good := want == "abc"; out.String() != want || good != (err == nil) || !good && providers.KindOf(err) != providers.ErrUnavailable {
			t.Errorf("%.40q: got %q, %v", answer, out.String(), err)
		}
		c.Close()
	}
}

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssh", "key")
	key := NewKey(path)
	lines := make([]string, 8)
	var wg sync.WaitGroup
	for i := range lines {
		wg.Go(func() {
			var err error
			if lines[i], err = key.Authorized(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again, err := NewKey(path).Authorized()
	must(t, err)
	for _, line := range append(lines, again) {
		if line != lines[0] || strings.ContainsAny(line, "\r\n") {
			t.Errorf("the keys are %q and %q", lines[0], line)
		}
	}
	if _, comment, _, _, err := xssh.ParseAuthorizedKey([]byte(lines[0])); err != nil || comment != "sandboxd" {
		t.Errorf("%q: %v", lines[0], err)
	}
	for p, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(p); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("there are %v, %v", left, err)
	}
	// A file that is no key is nobody's to overwrite.
	must(t, os.WriteFile(path, []byte("precious"), 0o600))
	if _, err := NewKey(path).Authorized(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that is no key: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("it holds %q, %v", b, err)
	}
}
