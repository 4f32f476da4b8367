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
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
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
