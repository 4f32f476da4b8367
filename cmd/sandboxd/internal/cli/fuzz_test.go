package cli

import (
	"bytes"
	"path"
	"strings"
	"testing"
	"unicode"
)

// FuzzSides: what cp is given names one place, and one in a sandbox by an absolute
// path.
func FuzzSides(f *testing.F) {
	for _, s := range []string{"web:/etc", "ns/web:/a/../b/", "./a:b", "-", "a/b/c:/d", "C:\\x", "web:rel", ":/x", "..:/x", "/x:/y", "ns/..:/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		side, err := (&app{}).parseSide(text)
		if err != nil {
			return
		}
		if side.guest && (!path.IsAbs(side.path) || path.Clean(side.path) != side.path || strings.Trim(side.key.Name, ".") == "" || strings.ContainsAny(side.key.Name, "/%")) || !side.guest && side.path != text {
			t.Fatalf("%q is %+v", text, side)
		}
	})
}

// FuzzGoal: what wait is to wait for is understood or refused.
func FuzzGoal(f *testing.F) {
	for _, s := range []string{"condition=Ready", "condition=Ready=False", "delete", "create", "jsonpath={.status.phase}=Running", "jsonpath={", "jsonpath={range .a[*]}{end}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if g, err := parseGoal(text); err == nil && g == nil {
			t.Fatalf("%q is no goal and no error", text)
		}
	})
}

// FuzzTerminal: nothing that a guest says steers a terminal, in whatever pieces it
// comes.
func FuzzTerminal(f *testing.F) {
	f.Add("a\x1b[2J\tb\u009b31m\u202ec\xff\x9b\r\n", 1)
	f.Fuzz(func(t *testing.T, said string, piece int) {
		steers := func(r rune) bool {
			return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' || unicode.Is(unicode.Bidi_Control, r)
		}
		var out bytes.Buffer
		w := &tamed{w: &out}
		piece = max(1, piece%16)
		for rest := said; rest != ""; rest = rest[min(piece, len(rest)):] {
			if _, err := w.Write([]byte(rest[:min(piece, len(rest))])); err != nil {
				t.Fatal(err)
			}
		}
		if strings.ContainsFunc(out.String(), steers) {
			t.Fatalf("%q is shown as %q", said, out.String())
		}
		if got := printable(said); strings.ContainsFunc(got, steers) || strings.ContainsAny(got, "\n\r\t") {
			t.Fatalf("%q is shown as %q", said, got)
		}
	})
}
