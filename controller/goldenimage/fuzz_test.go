package goldenimage

import (
	"strings"
	"testing"
	"unicode"
)

// FuzzConsole: what an installer's console shows becomes a few bounded lines of
// plain text.
func FuzzConsole(f *testing.F) {
	f.Add("\x1b[2J\x1b]0;title\x07a\r\nb\u202ec\xff\x9b31m")
	f.Fuzz(func(t *testing.T, said string) {
		lines := lastLines(said, 3)
		if len(lines) > 3 {
			t.Fatalf("%d lines", len(lines))
		}
		for _, l := range lines {
			if len(l) > consoleLine+len("…") || strings.ContainsFunc(l, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }) {
				t.Fatalf("%q", l)
			}
		}
	})
}
