package access

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/coder/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// TestTailSize: the last lines are those that a simple reading finds, however
// the text arrives.
func TestTailSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a\n]{0,40}`).Draw(t, "text")
		lines := rapid.Int64Range(0, 12).Draw(t, "lines")
		all := strings.SplitAfter(text, "\n")
		if all[len(all)-1] == "" {
			all = all[:len(all)-1]
		}
		want := int64(len(strings.Join(all[max(0, int64(len(all))-lines):], "")))
		for _, r := range []func() (int64, error){
			func() (int64, error) { return tailSize(strings.NewReader(text), lines) },
			func() (int64, error) { return tailSize(iotest.OneByteReader(strings.NewReader(text)), lines) },
		} {
			if got, err := r(); err != nil || got != want {
				t.Errorf("%q, %d lines: got %d and %v, want %d", text, lines, got, err, want)
			}
		}
	})
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"a\x1b[31m b\n\n c\x00\xff": "a [31m b c ?",
		" \n\t":                     "it says nothing more",
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := printable(strings.Repeat("ü", 1000)); len(got) > 310 {
		t.Errorf("%d bytes are left", len(got))
	}
}

// server serves the guest of a machine that is running, or of a sandbox without
// a machine.
func server(t *testing.T, running bool) string {
	t.Helper()
	url, _, _ := serverOf(t, running)
	return url
}

// serverOf is server for those who do something with the machine as well.
func serverOf(t *testing.T, runs bool) (string, *fake.Provider, types.UID) {
	t.Helper()
	const uid, image = types.UID("5f0c9b4e-6f0b-4c40-9d0e-0d7a3c0f5a11"), types.UID("8c6c2f04-3f1e-4b52-9a57-3a4f8b2b6c11")
	world := fake.NewWorld(fake.Options{Source: func(string) (fake.Source, bool) { return fake.Source{SHA256: "00"}, true }})
	p := fake.New(world, v1.ProviderKVM, "instance")
	ref, ctx := providers.ImageRef{UID: image, Revision: "1"}, context.Background()
	if _, err := p.ImportImage(ctx, providers.ImageSpec{ImageRef: ref, Name: "i", Source: v1.ImageSource{Disk: &v1.DiskSource{Path: "/i"}}}, nil); err != nil {
		t.Fatal(err)
	}
	spec := providers.MachineSpec{ID: uid, Namespace: "default", Name: "x", Image: ref, CPUs: 1, MemoryBytes: 64 << 20, Network: v1.Network{Mode: v1.NetworkNone}}
	if err := p.EnsureMachine(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx, uid); err != nil {
		t.Fatal(err)
	}
	status := running(uid)
	if !runs {
		status = map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "False", "message": "waiting for an image"}}}
	}
	return serve(t, p, uid, status), p, uid
}

// running is the status of a sandbox that has a machine.
func running(id types.UID) map[string]any {
	return map[string]any{"provider": "kvm", "machineID": string(id)}
}

// serve serves the guest of a sandbox.
func serve(t *testing.T, p providers.Provider, uid types.UID, status map[string]any) string {
	t.Helper()
	parent := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": "default", "name": "x", "uid": string(uid)}, "status": status,
	}}
	mux := http.NewServeMux()
	for _, e := range New(Options{Providers: providers.NewSet(v1.ProviderKVM, p)}).Endpoints() {
		mux.HandleFunc("/"+e.Name, func(w http.ResponseWriter, r *http.Request) { e.Serve(w, r, parent.DeepCopy()) })
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// TestRefused: what is wrong with a request is told as a Status, before any
// upgrade.
func TestRefused(t *testing.T) {
	url, none := server(t, true), server(t, false)
	upgrade := map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Protocol": wire.Protocol}
	for name, c := range map[string]struct {
		url    string
		header map[string]string
		code   int
		want   string
	}{
		"no upgrade":      {url + "/exec?command=true", nil, 400, "ask for the upgrade to a WebSocket"},
		"old SPDY":        {url + "/exec?command=true", map[string]string{"Upgrade": "SPDY/2", "Connection": "Upgrade"}, 400, "ask for SPDY/3.1"},
		"unknown SPDY":    {url + "/exec?command=true", map[string]string{"Upgrade": "SPDY/3.1", "Connection": "Upgrade", "X-Stream-Protocol-Version": "v9"}, 400, "none is known here"},
		"other protocol":  {url + "/exec?command=true", map[string]string{"Upgrade": "websocket", "Sec-WebSocket-Protocol": "v9.channel.k8s.io"}, 400, "subprotocol v5.channel.k8s.io is needed"},
		"no tunnel":       {url + "/portforward?ports=80", upgrade, 400, "subprotocol SPDY/3.1+portforward.k8s.io is needed"},
		"container":       {url + "/exec?command=true&container=web", upgrade, 400, "a sandbox has one, guest"},
		"previous":        {url + "/log?previous=true", nil, 400, "leave out --previous"},
		"timestamps":      {url + "/log?timestamps=true", nil, 400, "leave out --timestamps"},
		"since":           {url + "/log?sinceSeconds=5", nil, 400, "use --tail"},
		"no command":      {url + "/exec", upgrade, 400, "no command was given"},
		"bad flag":        {url + "/exec?command=sh&stdin=maybe", upgrade, 400, `stdin "maybe" is neither true nor false`},
		"bad timeout":     {url + "/exec?command=sh&timeout=soon", upgrade, 400, `timeout "soon"`},
		"negative time":   {url + "/exec?command=sh&timeout=-1s", upgrade, 400, `timeout "-1s"`},
		"bad bound":       {url + "/exec?command=sh&maxOutput=0", upgrade, 400, `maxOutput "0"`},
		"no machine":      {none + "/exec?command=true", upgrade, 503, "sandbox default/x: it has no machine yet: waiting for an image"},
		"relative path":   {url + "/files?path=etc", nil, 400, "not an absolute path"},
		"zero byte":       {url + "/files?path=/a%00b", nil, 400, "not an absolute path"},
		"no file":         {url + "/files?path=/nosuch", nil, 404, "sandbox default/x: "},
		"bad count":       {url + "/log?tailLines=-1", nil, 400, `tailLines "-1"`},
		"too many counts": {url + "/log?tailLines=1&tailBytes=1", nil, 400, "exclude one another"},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, c.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range c.header {
				request.Header.Set(k, v)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			var s metav1.Status
			if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != c.code || int(s.Code) != c.code || s.Kind != "Status" || s.Status != metav1.StatusFailure || !strings.Contains(s.Message, c.want) {
				t.Errorf("got %d and %+v", response.StatusCode, s)
			}
		})
	}
}

// TestProtocol speaks the protocol byte by byte.
func TestProtocol(t *testing.T) {
	ctx := context.Background()
	url := strings.Replace(server(t, true), "http:", "ws:", 1) + "/exec?stdin=true&stdout=true&stderr=true&command=sh&command=-c&command=cat%3B+echo+err+%3E%262%3B+exit+7"
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{wire.Protocol}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if conn.Subprotocol() != wire.Protocol {
		t.Errorf("got the subprotocol %q", conn.Subprotocol())
	}
	for _, message := range [][]byte{
		{},
		{wire.Resize, '{', '}'},
		{99, 1}, // what means nothing is passed over
		append([]byte{wire.Stdin}, "one "...), append([]byte{wire.Stdin}, "two"...),
		{wire.Close, wire.Stdin},
		append([]byte{wire.Stdin}, "too late"...),
	} {
		if err := conn.Write(ctx, websocket.MessageBinary, message); err != nil {
			t.Fatal(err)
		}
	}
	got := map[byte]string{}
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
				t.Errorf("it was closed by %v", err)
			}
			break
		}
		if _, over := got[wire.Result]; over {
			t.Errorf("after the result came %q", message)
		}
		got[message[0]] += string(message[1:])
	}
	if got[wire.Stdout] != "one two" || got[wire.Stderr] != "err\n" || len(got) != 3 {
		t.Errorf("got %q", got)
	}
	var s metav1.Status
	if err := json.Unmarshal([]byte(got[wire.Result]), &s); err != nil {
		t.Fatal(err)
	}
	if s.Status != metav1.StatusFailure || s.Reason != "NonZeroExitCode" || s.Details == nil || len(s.Details.Causes) != 1 ||
		s.Details.Causes[0] != (metav1.StatusCause{Type: "ExitCode", Message: "7"}) {
		t.Errorf("got %+v", s)
	}
}
