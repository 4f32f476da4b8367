package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// FuzzRequest throws requests at the server. Whatever comes, it answers: with
// JSON that is a Status when it refuses, and never with an internal error.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", sandboxes, "", ""},
		{"GET", sandboxes + "?labelSelector=a%20in%20(b,c)&fieldSelector=spec.image%21=x", "", ""},
		{"GET", sandboxes + "/one", asTable, ""},
		{"GET", sandboxes + "?limit=1&continue=eyJydiI6LTEsIm5zIjoiZGVmYXVsdCIsIm5hbWUiOiJhIiwibGlzdCI6IjAwIn0", asTable, ""},
		{"GET", "/apis/events.k8s.io/v1/events?fieldSelector=regarding.name=a", asPartialList, ""},
		{"GET", "/openapi/v3/apis/sandboxd.dev/v1?hash=0", "", ""},
		{"GET", "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", ""},
		{"POST", sandboxes + "?dryRun=All&fieldValidation=Strict", "application/json", sandboxJSON("x")},
		{"POST", sandboxes, "application/yaml", "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: y}\nspec: {image: tiny, memory: 1Gi}"},
		{"POST", events, "application/json", coreEvent("e", "a")},
		{"POST", secrets, "application/json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"a":"b"},"data":{"c":"ZA=="}}`},
		{"POST", namespaces, "application/vnd.kubernetes.protobuf", "k8s\x00\n\x0f\n\x02v1\x12\tNamespace\x12\x07\n\x05\n\x01n*\x00"},
		{"PUT", sandboxes + "/one", "application/json", sandboxJSON("one")},
		{"PATCH", sandboxes + "/one", mergePatch, `{"metadata":{"managedFields":[{}],"ownerReferences":[{"uid":"u"}]},"spec":{"network":{"mode":"nat"}}}`},
		{"PATCH", sandboxes + "/one", jsonPatch, `[{"op":"copy","from":"/metadata","path":"/spec/cloudInit"},{"op":"move","from":"/spec/image","path":"/spec/x"}]`},
		{"PATCH", sandboxes + "/one?fieldManager=m&force=true", applyPatch, applied("one", "{image: tiny, network: {portForwards: [{name: a, guestPort: 1}]}}")},
		{"PATCH", sandboxes + "/one/status?fieldManager=m", applyPatch, "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nstatus: {conditions: [{type: A}]}"},
		{"PATCH", namespaces + "/default", strategicPatch, `{"metadata":{"finalizers":[{"$patch":"delete"}],"$setElementOrder/finalizers":[1]},"status":{"conditions":[{"type":"a","$patch":"replace"}]}}`},
		{"DELETE", sandboxes + "?labelSelector=a", "application/json", `{"kind":"DeleteOptions","preconditions":{"uid":"x"},"dryRun":["All"]}`},
		{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "application/json", `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"u","extra":{"a":["b"]},"resourceAttributes":{"verb":"get"}}}`},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "application/yaml", "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectRulesReview\nspec: {namespace: default}"},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", "application/json", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"t"}}`},
		{"POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "application/json", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"a:b"},"roleRef":{"kind":"ClusterRole","name":"c"},"subjects":[{"kind":"User","name":"u"}]}`},
		{"GET", "/apis/sandboxd.dev/v1/namespaces/%2e%2e/sandboxes/%00", "", ""},
		{"GET", sandboxes + "?watch=true&timeoutSeconds=1&resourceVersion=9999999", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	server := newServer(f)
	handler := server.Handler()
	f.Fuzz(func(t *testing.T, method, path, media, body string) {
		a := api{t: t, handler: handler}
		if !strings.HasPrefix(path, "/") || strings.Contains(path, "watch") && !strings.Contains(path, "resourceVersion=9999999") {
			return // a watch of what is there would go on
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		u, err := r.URL.Parse(path)
		if err != nil || u.Host != "" {
			return
		}
		r.URL, r.Method = u, method
		r.Header.Set("Content-Type", media)
		r.Header.Set("Accept", media)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 && !contains([]int{501, 503, 504, 507}, w.Code) {
			t.Fatalf("%s %s was answered with %s", method, path, w.Body)
		}
		if w.Code >= 400 {
			var status struct {
				Kind, Message, Reason string
				Code                  int
			}
			if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil || status.Kind != "Status" || status.Code != w.Code || status.Message == "" {
				t.Fatalf("%s %s was refused with %d and %s", method, path, w.Code, w.Body)
			}
		}
		// What is stored can be read again, and is as strict readers want it.
		if method != "GET" && w.Code < 300 && strings.HasPrefix(path, sandboxes+"/one") && !strings.Contains(path, "?") {
			one := a.get(sandboxes + "/one")
			if one.code == 200 {
				if got := a.do("PUT", sandboxes+"/one?fieldValidation=Strict", one.body); got.code >= 400 {
					t.Fatalf("what was stored cannot be stored again: %s", got.body)
				}
			}
		}
		if a.get(sandboxes+"/one").code == 404 {
			a.do("POST", sandboxes, sandbox("one"))
		}
	})
}

// FuzzRaw throws bytes at a connection. What is answered is HTTP, every refusal of
// the server itself is a Status, and the next client is served.
func FuzzRaw(f *testing.F) {
	body := sandboxJSON("raw")
	for _, seed := range []string{
		"GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET " + sandboxes + "?labelSelector=a HTTP/1.0\r\n\r\n",
		"POST " + sandboxes + " HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\nContent-Type: application/yaml\r\n\r\n" + body,
		"POST " + sandboxes + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\n{\"a\":\r\n0\r\nX: y\r\n\r\n",
		"PATCH " + sandboxes + "/one?fieldManager=m HTTP/1.1\r\nHost: x\r\nContent-Type: application/apply-patch+yaml\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
		"GET " + sandboxes + "/one/exec?command=a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
		"GET " + sandboxes + "?watch=1&timeoutSeconds=1 HTTP/1.1\r\nHost: x\r\nAccept: " + asTable + "\r\n\r\n",
		"DELETE " + namespaces + "/default HTTP/1.1\r\nHost: x\r\nImpersonate-User: a\r\nAuthorization: Bearer b\r\nContent-Encoding: gzip\r\n\r\nGET / HTTP/1.1\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /version HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	config := newServer(f).LoopbackConfig()
	f.Fuzz(func(t *testing.T, sent []byte) {
		exchange(t, config.Dial, sent, 20*time.Millisecond)
		if code := exchange(t, config.Dial, []byte("GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), patience); code != http.StatusOK {
			t.Fatalf("the next client is answered %d", code)
		}
	})
}

// exchange sends bytes on a connection of their own and reads the first answer, if
// one comes in time; 0 if none does.
func exchange(t *testing.T, dial dialer, sent []byte, wait time.Duration) int {
	t.Helper()
	c, err := dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(wait))
	go func() { _, _ = c.Write(sent) }()
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	json := strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")
	switch {
	case response.StatusCode == http.StatusExpectationFailed: // net/http says no more
	case response.StatusCode >= 500 && !contains([]int{501, 503, 504, 505, 507}, response.StatusCode):
		t.Fatalf("%q is answered with %d: %s", sent, response.StatusCode, answer)
	case response.StatusCode >= 400 && json && err == nil && !strings.HasPrefix(string(sent), "HEAD") && !isStatus(response.StatusCode, answer):
		t.Fatalf("%q is refused with %d and %s", sent, response.StatusCode, answer)
	case response.StatusCode >= 400 && !json && !strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain"):
		t.Fatalf("%q is refused with %d and %v", sent, response.StatusCode, response.Header)
	}
	return response.StatusCode
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)
