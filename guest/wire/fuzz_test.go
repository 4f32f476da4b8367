package wire

import (
	"encoding/json"
	"testing"
)

// FuzzEnd: the last message of a command is understood or refused, and what is
// understood is written and read again alike.
func FuzzEnd(f *testing.F) {
	for _, e := range []End{{}, {ExitCode: 3}, {ExitCode: 137, TimedOut: true, Truncated: true}, {ExitCode: ExitNotFound, NotStarted: true, Message: "x"}} {
		raw, err := json.Marshal(e.Status())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, _, ended, err := ParseEnd(raw)
		if err != nil || !ended || e.ExitCode == 0 {
			return
		}
		again, err := json.Marshal(e.Status())
		if err != nil {
			t.Fatal(err)
		}
		got, _, ended, err := ParseEnd(again)
		if e.Message == "" {
			got.Message = ""
		}
		if err != nil || !ended || got != e {
			t.Fatalf("%+v became %+v, %v, %v", e, got, ended, err)
		}
	})
}
