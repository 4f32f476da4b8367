package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/identity"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type fixture struct {
	t     *testing.T
	dir   string
	clock *clocktesting.FakePassiveClock
	*identity.Keeper
}

func open(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: filepath.Join(t.TempDir(), "pki"), clock: clocktesting.NewFakePassiveClock(start)}
	f.reopen()
	return f
}

func (f *fixture) reopen(names ...string) {
	f.t.Helper()
	k, err := identity.Open(identity.Options{Dir: f.dir, Clock: f.clock, Names: names})
	if err != nil {
		f.t.Fatal(err)
	}
	f.Keeper = k
}

func (f *fixture) pass(d time.Duration) { f.clock.SetTime(f.clock.Now().Add(d)) }

func (f *fixture) token(w identity.Wish) (identity.Credential, string) {
	f.t.Helper()
	c, token, err := f.IssueToken(w)
	if err != nil {
		f.t.Fatal(err)
	}
	return c, token
}

// certificate asks for one and returns it as a client has it.
func (f *fixture) certificate(w identity.Wish) (identity.Credential, *x509.Certificate) {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	// What the request says of itself counts for nothing.
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root", Organization: []string{"system:masters"}},
	}, key)
	if err != nil {
		f.t.Fatal(err)
	}
	c, raw, err := f.SignRequest(w, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		f.t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.t.Fatal(err)
	}
	return c, leaf
}

