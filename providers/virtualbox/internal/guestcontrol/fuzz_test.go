package guestcontrol

import (
	"context"
	"strconv"
	"strings"
	"testing"
)

// FuzzStream: whatever a guest prints, in whatever pieces, the caller gets nothing
// from before the start and after the end.
func FuzzStream(f *testing.F) {
	const token = "t0123"
	f.Add([]byte("banner\x01t0123 start\nhello\n\x01t0123 done 0\nrest"), 5)
	f.Add([]byte("\x01t0123 start\n\x01t0123 start\n\x01t0123 \n\x01t0123 done"), 1)
	f.Fuzz(func(t *testing.T, said []byte, piece int) {
		var out []byte
		deliver := func(p []byte) error { out = append(out, p...); return nil }
		r := newRun(context.Background(), token, deliver, nil)
		defer r.cancel(nil)
		piece = max(1, piece%64)
		for rest := said; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			_, _ = r.stdout.Write(rest[:min(piece, len(rest))])
		}
		if len(out) > 0 && !strings.Contains(string(said), "\x01"+token+" ") || len(out) > len(said) {
			t.Fatalf("%q became %q", said, out)
		}
		_, _ = r.stderr.Write(said)
		_, _ = r.verdict(), r.hasBegun()
	})
}

// FuzzEncode: a script reaches the guest's shell as it is, whatever words of a
// manifest or a user are in it, in characters that nothing on the way changes.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("echo 'a' \"$(b)\" \\0 -x \xff\n"))
	f.Fuzz(func(t *testing.T, script []byte) {
		text := encode(script)
		if strings.Trim(text, `abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=,+@%\ -`) != "" || strings.HasPrefix(text, "-") {
			t.Fatalf("%q is written as %q", script, text)
		}
		if got := printed(t, text); got != string(script) {
			t.Fatalf("%q arrives as %q", script, got)
		}
	})
}

// printed is what printf's %b makes of a text.
func printed(t *testing.T, text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '\\':
			b.WriteByte(text[i])
		case text[i+1] == 'n':
			b.WriteByte('\n')
			i++
		default:
			n, err := strconv.ParseUint(text[i+1:i+5], 8, 9)
			if err != nil || n > 255 {
				t.Fatalf("%q: %v", text, err)
			}
			b.WriteByte(byte(n))
			i += 4
		}
	}
	return b.String()
}

// FuzzQuote: words for a shell stay words.
func FuzzQuote(f *testing.F) {
	f.Add("a'b", "$(reboot)")
	f.Fuzz(func(t *testing.T, a, b string) {
		text := quote(a, b)
		if got := unquoted(text); len(got) != 2 || got[0] != a || got[1] != b {
			t.Fatalf("%q and %q are written as %s, and read as %q", a, b, text, got)
		}
	})
}

// unquoted reads words of single quotes and escaped quotes, as a shell does.
func unquoted(text string) []string {
	words, word, quoted := []string{}, "", false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\'':
			quoted = !quoted
		case quoted:
			word += text[i : i+1]
		case c == '\\':
			i++
			word += text[i : i+1]
		case c == ' ':
			words, word = append(words, word), ""
		default:
			return nil // a shell would take it for something
		}
	}
	return append(words, word)
}
