package apiserver_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

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
	const strangers, oldest = 400, 100
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
	for _, c := range conns[:oldest] {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			ended++
		}
	}
	if ended < oldest {
		t.Errorf("%d of the oldest %d connections were ended", ended, oldest)
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
