package apiserver_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store"
)

// world is a server on a unix socket that is treated badly, and what is looked at
// afterwards.
type world struct {
	t          testing.TB
	api        api
	path       string
	store      store.Store
	goroutines int
	stop       func()
}

func newWorld(t testing.TB, change ...func(*apiserver.Options)) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "api.sock"), store: openStore(t)}
	s := newServer(t, append([]func(*apiserver.Options){func(o *apiserver.Options) { o.Store = w.store }}, change...)...)
	w.api = api{t: t, handler: s.Handler()}
	w.stop = serveUnix(t, s, w.path)
	w.answers()
	w.goroutines = runtime.NumGoroutine()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) dial() net.Conn {
	w.t.Helper()
	c, err := net.Dial("unix", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// answers looks whether a new client is served: it writes, reads and lists.
func (w *world) answers() {
	w.t.Helper()
	c := w.dial()
	defer func() { _ = c.Close() }()
	lines := bufio.NewReader(c)
	for _, rq := range []struct{ method, path, body, want string }{
		{"DELETE", sandboxes + "/witness", "", ""},
		{"POST", sandboxes, sandboxJSON("witness"), `"name":"witness"`},
		{"GET", sandboxes + "/witness", "", `"name":"witness"`},
		{"GET", sandboxes, "", `"name":"witness"`},
	} {
		_, _ = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", rq.method, rq.path, len(rq.body), rq.body)
		response, err := http.ReadResponse(lines, nil)
		if err != nil {
			w.t.Fatalf("%s %s is not answered: %v", rq.method, rq.path, err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || !strings.Contains(string(body), rq.want) {
			w.t.Fatalf("%s %s: %s, %v: %s", rq.method, rq.path, response.Status, err, body)
		}
	}
}

// calm waits until what was started for clients has ended.
func (w *world) calm() {
	w.t.Helper()
	eventually(w.t, "the goroutines are those of before", func() bool { return runtime.NumGoroutine() <= w.goroutines+2 })
}

// raw sends bytes on a connection of their own and reads the answer.
func (w *world) raw(text string) (int, []byte) {
	w.t.Helper()
	c := w.dial()
	defer func() { _ = c.Close() }()
	go func() { _, _ = io.WriteString(c, text) }() // the answer may come before its end
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		w.t.Fatalf("%.80q is not answered: %v", text, err)
	}
	body, _ := io.ReadAll(response.Body) // it is cut off where more was sent than is read
	return response.StatusCode, body
}

// TestMalformedRequests sends what no client of Kubernetes sends. What net/http
// itself refuses is told in a line of plain text; all else in a Status.
func TestMalformedRequests(t *testing.T) {
	w := newWorld(t)
	one := sandboxJSON("one")
	head := "POST " + sandboxes + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	before := w.store.Revision()
	for _, c := range []struct {
		name, text string
		code       int
		status     bool
	}{
		{"huge header", "GET /version HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", 431, false},
		{"many headers", "GET /version HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 100_000) + "\r\n", 431, false},
		{"huge path", "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431, false},
		{"no version", "GET /version\r\n\r\n", 400, false},
		{"not HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, false},
		{"no host", "GET /version HTTP/1.1\r\n\r\n", 400, false},
		{"two lengths", head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, false},
		{"length and chunks", head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true},
		{"odd encoding", head + "Transfer-Encoding: gzip\r\n\r\n", 501, false},
		{"bad chunks", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, true},
		{"endless trailers", head + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 5000) + "\r\n", 400, true},
		{"odd method", "BREW " + sandboxes + " HTTP/1.1\r\nHost: x\r\n\r\n", 405, true},
		{"upgrade where there is none", "GET " + sandboxes + "/none HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", 404, true},
		{"HTTP/2 without being asked", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404, true},
		{"path of percents", "GET /apis/sandboxd.dev/v1/namespaces/%2e%2e%2f/sandboxes/%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404, true},
		{"bad query", "GET " + sandboxes + "?labelSelector=%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, true},
		{"too much, asked first", head + "Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n", 413, true},
		{"unknown expectation", head + "Expect: miracles\r\nContent-Length: 2\r\n\r\n{}", 417, false},
		{"packed body", head + fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(packed(one)), packed(one)), 400, true},
	} {
		code, body := w.raw(c.text)
		if code != c.code || c.status != isStatus(code, body) {
			t.Errorf("%s: answered %d and %.300s", c.name, code, body)
		}
	}
	if after := w.store.Revision(); after != before {
		t.Errorf("requests that were refused moved the store from %d to %d", before, after)
	}
	w.answers()
	w.calm()
}

func isStatus(code int, body []byte) bool {
	var status struct {
		Kind, Message string
		Code          int
	}
	return json.Unmarshal(body, &status) == nil && status.Kind == "Status" && status.Code == code && status.Message != ""
}

func packed(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

// TestPipelined sends requests without waiting for answers, which come in order.
func TestPipelined(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	defer func() { _ = c.Close() }()
	const count = 200
	go func() {
		for i := range count {
			_, _ = fmt.Fprintf(c, "GET %s/n%d HTTP/1.1\r\nHost: x\r\n\r\n", sandboxes, i)
		}
	}()
	lines := bufio.NewReader(c)
	for i := range count {
		response, err := http.ReadResponse(lines, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != 404 || !strings.Contains(string(body), fmt.Sprintf(`\"n%d\"`, i)) {
			t.Fatalf("answer %d: %s, %v: %s", i, response.Status, err, body)
		}
	}
	_ = c.Close()
	w.calm()
}

// TestCutOff ends connections in the middle of bodies: nothing of them is stored.
func TestCutOff(t *testing.T) {
	w := newWorld(t)
	before := w.store.Revision()
	body := sandboxJSON("half")
	var running sync.WaitGroup
	for i := range 50 {
		running.Go(func() {
			c := w.dial()
			// With all of the body but its last byte, and with less.
			_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", sandboxes, len(body), body[:len(body)-1-i])
			if i%2 == 0 {
				time.Sleep(time.Millisecond)
			}
			_ = c.Close()
		})
	}
	running.Wait()
	w.calm()
	if after := w.store.Revision(); after != before {
		t.Errorf("halves of requests moved the store from %d to %d", before, after)
	}
	w.answers()
}

// TestBombs sends bodies that are small and would be large, or take long.
func TestBombs(t *testing.T) {
	a := newAPI(t)
	a.do("POST", sandboxes, sandbox("one")).want(201)
	deep := func(open, end string, n int) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	spec := func(text string) string {
		return `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"bomb"},"spec":` + text + `}`
	}
	aliases := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		aliases += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	copies := `[{"op":"add","path":"/metadata/annotations","value":{"a":"` + strings.Repeat("x", 10_000) + `"}}`
	for i := range 5000 {
		copies += fmt.Sprintf(`,{"op":"copy","from":"/metadata/annotations","path":"/metadata/annotations/c%d"}`, i)
	}
	many := "[" + strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/spec/image","value":"tiny"},`, 10_001), ",") + "]"
	for _, c := range []struct {
		name, method, path, media, body string
		codes                           []int
	}{
		{"deep JSON", "POST", "", "application/json", spec(deep(`{"a":`, `}`, 50_000)), []int{400}},
		{"deep lists", "POST", "", "application/json", spec(deep("[", "]", 1_000_000)), []int{400}},
		{"deep YAML", "POST", "", "application/yaml", deep("[", "]", 100_000), []int{400}},
		{"deep block YAML", "POST", "", "application/yaml", strings.Repeat("- ", 500_000), []int{400}},
		{"YAML aliases", "POST", "", "application/yaml", aliases, []int{400, 413}},
		{"applied aliases", "PATCH", "/one?fieldManager=m", applyPatch, aliases, []int{400, 413}},
		{"huge number", "POST", "", "application/json", spec(`{"image":"tiny","cpus":` + strings.Repeat("9", 1_000_000) + `}`), []int{400, 422}},
		{"huge exponent", "POST", "", "application/json", spec(`{"image":"tiny","cpus":1e999999999}`), []int{400, 422}},
		{"huge quantity", "POST", "", "application/json", spec(`{"image":"tiny","memory":"1e999999999"}`), []int{400, 422}},
		{"huge quantity of digits", "POST", "", "application/json", spec(`{"image":"tiny","memory":"` + strings.Repeat("9", 1_000_000) + `"}`), []int{400, 422}},
		{"too large", "POST", "", "application/json", spec(`"` + strings.Repeat("x", 3<<20) + `"`), []int{413}},
		{"many labels", "POST", "", "application/json", `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"bomb","labels":{` + strings.TrimSuffix(strings.Repeat(`"a":"b",`, 300_000), ",") + `}},"spec":5}`, []int{400, 422}},
		{"copies", "PATCH", "/one", jsonPatch, copies + "]", []int{413, 422}},
		{"many operations", "PATCH", "/one", jsonPatch, many, []int{413}},
		{"deep patch", "PATCH", "/one", mergePatch, deep(`{"a":`, `}`, 50_000), []int{400}},
		{"deep pointer", "PATCH", "/one", jsonPatch, `[{"op":"add","path":"` + strings.Repeat("/a", 100_000) + `","value":1}]`, []int{400, 422}},
		{"protobuf of nothing", "POST", "", "application/vnd.kubernetes.protobuf", "k8s\x00" + strings.Repeat("\xff", 1000), []int{400}},
	} {
		before := allocated()
		began := time.Now()
		got := a.do(c.method, sandboxes+c.path, c.body, "Content-Type", c.media)
		if !contains(c.codes, got.code) || !isStatus(got.code, got.body) {
			t.Errorf("%s: answered %d and %.300s", c.name, got.code, got.body)
		}
		if len(got.body) > 64<<10 {
			t.Errorf("%s: the refusal has %d bytes", c.name, len(got.body))
		}
		// What it takes is in proportion to the largest body there may be.
		if took := allocated() - before; took > 1<<30 {
			t.Errorf("%s: took %d MB", c.name, took>>20)
		}
		if took := time.Since(began); took > patience/4 {
			t.Errorf("%s: took %v", c.name, took)
		}
	}
	a.get(sandboxes + "/one").want(200)
	a.get(sandboxes + "/bomb").want(404)
}

func contains(codes []int, code int) bool {
	for _, c := range codes {
		if c == code {
			return true
		}
	}
	return false
}

// allocated is what has been allocated since the start, in bytes.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestSelectorBombs: selectors as long as a header may be take no time.
func TestSelectorBombs(t *testing.T) {
	a := newAPI(t)
	for i := range 20 {
		a.do("POST", sandboxes, with(sandbox(fmt.Sprintf("s%d", i)), "b", "metadata", "labels", "a")).want(201)
	}
	for name, query := range map[string]string{
		"values":       "labelSelector=a+in+(" + strings.Repeat("x,", 30_000) + "x)",
		"requirements": "labelSelector=" + strings.Repeat("a,", 30_000) + "a",
		"parentheses":  "labelSelector=" + strings.Repeat("(", 60_000),
		"negations":    "labelSelector=" + strings.Repeat("!", 60_000) + "a",
		"fields":       "fieldSelector=" + strings.Repeat("spec.image%3Dtiny,", 3_000) + "spec.image%3Dtiny",
		"no fields":    "fieldSelector=" + strings.Repeat("%3D", 20_000),
		"escapes":      "fieldSelector=metadata.name%3D" + strings.Repeat("%5C%5C", 10_000),
		"versions":     "resourceVersion=" + strings.Repeat("9", 60_000),
		"watch":        "watch=1&timeoutSeconds=99999999999999999999",
	} {
		began := time.Now()
		got := a.get(sandboxes + "?" + query)
		if got.code >= 400 && !isStatus(got.code, got.body) || got.code >= 500 {
			t.Errorf("%s: answered %d and %.300s", name, got.code, got.body)
		}
		if took := time.Since(began); took > patience/4 {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// TestManyWritersOfOne: of writers that all began with the same version one wins
// each time, none is lost and none is told twice.
func TestManyWritersOfOne(t *testing.T) {
	w := newWorld(t)
	w.api.do("POST", sandboxes, sandbox("one")).want(201)
	before := w.store.Revision()
	const writers = 40 // the work grows with the square
	var mu sync.Mutex
	won, lost := 0, 0
	var running sync.WaitGroup
	for i := range writers {
		running.Go(func() {
			for {
				one := w.api.get(sandboxes + "/one").object()
				got := w.api.do("PUT", sandboxes+"/one", with(one, fmt.Sprint(i), "metadata", "annotations", fmt.Sprintf("writer-%d", i)))
				mu.Lock()
				switch got.code {
				case 200:
					won++
				case 409:
					lost++
				default:
					t.Errorf("writer %d is answered %d: %s", i, got.code, got.body)
				}
				mu.Unlock()
				if got.code != 409 {
					return
				}
			}
		})
	}
	running.Wait()
	if notes := w.api.get(sandboxes + "/one").object().GetAnnotations(); len(notes) != writers || won != writers {
		t.Errorf("%d writers won, %d of their notes are there", won, len(notes))
	}
	if writes := w.store.Revision() - before; writes != writers {
		t.Errorf("%d writers made %d writes", writers, writes)
	}
	t.Logf("%d attempts were refused with 409", lost)
}
