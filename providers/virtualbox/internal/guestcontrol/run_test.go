package guestcontrol

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
)

// FuzzReports: reports are found however the streams are cut, and nothing else is
// taken for one.
func FuzzReports(f *testing.F) {
	f.Add("out\x01put", "after", uint8(3))
	f.Add("\x01token ", "\n", uint8(1))
	f.Add("\x01token", "", uint8(7))
	f.Fuzz(func(t *testing.T, before, after string, cut uint8) {
		if strings.Contains(before, "\x01token ") {
			return // the token cannot be guessed
		}
		var got bytes.Buffer
		r := newRun(context.Background(), "token", func(p []byte) error { _, err := got.Write(p); return err }, nil)
		text := []byte("VBoxManage: warning\n\x01token start\n" + before + "\x01token done 5\n" + after)
		for len(text) > 0 {
			n := min(len(text), int(cut)+1)
			if w, err := r.stdout.Write(text[:n]); w != n || err != nil {
				t.Fatal(w, err)
			}
			text = text[n:]
		}
		if got.String() != before || r.verdict() != "done 5" || !r.begun {
			t.Errorf("%q came out as %q, report %q", before, got.String(), r.verdict())
		}
	})
}

func TestExitCode(t *testing.T) {
	for report, want := range map[string]struct {
		code int
		ok   bool
	}{
		"done 0": {0, true}, "done 255": {255, true}, "done 256": {}, "done -1": {}, "done": {}, "": {}, "refused missing": {}, "other": {},
	} {
		if code, err := exitCode(report); code != want.code || (err == nil) != want.ok {
			t.Errorf("%q: %d, %v", report, code, err)
		}
	}
}

// TestPattern: who is told to kill a command does not take itself for it.
func TestPattern(t *testing.T) {
	for range 1000 {
		id := token()
		pattern := patternOf(id)
		matches := regexp.MustCompile(pattern).MatchString
		if !matches(encode([]byte(head(id)))) {
			t.Fatalf("%s does not find the command that it is made for", pattern)
		}
		if matches(pattern) || matches(encode([]byte("set -- "+quote(pattern)))) {
			t.Fatalf("%s finds itself", pattern)
		}
	}
}
