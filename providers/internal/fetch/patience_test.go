package fetch

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sandboxd.dev/sandboxd/providers"
)

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// sent is an answer whose body comes so long after it is asked for, part by part.
func sent(b []byte, headAfter, partsAfter time.Duration) doer {
	return func(r *http.Request) (*http.Response, error) {
		waits := func(d time.Duration) error {
			select {
			case <-time.After(d):
				return nil
			case <-r.Context().Done():
				return r.Context().Err()
			}
		}
		if err := waits(headAfter); err != nil {
			return nil, err
		}
		from := bytes.NewReader(b)
		body := reader(func(p []byte) (int, error) {
			if err := waits(partsAfter); err != nil {
				return 0, err
			}
			return from.Read(p[:min(len(p), block)])
		})
		return &http.Response{
			StatusCode: http.StatusOK, Header: http.Header{"Etag": {`"a"`}}, ContentLength: int64(len(b)), Body: io.NopCloser(body), Request: r,
		}, nil
	}
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// TestPatience: the server is waited for so long each time, and what the host itself
// takes, to write what came, is not counted.
func TestPatience(t *testing.T) {
	file := content()
	for name, c := range map[string]struct {
		head, parts, disk time.Duration
		stalled           bool
	}{
		"prompt":         {0, 0, 0, false},
		"just in time":   {59 * time.Second, 59 * time.Second, 0, false},
		"a slow disk":    {59 * time.Second, 59 * time.Second, time.Hour, false},
		"no head":        {61 * time.Second, 0, 0, true},
		"nothing behind": {0, 61 * time.Second, time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				slow := func() { time.Sleep(c.disk) }
				got, err := Get(t.Context(), Request{
					Object: "image", URL: "http://x.example/a", Dir: filepath.Join(dir, "d"), MaxBytes: 1 << 30, Stall: time.Minute,
					Client: sent(file, c.head, c.parts), Step: slow, Progress: func(int64, int64) { slow() },
				})
				switch {
				case c.stalled && (!errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "sent nothing for 1m0s")):
					t.Errorf("got %v", err)
				case !c.stalled && (err != nil || got.Digest != digestOf(file)):
					t.Errorf("got %+v, %v", got, err)
				}
			})
		})
	}
}
