package change

import (
	"strings"
	"testing"
	"unicode"
)

// FuzzEscape: any name becomes printable text, and comes back from it.
func FuzzEscape(f *testing.F) {
	f.Add("a\\\x1b\u202e\xff")
	f.Fuzz(func(t *testing.T, name string) {
		text := Escape(name)
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || !Clean(text) {
			t.Fatalf("%q becomes %q", name, text)
		}
		if got, err := Unescape(text); err != nil || got != name {
			t.Fatalf("%q becomes %q and comes back as %q, %v", name, text, got, err)
		}
		if got, err := Unescape(name); err == nil && Clean(name) && Escape(got) != name {
			t.Fatalf("%q is taken for clean", name)
		}
	})
}