func bearer(token string) *http.Request {
	r, _ := http.NewRequest(http.MethodGet, "https://x/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func shown(leaf *x509.Certificate) *http.Request {
	r, _ := http.NewRequest(http.MethodGet, "https://x/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	return r
}

func (f *fixture) accepted(r *http.Request, user string, groups ...string) identity.Identity {
	f.t.Helper()
	id, err := f.Authenticate(r)
	if err != nil || id.User != user || !slices.Equal(id.Groups, groups) {
		f.t.Fatalf("the request is of %+v (%v) where %s of %v was expected", id.Credential, err, user, groups)
	}
	return id
}

func (f *fixture) refused(r *http.Request) {
	f.t.Helper()
	if id, err := f.Authenticate(r); !errors.Is(err, identity.ErrRefused) {
		f.t.Fatalf("the request was not refused: %+v, %v", id.Credential, err)
	}
}

func TestTokens(t *testing.T) {
	f := open(t)
	issued, token := f.token(identity.Wish{User: "alice", Groups: []string{"b", "a", "b"}, Life: time.Hour})
	id := f.accepted(bearer(token), "alice", "a", "b")
	_, other := f.token(identity.Wish{User: "bob"})
	f.accepted(bearer(other), "bob")
	none, _ := http.NewRequest(http.MethodGet, "https://x/", nil)
	if _, err := f.Authenticate(none); !errors.Is(err, identity.ErrNone) {
		t.Errorf("a request that shows nothing: %v", err)
	}
	parts := strings.Split(token, "_")
	for name, wrong := range map[string]string{
		"empty": "", "no token": "x", "other secret": strings.Join(parts[:2], "_") + "_" + strings.Repeat("A", 43),
		"a letter less": token[:len(token)-1], "a letter more": token + "A", "of another": parts[0] + "_" + parts[1] + "_" + strings.SplitN(other, "_", 3)[2],
		"no secret": strings.Join(parts[:2], "_") + "_", "unknown": parts[0] + "_0000000000000000_" + strings.Repeat("A", 43),
		"no hash": parts[0] + "_zz_", "long": token + strings.Repeat("x", 100_000), "without its prefix": strings.TrimPrefix(token, "sandboxd_"),
	} {
		t.Run(name, func(t *testing.T) { f.refused(bearer(wrong)) })
	}
	basic := bearer(token)
	basic.Header.Set("Authorization", "Basic "+token)
	f.refused(basic)

	// The files hold no secret.
	files, _ := filepath.Glob(f.dir + "/*")
	for _, file := range files {
		if raw, _ := os.ReadFile(file); strings.Contains(string(raw), strings.SplitN(token, "_", 3)[2]) {
			t.Errorf("%s holds a token", file)
		}
	}
	f.reopen()
	f.accepted(bearer(token), "alice", "a", "b")
	id = f.accepted(bearer(token), "alice", "a", "b")
	if _, err := f.Revoke(issued.ID); err != nil {
		t.Fatal(err)
	}
	f.refused(bearer(token))
	if id.Valid.Err() == nil {
		t.Error("what was begun with a revoked token goes on")
	}
	f.accepted(bearer(other), "bob")
	f.reopen()
	f.refused(bearer(token))
	if _, err := f.Revoke(issued.ID); !errors.Is(err, identity.ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	f := open(t)
	_, token := f.token(identity.Wish{User: "alice", Life: time.Hour})
	_, leaf := f.certificate(identity.Wish{User: "alice", Life: time.Hour})
	f.pass(time.Hour - time.Second)
	f.accepted(bearer(token), "alice")
	f.accepted(shown(leaf), "alice")
	f.pass(time.Second)
	f.refused(bearer(token))
	f.refused(shown(leaf))
	if n := len(f.List()); n != 2 {
		t.Errorf("%d credentials are on record", n)
	}
	f.pass(31 * 24 * time.Hour)
	f.token(identity.Wish{User: "bob"})
	if list := f.List(); len(list) != 1 || list[0].User != "bob" {
		t.Errorf("what expired long ago is still on record: %v", list)
	}
}

func TestCertificates(t *testing.T) {
	f := open(t)
	c, leaf := f.certificate(identity.Wish{User: "alice", Groups: []string{"team"}, Life: time.Hour})
	if leaf.Subject.CommonName != "alice" || !slices.Equal(leaf.Subject.Organization, []string{"team"}) || leaf.IsCA {
		t.Errorf("the certificate is for %v", leaf.Subject)
	}
	if got := leaf.NotAfter.Sub(start); got != time.Hour {
		t.Errorf("the certificate is valid for %v", got)
	}
	f.accepted(shown(leaf), "alice", "team")
	_, bob := f.certificate(identity.Wish{User: "bob"})
	f.accepted(shown(bob), "bob")

	foreign := open(t)
	_, stranger := foreign.certificate(identity.Wish{User: "alice", Groups: []string{"team"}})
	f.refused(shown(stranger))
	f.refused(shown(f.forged(func(c *x509.Certificate) {})))
	f.refused(shown(f.forged(func(c *x509.Certificate) {
		c.SerialNumber = leaf.SerialNumber
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})))
	f.refused(shown(f.forged(func(c *x509.Certificate) { c.SerialNumber = leaf.SerialNumber; c.NotAfter = start.Add(-time.Second) })))

	if gone, err := f.Revoke("alice"); err != nil || len(gone) != 1 || gone[0].ID != c.ID {
		t.Fatalf("revoked %v: %v", gone, err)
	}
	f.refused(shown(leaf))
	f.accepted(shown(bob), "bob")
	if _, _, err := f.SignRequest(identity.Wish{User: "x"}, []byte("nonsense")); !errors.Is(err, identity.ErrInvalid) {
		t.Errorf("nonsense was signed: %v", err)
	}
}

// forged is a certificate that somebody signs who has the authority's key, and
// that nobody has recorded.
func (f *fixture) forged(change func(*x509.Certificate)) *x509.Certificate {
	f.t.Helper()
	raw, err := os.ReadFile(filepath.Join(f.dir, "authorities.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	var stored struct {
		Current struct{ Certificate, Key string }
	}
	if err := json.Unmarshal(raw, &stored); err != nil {
		f.t.Fatal(err)
	}
	ca, err := tls.X509KeyPair([]byte(stored.Current.Certificate), []byte(stored.Current.Key))
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(1), 126), Subject: pkix.Name{CommonName: "alice"},
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, ca.PrivateKey.(*ecdsa.PrivateKey).Public(), ca.PrivateKey)
	if err != nil {
		f.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return leaf
}

// serving is the certificate that a client sees.
func (f *fixture) serving() *x509.Certificate {
	f.t.Helper()
	c, err := f.TLSConfig().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		f.t.Fatal(err)
	}
	return c.Leaf
}

// trusts tells whether a client with these authorities believes the daemon.
func (f *fixture) trusts(authorities []byte) bool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authorities)
	_, err := f.serving().Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost", CurrentTime: f.clock.Now()})
	return err == nil
}

func TestRenewal(t *testing.T) {
	f := open(t)
	authorities := f.Authorities()
	first := f.serving()
	f.pass(59 * 24 * time.Hour)
	if !f.serving().Equal(first) {
		t.Error("the certificate was renewed too early")
	}
	f.reopen()
	if !f.serving().Equal(first) {
		t.Error("a restart makes another certificate")
	}
	f.pass(2 * 24 * time.Hour)
	second := f.serving()
	if second.Equal(first) || second.NotAfter.Sub(f.clock.Now()) < 89*24*time.Hour || !f.trusts(authorities) {
		t.Errorf("a month before its end the certificate is not renewed: %v", second.NotAfter)
	}
	f.reopen("sandboxes.example.org", "192.0.2.7", "0.0.0.0")
	third := f.serving()
	if third.VerifyHostname("sandboxes.example.org") != nil || third.VerifyHostname("192.0.2.7") != nil || third.VerifyHostname("::1") != nil || third.VerifyHostname("127.0.0.1") != nil {
		t.Errorf("the certificate is for %v and %v", third.DNSNames, third.IPAddresses)
	}
	if host, err := os.Hostname(); err == nil && third.VerifyHostname(host) != nil {
		t.Errorf("the certificate is not for %s", host)
	}
	if slices.ContainsFunc(third.IPAddresses, net.IP.IsUnspecified) {
		t.Error("the certificate is for no address")
	}
}

