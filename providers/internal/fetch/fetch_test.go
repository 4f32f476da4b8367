package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

// content is large enough for several blocks, with a hole at its end.
func content() []byte {
	b := make([]byte, 5*block+123)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b[:3*block])
	return b
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// server answers the n-th request by the n-th page, and further ones by the last.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	asked []http.Header
}

func serve(t *testing.T, pages ...http.HandlerFunc) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Header.Clone())
		n := min(len(s.asked), len(pages)) - 1
		s.mu.Unlock()
		pages[n](w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// good serves all that is asked for.
func good(b []byte, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		set(w, headers)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

func set(w http.ResponseWriter, headers []string) {
	for i := 0; i+1 < len(headers); i += 2 {
		w.Header().Set(headers[i], headers[i+1])
	}
}

// cut breaks off after n bytes.
func cut(b []byte, n int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		set(w, headers)
		_, _ = w.Write(b[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// hang sends n bytes and then nothing.
func hang(b []byte, n int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		set(w, headers)
		_, _ = w.Write(b[:n])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// part sends b as the answer to a request for a range, whatever was asked.
func part(b []byte, contentRange string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", contentRange)
		set(w, headers)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(b)
	}
}

func answer(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func endless(w http.ResponseWriter, r *http.Request) {
	b := make([]byte, block)
	for r.Context().Err() == nil {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

func TestGet(t *testing.T) {
	file := content()
	other := append(bytes.Clone(file[:len(file)-1]), 1)
	half, size := len(file)/2, len(file)
	rest := fmt.Sprintf("bytes %d-%d/%d", half, size-1, size)
	for name, tc := range map[string]struct {
		pages  []http.HandlerFunc
		want   []byte
		kind   error
		kept   bool
		times  int // requests, where it matters
		stalls bool
	}{
		"a good server":          {pages: []http.HandlerFunc{good(file, "ETag", `"a"`)}, want: file, times: 1},
		"one without a version":  {pages: []http.HandlerFunc{good(file)}, want: file, times: 1},
		"cut off, then good":     {pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), good(file, "ETag", `"a"`)}, want: file, times: 2},
		"cut off, then modified": {pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), good(other, "ETag", `"b"`)}, want: other, times: 2},
		"cut off, then whole":    {pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("ETag", `"a"`); _, _ = w.Write(file) }}, want: file, times: 2},
		"If-Range passed over": {
			pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), part(other[half:], rest, "ETag", `"b"`), good(other, "ETag", `"b"`)},
			want:  other, times: 3,
		},
		"another part than asked": {
			pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), part(file[1:], fmt.Sprintf("bytes 1-%d/%d", size-1, size), "ETag", `"a"`), good(file, "ETag", `"a"`)},
			want:  file, times: 3,
		},
		"a part of another size": {
			pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), part(file[half:], fmt.Sprintf("bytes %d-%d/%d", half, size-1, size+5), "ETag", `"a"`), good(file, "ETag", `"a"`)},
			want:  file, times: 3,
		},
		"a part that nobody asked for": {pages: []http.HandlerFunc{part(file[half:], rest)}, kind: providers.ErrInvalid},
		"no such range":                {pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), answer(416), good(file, "ETag", `"a"`)}, want: file, times: 3},
		"by date":                      {pages: []http.HandlerFunc{cut(file, half, "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT"), good(file, "Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")}, want: file, times: 2},
		"cut off without a version":    {pages: []http.HandlerFunc{cut(file, half)}, kind: providers.ErrUnavailable, times: 1},
		"cut off with a weak version":  {pages: []http.HandlerFunc{cut(file, half, "ETag", `W/"a"`)}, kind: providers.ErrUnavailable, times: 1},
		"always cut off":               {pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`)}, kind: providers.ErrUnavailable, kept: true, times: 2},
		"stalled":                      {pages: []http.HandlerFunc{hang(file, half)}, kind: providers.ErrUnavailable, stalls: true},
		"stalled, with a version":      {pages: []http.HandlerFunc{hang(file, half, "ETag", `"a"`), answer(503)}, kind: providers.ErrUnavailable, kept: true, times: 2, stalls: true},
		"stalled before it answers":    {pages: []http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}, kind: providers.ErrUnavailable, stalls: true},
		"too large, and says so":       {pages: []http.HandlerFunc{good(make([]byte, size+11))}, kind: providers.ErrInvalid, times: 1},
		"endless":                      {pages: []http.HandlerFunc{endless}, kind: providers.ErrInvalid, times: 1},
		"a part that never ends": {
			pages: []http.HandlerFunc{cut(file, half, "ETag", `"a"`), part(append(bytes.Clone(file[half:]), 0), rest, "ETag", `"a"`), good(file, "ETag", `"a"`)},
			kind:  providers.ErrUnavailable,
		},
		"packed without being asked": {pages: []http.HandlerFunc{good(file, "Content-Encoding", "gzip")}, kind: providers.ErrInvalid},
		"not found":                  {pages: []http.HandlerFunc{answer(404)}, kind: providers.ErrNotFound},
		"gone":                       {pages: []http.HandlerFunc{answer(410)}, kind: providers.ErrNotFound},
		"forbidden":                  {pages: []http.HandlerFunc{answer(403)}, kind: providers.ErrInvalid},
		"unauthorized":               {pages: []http.HandlerFunc{answer(401)}, kind: providers.ErrInvalid},
		"too many":                   {pages: []http.HandlerFunc{answer(429)}, kind: providers.ErrUnavailable},
		"broken":                     {pages: []http.HandlerFunc{answer(500)}, kind: providers.ErrUnavailable},
		"no content":                 {pages: []http.HandlerFunc{answer(204)}, kind: providers.ErrInvalid},
		"redirected once":            {pages: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/b", http.StatusFound) }, good(file)}, want: file},
		"redirected for ever":        {pages: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/b", http.StatusFound) }}, kind: providers.ErrInvalid},
		"redirected to a file": {pages: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}}, kind: providers.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tc.pages...)
			dir := filepath.Join(t.TempDir(), "download")
			r := Request{Object: "image", URL: s.URL + "/a", Dir: dir, MaxBytes: int64(size + 10)}
			if tc.stalls {
				r.Stall = 2 * time.Second
			}
			got, err := Get(t.Context(), r)
			switch {
			case !errors.Is(err, tc.kind), tc.kind != nil && providers.KindOf(err) != tc.kind:
				t.Fatalf("%v, not of kind %v", err, tc.kind)
			case err != nil && Resumable(dir) != tc.kept:
				t.Errorf("after %v something is kept: %t", err, Resumable(dir))
			case err != nil && !tc.kept:
				if _, err := os.Stat(dir); !os.IsNotExist(err) {
					t.Errorf("the folder of the download is left: %v", err)
				}
			case err == nil:
				b, err := os.ReadFile(got.Path)
				if err != nil || !bytes.Equal(b, tc.want) || got.Digest != digestOf(tc.want) || got.Size != int64(len(tc.want)) {
					t.Errorf("%+v, %d bytes, %v", got, len(b), err)
				}
			}
			if tc.times > 0 && s.count() != tc.times {
				t.Errorf("%d requests, not %d", s.count(), tc.times)
			}
		})
	}
}

// received puts what was received in the place of a download that was kept.
func received(dir string, b []byte) error {
	s := readState(dir)
	s.Synced = int64(len(b))
	return errors.Join(os.WriteFile(filepath.Join(dir, "file"), b, 0o600), s.write(dir))
}

// TestGetLater: what one process received, another goes on from, unless it is of
// another address or version, or was damaged.
func TestGetLater(t *testing.T) {
	file := content()
	half := len(file) / 2
	for name, tc := range map[string]struct {
		first, second http.HandlerFunc
		path          string
		between       func(dir string) error
		resumed       bool
	}{
		"the same":             {first: cut(file, half, "ETag", `"a"`), second: good(file, "ETag", `"a"`), resumed: true},
		"of another version":   {first: cut(make([]byte, len(file)), half, "ETag", `"b"`), second: good(file, "ETag", `"a"`)},
		"of another address":   {first: cut(make([]byte, len(file)), half, "ETag", `"a"`), second: good(file, "ETag", `"a"`), path: "/other"},
		"the state is damaged": {first: cut(make([]byte, len(file)), half, "ETag", `"a"`), second: good(file, "ETag", `"a"`), between: func(dir string) error { return os.WriteFile(filepath.Join(dir, "state"), []byte(`{"url`), 0o600) }},
		"the file is gone":     {first: cut(file, half, "ETag", `"a"`), second: good(file, "ETag", `"a"`), between: func(dir string) error { return os.Remove(filepath.Join(dir, "file")) }},
		"it was complete":      {first: cut(file, half, "ETag", `"a"`), second: good(file, "ETag", `"a"`), between: func(dir string) error { return received(dir, file) }, resumed: true},
		"it was more": {first: cut(file, half, "ETag", `"a"`), second: good(file, "ETag", `"a"`), between: func(dir string) error {
			return received(dir, append(bytes.Clone(file), 1))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tc.first, answer(503), tc.second)
			r := Request{Object: "image", URL: s.URL + "/a", Dir: filepath.Join(t.TempDir(), "download"), MaxBytes: int64(len(file))}
			if _, err := Get(t.Context(), r); !errors.Is(err, providers.ErrUnavailable) || !Resumable(r.Dir) {
				t.Fatalf("the first: %v", err)
			}
			if tc.between != nil {
				if err := tc.between(r.Dir); err != nil {
					t.Fatal(err)
				}
			}
			if tc.path != "" {
				r.URL = s.URL + tc.path
			}
			got, err := Get(t.Context(), r)
			if err != nil || got.Digest != digestOf(file) || got.Resumed != tc.resumed {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestGetCancelled(t *testing.T) {
	file := content()
	s := serve(t, hang(file, block, "ETag", `"a"`))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := Request{Object: "image", URL: s.URL, Dir: filepath.Join(t.TempDir(), "download"), MaxBytes: 1 << 30, Progress: func(done, _ int64) {
		if done >= block {
			cancel()
		}
	}}
	if _, err := Get(ctx, r); !errors.Is(err, context.Canceled) || !Resumable(r.Dir) {
		t.Errorf("%v, and kept is %t", err, Resumable(r.Dir))
	}
}

// TestSecretsStayHidden: neither the password nor the token of an address is in
// an error.
func TestSecretsStayHidden(t *testing.T) {
	s := serve(t, answer(500))
	at := strings.Replace(s.URL, "http://", "http://user:hunter2@", 1) + "/disk?token=hunter2"
	s2 := strings.Replace(at, s.Listener.Addr().String(), "127.0.0.1:1", 1)
	for _, address := range []string{at, s2} {
		_, err := Get(t.Context(), Request{Object: "image", URL: address, Dir: filepath.Join(t.TempDir(), "d"), MaxBytes: 1})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

func TestSmall(t *testing.T) {
	for name, tc := range map[string]struct {
		page http.HandlerFunc
		kind error
	}{
		"fine":      {good([]byte("1234")), nil},
		"too large": {good([]byte("12345")), providers.ErrInvalid},
		"endless":   {endless, providers.ErrInvalid},
		"absent":    {answer(404), providers.ErrNotFound},
		"broken":    {answer(502), providers.ErrUnavailable},
		"stalled":   {hang([]byte("1234"), 1), providers.ErrUnavailable},
		"cut off":   {cut([]byte("1234"), 1), providers.ErrUnavailable},
	} {
		r := Request{Object: "image", URL: serve(t, tc.page).URL, MaxBytes: 4}
		if name == "stalled" {
			r.Stall = 100 * time.Millisecond
		}
		b, err := Small(t.Context(), r)
		if !errors.Is(err, tc.kind) || err == nil && string(b) != "1234" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestParseContentRange(t *testing.T) {
	for s, want := range map[string][2]int64{
		"bytes 5-9/10": {5, 10}, "bytes 5-9/*": {5, 0}, "bytes 5-10/10": {-1}, "bytes 9-5/10": {-1}, "bytes */10": {-1},
		"bytes -5-9/10": {-1}, "items 5-9/10": {-1}, "": {-1}, "bytes 5-9": {-1}, "bytes 5-99999999999999999999/*": {-1},
	} {
		from, total, ok := parseContentRange(s)
		if ok != (want[0] >= 0) || ok && (from != want[0] || total != want[1]) {
			t.Errorf("%q: %d, %d, %t", s, from, total, ok)
		}
	}
}

// FuzzContentRange: what is taken makes sense.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Fuzz(func(t *testing.T, s string) {
		if from, total, ok := parseContentRange(s); ok && (from < 0 || total < 0 || total > 0 && from >= total) {
			t.Fatalf("%q: %d of %d", s, from, total)
		}
	})
}

// TestUnsyncedIsReceivedAgain: what is not known to be on disk is not gone on from,
// because a power failure leaves zeros in its place, which no digest may tell.
func TestUnsyncedIsReceivedAgain(t *testing.T) {
	b := content()
	s := serve(t, cut(b, 3*block, "ETag", `"1"`), answer(http.StatusServiceUnavailable), good(b, "ETag", `"1"`))
	dir := filepath.Join(t.TempDir(), "download")
	r := Request{Object: "it", URL: s.URL, Dir: dir, MaxBytes: 1 << 30}
	if _, err := Get(t.Context(), r); !errors.Is(err, providers.ErrUnavailable) {
		t.Fatal(err)
	}
	synced := readState(dir).Synced
	if synced != 3*block {
		t.Fatalf("%d bytes are known to be on disk, and %d were received", synced, 3*block)
	}
	// As after a power failure: the file is longer than what was synced.
	if err := os.Truncate(filepath.Join(dir, "file"), 4*block); err != nil {
		t.Fatal(err)
	}
	got, err := Get(t.Context(), r)
	if err != nil || got.Digest != digestOf(b) || !got.Resumed {
		t.Errorf("got %+v, %v", got, err)
	}
	if from := s.asked[len(s.asked)-1].Get("Range"); from != fmt.Sprintf("bytes=%d-", synced) {
		t.Errorf("it went on with %q", from)
	}
}
