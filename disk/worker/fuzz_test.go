package worker

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
)

// FuzzFrames: the child reads a hostile disk and may say anything afterwards. What
// is taken from it is bounded and steers no terminal.
func FuzzFrames(f *testing.F) {
	frame := func(kind byte, payload string) []byte {
		var b bytes.Buffer
		if err := writeFrame(&b, kind, []byte(payload)); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(frame(frameLine, `{"change":{"op":"added","path":"/a\\x1b","to":{"type":"file","size":1,"mode":"0644"}}}`))
	f.Add(frame(frameLine, `{"note":{"message":"\u001b[2J"}}`))
	f.Add(append(frame(frameHeader, `{"dir":true}`), frame(frameFailure, `{"kind":"corrupt","text":"x"}`)...))
	f.Add([]byte{frameData, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, said []byte) {
		r, buffer := bytes.NewReader(said), []byte(nil)
		for {
			_, payload, err := readFrame(r, buffer)
			if err != nil {
				return
			}
			if buffer = payload; cap(buffer) > maxFrame {
				t.Fatalf("a buffer of %d bytes", cap(buffer))
			}
			l, err := parseLine(payload)
			switch {
			case err != nil:
			case (l.Change == nil) == (l.Note == nil):
				t.Fatalf("%q is both or nothing", payload)
			case l.Note != nil && strings.ContainsFunc(l.Note.Message, unicode.IsControl):
				t.Fatalf("the note %q", l.Note.Message)
			case l.Change != nil && strings.ContainsFunc(l.Change.Path, unicode.IsControl):
				t.Fatalf("the path %q", l.Change.Path)
			}
		}
	})
}
