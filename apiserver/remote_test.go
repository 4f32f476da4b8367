package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/identity"
)

// known is an Authenticator of a Keeper.
type known struct{ *identity.Keeper }

func (k known) Authenticate(r *http.Request) (apiserver.Login, error) {
	return loginOf(k.Keeper.Authenticate(r))
}

func (k known) AuthenticateToken(_ context.Context, token string) (apiserver.Login, error) {
	return loginOf(k.Keeper.AuthenticateToken(token))
}

func loginOf(i identity.Identity, err error) (apiserver.Login, error) {
	if errors.Is(err, identity.ErrNone) {
		return apiserver.Login{}, apiserver.ErrUnauthenticated
	}
	return apiserver.Login{User: apiserver.User{Name: i.User, Groups: i.Groups}, Until: i.Expires, Valid: i.Valid}, err
}

// lines is an Auditor.
type lines struct {
	mu     sync.Mutex
	all    []string
	broken error
}

func (l *lines) Ready() error { l.mu.Lock(); defer l.mu.Unlock(); return l.broken }

func (l *lines) Record(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(line))
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.all
	l.all = nil
	return taken
}

// host is a server that is reached over TLS.
type host struct {
	t       testing.TB
	server  *apiserver.Server
	keeper  *identity.Keeper
	clock   *clocktesting.FakePassiveClock
	address string
	audit   *lines
}

func newHost(t testing.TB, change ...func(*apiserver.Options)) *host {
	t.Helper()
	h := &host{t: t, clock: clocktesting.NewFakePassiveClock(time.Now()), audit: &lines{}}
	var err error
	if h.keeper, err = identity.Open(identity.Options{Dir: filepath.Join(t.TempDir(), "pki"), Clock: h.clock}); err != nil {
		t.Fatal(err)
	}
	h.server = newServer(t, append(change, func(o *apiserver.Options) {
		o.Authenticator, o.RBAC, o.Audit.Log = known{h.keeper}, true, h.audit
	})...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.server.ServeTLS(ctx, l, h.keeper.TLSConfig()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	})
	return h
}

// stranger reaches the server without a credential.
func (h *host) stranger() *rest.Config {
	return &rest.Config{Host: "https://" + h.address, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: h.keeper.Authorities()}}
}

func (h *host) token(user string, groups ...string) *rest.Config {
	h.t.Helper()
	_, token, err := h.keeper.IssueToken(identity.Wish{User: user, Groups: groups})
	if err != nil {
		h.t.Fatal(err)
	}
	config := h.stranger()
	config.BearerToken = token
	return config
}

func (h *host) certificate(user string, groups ...string) *rest.Config {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		h.t.Fatal(err)
	}
	_, certificate, err := h.keeper.SignRequest(identity.Wish{User: user, Groups: groups}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}))
	if err != nil {
		h.t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		h.t.Fatal(err)
	}
	config := h.stranger()
	config.CertData, config.KeyData = certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return config
}

