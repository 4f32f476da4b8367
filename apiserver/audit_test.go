package apiserver_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
)

// events are the recorded ones, read strictly as audit.k8s.io/v1.
func (l *lines) events(t testing.TB) []auditv1.Event {
	t.Helper()
	var events []auditv1.Event
	for _, line := range l.take() {
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		var e auditv1.Event
		if err := d.Decode(&e); err != nil || strings.Contains(line, "\n") {
			t.Fatalf("%s: %v", line, err)
		}
		if e.Kind != "Event" || e.APIVersion != "audit.k8s.io/v1" || e.Level != auditv1.LevelMetadata || e.AuditID == "" ||
			e.RequestReceivedTimestamp.IsZero() || e.StageTimestamp.Before(&e.RequestReceivedTimestamp) || e.RequestObject != nil {
			t.Errorf("the event is %s", line)
		}
		events = append(events, e)
	}
	return events
}

// auditedHost has an exec that does nothing.
func auditedHost(t testing.TB, change ...func(*apiserver.Options)) *host {
	return newHost(t, append(change, func(o *apiserver.Options) {
		nothing := func(w http.ResponseWriter, _ *http.Request, _ *unstructured.Unstructured) {
			w.WriteHeader(http.StatusTeapot)
		}
		for _, name := range []string{"exec", "archive", "log"} {
			o.Subresources = append(o.Subresources, apiserver.Subresource{
				Resource: v1.Resource("sandboxes"), Name: name, Methods: []string{"GET", "POST"}, Handler: nothing,
			})
		}
		o.Endpoints = []apiserver.Endpoint{{Path: "admin", Methods: []string{"GET", "POST"}, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			apiserver.Annotate(r.Context(), "granted", "a lot")
		})}}
	})...)
}

