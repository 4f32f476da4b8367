package ssh

import (
	"strings"
	"testing"
)

// FuzzStream: whatever a guest sends, in whatever pieces, the caller gets nothing
// from before the start.
func FuzzStream(f *testing.F) {
	const token = "0123"
	f.Add([]byte("motd\x010123 start\nhello\x010123 done 0\nrest"), 3)
	f.Fuzz(func(t *testing.T, said []byte, piece int) {
		var out []byte
		r := newRun(token, func(p []byte) error { out = append(out, p...); return nil }, nil)
		piece = max(1, piece%64)
		for rest := said; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			_, _ = r.stdout.Write(rest[:min(piece, len(rest))])
		}
		if len(out) > 0 && !strings.Contains(string(said), "\x01"+token+" ") || len(out) > len(said) {
			t.Fatalf("%q became %q", said, out)
		}
		_, _ = r.stderr.Write(said)
	})
}

// FuzzLine: a line for the guest's login shell is one line of plain characters,
// whatever words are in it.
func FuzzLine(f *testing.F) {
	f.Add("run \"$1\"\n", "a'b\n\x00\xff")
	f.Fuzz(func(t *testing.T, script, word string) {
		line := lineOf(script, word)
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q", line)
		}
	})
}