func clientset(t testing.TB, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bind gives a role, in a namespace or everywhere.
func (h *host) bind(user, role, namespace string) {
	h.t.Helper()
	c := clientset(h.t, h.server.LoopbackConfig()).RbacV1()
	meta := metav1.ObjectMeta{Name: user + ":" + role, Namespace: namespace}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}}
	var err error
	if namespace == "" {
		_, err = c.ClusterRoleBindings().Create(h.t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	} else {
		_, err = c.RoleBindings(namespace).Create(h.t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func httpClient(t testing.TB, config *rest.Config) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client.Timeout = patience
	return client
}

// ask sends one request and returns the answer's code and body.
func ask(t testing.TB, config *rest.Config, method, path string, body any, headers ...string) (int, string) {
	t.Helper()
	client := httpClient(t, config)
	var reader io.Reader
	if body != nil {
		raw, ok := body.(string)
		if !ok {
			b, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			raw = string(b)
		}
		reader = strings.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Content-Type" {
			r.Header.Del(headers[i])
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(raw)
}

// TestWhoComesIn: over TCP only who shows a credential of the daemon's own is
// served, but for what Kubernetes shows everybody too.
func TestWhoComesIn(t *testing.T) {
	h, other := newHost(t), newHost(t)
	const secrets = "/api/v1/namespaces/default/secrets"
	h.bind("alice", "sandboxd:user", "default")
	for name, config := range map[string]*rest.Config{"token": h.token("alice"), "certificate": h.certificate("alice")} {
		if code, body := ask(t, config, "GET", secrets, nil); code != 200 {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	foreign := other.certificate("alice")
	foreign.Host, foreign.CAData = "https://"+h.address, h.keeper.Authorities()
	wrong := h.token("alice")
	wrong.BearerToken += "x"
	basic := h.stranger()
	basic.Username, basic.Password = "alice", "x"
	revoked := h.token("bob")
	if _, err := h.keeper.Revoke("bob"); err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*rest.Config{
		"nothing": h.stranger(), "a foreign certificate": foreign, "a wrong token": wrong, "a password": basic, "a revoked token": revoked,
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			code, body := ask(t, config, method, secrets, nil)
			var status metav1.Status
			if err := json.Unmarshal([]byte(body), &status); err != nil || code != 401 || status.Message != "Unauthorized" || status.Reason != metav1.StatusReasonUnauthorized || status.Code != 401 {
				t.Errorf("%s: %s is answered %d %s", name, method, code, body)
			}
		}
		for _, path := range []string{"/version", "/healthz", "/livez", "/readyz"} {
			want := 401
			if name == "nothing" {
				want = 200
			}
			if code, body := ask(t, config, "GET", path, nil); code != want {
				t.Errorf("%s: %s is answered %d %s", name, path, code, body)
			}
		}
		for _, path := range []string{"/api", "/apis", "/openapi/v3", "/metrics", "/admin/users", "/version/x", "/"} {
			if code, body := ask(t, config, "GET", path, nil); code != 401 {
				t.Errorf("%s: %s is answered %d %s", name, path, code, body)
			}
		}
	}
	if lines := h.audit.take(); len(lines) != 0 {
		t.Errorf("strangers write into the audit log: %v", lines)
	}
	h.clock.SetTime(h.clock.Now().Add(366 * 24 * time.Hour))
	late := h.token("alice")
	h.clock.SetTime(h.clock.Now().Add(366 * 24 * time.Hour))
	late.CAData, late.Insecure = nil, true // the client's own clock is another one
	if code, _ := ask(t, late, "GET", secrets, nil); code != 401 {
		t.Errorf("a token that is over is answered %d", code)
	}
}

// TestForbidden: what a role does not allow is refused in Kubernetes' words.
func TestForbidden(t *testing.T) {
	h := newHost(t)
	h.bind("alice", "sandboxd:user", "default")
	c := clientset(t, h.certificate("alice"))
	if _, err := c.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	_, err := c.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	const cluster = `secrets is forbidden: User "alice" cannot list resource "secrets" in API group "" at the cluster scope`
	if !apierrors.IsForbidden(err) || err.Error() != cluster {
		t.Errorf("all namespaces: %v", err)
	}
	_, err = c.CoreV1().Secrets("other").Get(t.Context(), "x", metav1.GetOptions{})
	const single = `secrets "x" is forbidden: User "alice" cannot get resource "secrets" in API group "" in the namespace "other"`
	if !apierrors.IsForbidden(err) || err.Error() != single {
		t.Errorf("another namespace: %v", err)
	}
	_, err = c.CoreV1().Secrets("other").Watch(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a watch: %v", err)
	}
	code, body := ask(t, h.token("alice"), "GET", "/metrics", nil)
	if code != 403 || !strings.Contains(body, `forbidden: User \"alice\" cannot get path \"/metrics\"`) {
		t.Errorf("a path: %d %s", code, body)
	}
	// The right to get alone does not reach into a guest: WebSockets begin with GET.
	h.bind("peeker", "peek", "default")
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "peek"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	}}
	if _, err := clientset(t, h.server.LoopbackConfig()).RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	code, body = ask(t, h.token("peeker"), "GET", sandboxes+"/one/exec?command=id", nil)
	if code != 403 || !strings.Contains(body, `cannot create resource \"sandboxes/exec\"`) {
		t.Errorf("reaching in with the right to get: %d %s", code, body)
	}
	// A withdrawn right counts for the next request.
	if err := clientset(t, h.server.LoopbackConfig()).RbacV1().RoleBindings("default").Delete(t.Context(), "alice:sandboxd:user", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without the binding: %v", err)
	}
}

// TestTLS: HTTP/2 and HTTP/1.1 are spoken, old TLS is not.
func TestTLS(t *testing.T) {
	h := newHost(t)
	for _, protocol := range []string{"h2", "http/1.1"} {
		config := h.token("alice")
		config.NextProtos = []string{protocol}
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Get(config.Host + "/api")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != 200 || (response.ProtoMajor == 2) != (protocol == "h2") {
			t.Errorf("%s: %s %s", protocol, response.Proto, response.Status)
		}
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		conn, err := tls.Dial("tcp", h.address, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}) //nolint:gosec // old ones on purpose
		if (err == nil) != (version >= tls.VersionTLS12) {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	// What is not TLS at all is not answered with anything of the API.
	response, err := http.Get("http://" + h.address + "/version")
	if err == nil {
		_ = response.Body.Close()
		if response.StatusCode != 400 {
			t.Errorf("without TLS: %s", response.Status)
		}
	}
}

// TestStrangersAtTheDoor: connections of clients that show nothing are bounded,
// and keep nobody out.
func TestStrangersAtTheDoor(t *testing.T) {
	h := newHost(t)
	member := h.token("alice")
	client, err := rest.HTTPClientFor(member)
	if err != nil {
		t.Fatal(err)
	}
	api := func() {
		t.Helper()
		response, err := client.Get(member.Host + "/api")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if response.StatusCode != 200 {
			t.Fatalf("a member is answered %s", response.Status)
		}
	}
	api()
	const strangers = 600
	var ended int
	conns := make([]net.Conn, 0, strangers)
	for range strangers {
		c, err := net.Dial("tcp", h.address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		conns = append(conns, c)
	}
	code, _ := ask(t, h.token("bob"), "GET", "/api", nil) // a new member
	if code != 200 {
		t.Errorf("a new member is answered %d", code)
	}
	api() // on the connection from before
	for _, c := range conns[:strangers/2] {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			ended++
		}
	}
	if ended < strangers/2 {
		t.Errorf("%d of the oldest %d connections were ended", ended, strangers/2)
	}
}

// TestWatchGoesOn: neither a renewal of the serving certificate nor a rotation
// ends a watch; revoking its credential does.
func TestWatchGoesOn(t *testing.T) {
	h := newHost(t)
	h.bind("alice", "sandboxd:user", "default")
	c := clientset(t, h.token("alice"))
	w, err := c.CoreV1().Secrets("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	local := clientset(t, h.server.LoopbackConfig())
	n := 0
	seen := func() {
		t.Helper()
		n++
		if _, err := local.CoreV1().Secrets("default").Create(t.Context(), secretNamed(fmt.Sprintf("s%d", n)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		select {
		case e, ok := <-w.ResultChan():
			if !ok || e.Type != "ADDED" {
				t.Fatalf("the watch got %v", e)
			}
		case <-time.After(patience):
			t.Fatal("the watch is silent")
		}
	}
	seen()
	old := h.keeper.Authorities()
	before, err := h.serial(old)
	if err != nil {
		t.Fatal(err)
	}
	h.clock.SetTime(h.clock.Now().Add(70 * 24 * time.Hour))
	if after, err := h.serial(old); err != nil || after == before {
		t.Errorf("the certificate was not renewed: %v", err)
	}
	seen()
	if _, err := h.keeper.Rotate(time.Hour); err != nil {
		t.Fatal(err)
	}
	seen()
	both := h.keeper.Authorities()
	for name, authorities := range map[string][]byte{"old": old, "new": both} {
		if _, err := h.serial(authorities); err != nil {
			t.Errorf("during the overlap the %s kubeconfig: %v", name, err)
		}
	}
	h.clock.SetTime(h.clock.Now().Add(2 * time.Hour))
	if _, err := h.serial(both); err != nil {
		t.Errorf("after the overlap the new kubeconfig: %v", err)
	}
	if _, err := h.serial(old); err == nil {
		t.Error("after the overlap the old authority still counts")
	}
	seen()
	if _, err := h.keeper.Revoke("alice"); err != nil {
		t.Fatal(err)
	}
	select {
	case e, ok := <-w.ResultChan():
		if ok {
			t.Errorf("after the revocation the watch got %v", e)
		}
	case <-time.After(patience):
		t.Error("a watch goes on with a revoked token")
	}
}

// serial is that of the certificate that a new client sees, who believes these
// authorities.
func (h *host) serial(authorities []byte) (string, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authorities)
	conn, err := tls.Dial("tcp", h.address, &tls.Config{RootCAs: pool, Time: h.clock.Now})
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}
