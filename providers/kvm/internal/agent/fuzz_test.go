package agent

import (
	"context"
	"encoding/json"
	"testing"
)

// FuzzDecoded takes each reply for that of each command, without the pauses between
// them: nothing is understood that is out of bounds.
func FuzzDecoded(f *testing.F) {
	f.Add(`{"return":{"count":2,"buf-b64":"aGk=","eof":true}}`)
	f.Add(`{"return":{"exited":true,"exitcode":0,"out-data":"ZG9uZSAwIDAgMCBpbmxpbmUK"}}`)
	f.Add(`{"return":{"pid":-1}}`)
	f.Add(`{"return":{"count":-5}}`)
	f.Fuzz(func(t *testing.T, reply string) {
		ctx := context.Background()
		c := New(func(context.Context, string) (string, error) { return reply, nil })
		if b, _, err := c.read(ctx, 1, 10); err == nil && len(b) > 10 {
			t.Fatalf("%d bytes of 10", len(b))
		}
		if s, err := c.status(ctx, 1); err == nil {
			if r, err := parseReport(s); err == nil && r.refused == "" && (r.code < 0 || r.code > 255 || r.sizes[0] < 0 || r.sizes[1] < 0) {
				t.Fatalf("%+v", r)
			}
		}
		var said struct {
			Return struct{ Count int }
		}
		// A short write goes on behind what was written: it is never taken for more.
		if json.Unmarshal([]byte(reply), &said) == nil && (said.Return.Count <= 0 || said.Return.Count > 3) && c.write(ctx, 1, []byte("abc")) == nil {
			t.Fatalf("%q is taken for a write of 3 bytes", reply)
		}
		_, _ = c.start(ctx, "/x", nil, nil)
		_, _ = c.Freeze(ctx)
	})
}
