package guestcall

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzPrintable: a guest's text becomes one bounded line that steers no terminal.
func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[2J\u202eb\n\xff" + strings.Repeat("x", 500))
	f.Fuzz(func(t *testing.T, text string) {
		got := Printable(text)
		if utf8.RuneCountInString(got) > 203 || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q becomes %q", text, got)
		}
	})
}