// TestAudit: what changes something, reaches into a guest or takes everything
// away is on record, also when it was refused; reading is not.
func TestAudit(t *testing.T) {
	h := auditedHost(t)
	h.bind("alice", "sandboxd:user", "default")
	alice, admin := h.token("alice"), h.bound("admin", "cluster-admin")
	ask(t, alice, "POST", sandboxes, sandbox("one"))
	h.audit.take()
	exec := sandboxes + "/one/exec?command=login&command=--password&command=s3cret&env=TOKEN%3Ds3cret&stdin=true"
	for _, c := range []struct {
		name, method, path string
		body               any
		admin              bool
		headers            []string
		want               []string // of each event: stage verb resource/sub namespace/name code decision
	}{
		{"create", "POST", sandboxes, sandbox("two"), false, nil, []string{"ResponseComplete create sandboxes/ default/two 201 allow"}},
		{"dry run", "POST", sandboxes + "?dryRun=All", sandbox("dry"), false, nil, []string{"ResponseComplete create sandboxes/ default/dry 201 allow dry"}},
		{"refused body", "POST", sandboxes, "x", false, nil, []string{"ResponseComplete create sandboxes/ default/ 400 allow"}},
		{"denied", "DELETE", "/api/v1/namespaces/other/secrets/x", nil, false, nil, []string{"ResponseComplete delete secrets/ other/x 403 forbid"}},
		{"patch", "PATCH", sandboxes + "/two", `{"metadata":{"labels":{"a":"b"}}}`, false, []string{"Content-Type", mergePatch}, []string{"ResponseComplete patch sandboxes/ default/two 200 allow"}},
		{"exec", "GET", exec, nil, false, nil, []string{"RequestReceived get sandboxes/exec default/one 0 ", "ResponseComplete get sandboxes/exec default/one 418 allow"}},
		{"exec denied", "POST", strings.Replace(exec, "default", "other", 1), nil, false, nil, []string{"ResponseComplete create sandboxes/exec other/one 403 forbid"}},
		{"copy out", "GET", sandboxes + "/one/archive?path=/etc", nil, false, nil, []string{"ResponseComplete get sandboxes/archive default/one 418 allow"}},
		{"acting as another", "DELETE", sandboxes + "/two", nil, true, []string{"Impersonate-User", "alice"}, []string{"ResponseComplete delete sandboxes/ default/two 200 allow as alice"}},
		{"acting refused", "DELETE", sandboxes + "/two", nil, false, []string{"Impersonate-User", "bob"}, []string{"ResponseComplete delete sandboxes/ default/two 403 forbid"}},
		{"backup", "GET", "/admin/backup", nil, true, nil, []string{"ResponseComplete get / / 200 allow"}},
		{"admin", "POST", "/admin/users", nil, true, nil, []string{"ResponseComplete post / / 200 allow"}},
		{"get", "GET", sandboxes + "/one", nil, false, nil, nil},
		{"list", "GET", sandboxes, nil, false, nil, nil},
		{"denied list", "GET", "/api/v1/secrets", nil, false, nil, nil},
		{"log", "GET", sandboxes + "/one/log", nil, false, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			who, user := alice, "alice"
			if c.admin {
				who, user = admin, "admintestaudit"
			}
			ask(t, who, c.method, c.path, c.body, c.headers...)
			var got []string
			for _, e := range h.audit.events(t) {
				ref := auditv1.ObjectReference{}
				if e.ObjectRef != nil {
					ref = *e.ObjectRef
				}
				code := int32(0)
				if e.ResponseStatus != nil {
					code = e.ResponseStatus.Code
				}
				text := strings.Join([]string{string(e.Stage), e.Verb, ref.Resource + "/" + ref.Subresource, ref.Namespace + "/" + ref.Name}, " ") +
					" " + strings.TrimSpace(string(mustJSON(t, code))) + " " + e.Annotations["authorization.k8s.io/decision"]
				if e.Annotations["audit.sandboxd.dev/dry-run"] == "All" {
					text += " dry"
				}
				if e.ImpersonatedUser != nil {
					text += " as " + e.ImpersonatedUser.Username
				}
				got = append(got, text)
				if e.User.Username != user || len(e.SourceIPs) != 1 || e.SourceIPs[0] != "127.0.0.1" {
					t.Errorf("it is of %s from %v", e.User.Username, e.SourceIPs)
				}
				if strings.Contains(e.RequestURI, "s3cret") || strings.Contains(c.path, "command=") && !strings.Contains(e.RequestURI, "command=login") {
					t.Errorf("the address on record is %s", e.RequestURI)
				}
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("on record is\n%s\nwhere\n%s\nwas expected", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
	whole := auditedHost(t, func(o *apiserver.Options) { o.Audit.Commands = true })
	ask(t, whole.bound("admin", "cluster-admin"), "POST", sandboxes, sandbox("one"))
	whole.audit.take()
	ask(t, whole.bound("admin", "cluster-admin"), "GET", exec, nil)
	for _, e := range whole.audit.events(t) {
		if !strings.Contains(e.RequestURI, "s3cret") {
			t.Errorf("with all commands asked for the address is %s", e.RequestURI)
		}
	}
	// What the daemon does by itself is not on record.
	if _, err := clientset(t, h.server.LoopbackConfig()).CoreV1().Secrets("default").Create(t.Context(), secretNamed("own"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := h.audit.take(); len(got) != 0 {
		t.Errorf("the daemon's own writes are on record: %v", got)
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestAuditID: every answer says under which name it is on record.
func TestAuditID(t *testing.T) {
	h := auditedHost(t)
	config := h.bound("admin", "cluster-admin")
	client := httpClient(t, config)
	response, err := client.Post(config.Host+sandboxes, "application/json", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	events := h.audit.events(t)
	if len(events) != 1 || string(events[0].AuditID) != response.Header.Get("Audit-Id") {
		t.Errorf("the answer's ID is %q, on record is %v", response.Header.Get("Audit-Id"), events)
	}
}

// TestAuditThatCannotBeKept: what cannot be recorded is not done, except for
// deletions, which make room; reading goes on.
func TestAuditThatCannotBeKept(t *testing.T) {
	h := auditedHost(t)
	config := h.bound("admin", "cluster-admin")
	if code, body := ask(t, config, "POST", sandboxes, sandbox("one")); code != 201 {
		t.Fatalf("%d %s", code, body)
	}
	h.audit.mu.Lock()
	h.audit.broken = errors.New("audit log x: no space left on device")
	h.audit.mu.Unlock()
	for _, c := range []struct {
		method, path string
		body         any
		code         int
	}{
		{"POST", sandboxes, sandbox("two"), 507},
		{"GET", sandboxes + "/one/exec", nil, 507},
		{"PUT", sandboxes + "/one", sandbox("one"), 507},
		{"GET", sandboxes + "/one", nil, 200},
		{"GET", sandboxes, nil, 200},
		{"DELETE", sandboxes + "/one", nil, 200},
	} {
		code, body := ask(t, config, c.method, c.path, c.body)
		if code != c.code || code == 507 && !strings.Contains(body, "no space left on device") {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, body)
		}
	}
}
