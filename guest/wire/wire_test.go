package wire

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// TestEndRoundTrip: what the daemon tells of an end, the client understands.
func TestEndRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		end := End{
			ExitCode:   rapid.IntRange(0, 255).Draw(t, "code"),
			TimedOut:   rapid.Bool().Draw(t, "timed out"),
			Truncated:  rapid.Bool().Draw(t, "truncated"),
			NotStarted: rapid.Bool().Draw(t, "not started"),
		}
		raw, err := json.Marshal(end.Status())
		if err != nil {
			t.Fatal(err)
		}
		got, status, ended, err := ParseEnd(raw)
		if err != nil || !ended {
			t.Fatalf("got %+v, %v and %v", got, ended, err)
		}
		got.Message = ""
		if got != end {
			t.Errorf("got %+v, want %+v", got, end)
		}
		if success := status.Status == metav1.StatusSuccess; success != (end.ExitCode == 0 && !end.TimedOut) {
			t.Errorf("%+v is told as %s", end, status.Status)
		}
	})
}

func TestParseEnd(t *testing.T) {
	for text, want := range map[string]struct{ ended, fails bool }{
		`{"status":"Success"}`: {ended: true},
		`{"status":"Failure","reason":"InternalError","message":"no"}`:                                                                {},
		`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"x"}]}}`:                  {fails: true},
		`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"},{"reason":"New"}]}}`: {ended: true},
		`nonsense`: {fails: true},
	} {
		_, _, ended, err := ParseEnd([]byte(text))
		if ended != want.ended || (err != nil) != want.fails {
			t.Errorf("%s: got %v and %v", text, ended, err)
		}
	}
}