func TestRotation(t *testing.T) {
	f := open(t)
	old := f.Authorities()
	_, before := f.certificate(identity.Wish{User: "before"})
	_, token := f.token(identity.Wish{User: "token"})
	r, err := f.Rotate(10 * 24 * time.Hour)
	if err != nil || !r.PreviousUntil.Equal(start.Add(10*24*time.Hour)) {
		t.Fatalf("%+v: %v", r, err)
	}
	both := f.Authorities()
	_, after := f.certificate(identity.Wish{User: "after"})
	for _, again := range []bool{false, true} {
		if again {
			f.reopen()
		}
		if i := f.accepted(shown(before), "before"); !i.Expires.Equal(r.PreviousUntil) {
			t.Errorf("what the old authority signed counts until %v", i.Expires)
		}
		if i := f.accepted(shown(after), "after"); !i.Expires.After(r.PreviousUntil) {
			t.Errorf("what the new authority signed counts until %v", i.Expires)
		}
		f.accepted(bearer(token), "token")
		if !f.trusts(old) || !f.trusts(both) {
			t.Error("during the overlap somebody does not believe the daemon")
		}
	}
	if _, err := f.Rotate(time.Hour); !errors.Is(err, identity.ErrRotating) {
		t.Errorf("rotated twice: %v", err)
	}
	f.pass(10*24*time.Hour - time.Second)
	f.accepted(shown(before), "before")
	f.pass(time.Second)
	f.refused(shown(before))
	if f.trusts(old) || !f.trusts(both) || !f.trusts(f.Authorities()) {
		t.Error("after the overlap the daemon still shows the old authority's certificate")
	}
	f.refused(shown(before))
	f.accepted(shown(after), "after")
	f.accepted(bearer(token), "token")

	// At once: nothing that was signed before counts.
	id := f.accepted(shown(after), "after")
	if _, err := f.Rotate(0); err != nil {
		t.Fatal(err)
	}
	f.refused(shown(after))
	if id.Valid.Err() == nil || f.trusts(both) || !f.trusts(f.Authorities()) {
		t.Error("an authority that was taken out of force still counts")
	}
	f.accepted(bearer(token), "token")
	if _, err := f.Rotate(-1); err == nil {
		t.Error("a negative overlap was accepted")
	}
}

func TestFiles(t *testing.T) {
	f := open(t)
	f.token(identity.Wish{User: "a"})
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	if info, _ := os.Stat(f.dir); info.Mode().Perm() != 0o700 {
		t.Errorf("a folder that is open stays so: %v", info.Mode())
	}
	for _, name := range []string{"authorities.json", "credentials.json"} {
		raw, err := os.ReadFile(filepath.Join(f.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.dir, name), raw[:len(raw)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Open(identity.Options{Dir: f.dir, Clock: f.clock}); err == nil || !strings.Contains(err.Error(), name+" is damaged") {
			t.Errorf("damaged %s: %v", name, err)
		}
		if err := os.WriteFile(filepath.Join(f.dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A damaged serving certificate is only made again.
	if err := os.WriteFile(filepath.Join(f.dir, "serving.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	if !f.trusts(f.Authorities()) {
		t.Error("the daemon is not believed")
	}
}

// TestRotationEnds: who came in by the old authority's certificate before the
// rotation is sent away after the overlap.
func TestRotationEnds(t *testing.T) {
	f := open(t)
	_, old := f.certificate(identity.Wish{User: "old"})
	begun := f.accepted(shown(old), "old")
	if _, err := f.Rotate(time.Hour); err != nil {
		t.Fatal(err)
	}
	_, made := f.certificate(identity.Wish{User: "new"})
	later := f.accepted(shown(made), "new")
	f.pass(time.Hour - time.Second)
	if !f.trusts(f.Authorities()) || begun.Valid.Err() != nil {
		t.Error("it was sent away during the overlap")
	}
	f.pass(time.Second)
	if !f.trusts(f.Authorities()) || begun.Valid.Err() == nil || later.Valid.Err() != nil { // a connection comes
		t.Errorf("after the overlap the old one ended with %v, the new one with %v", begun.Valid.Err(), later.Valid.Err())
	}
}
