package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestProgressAbove: what is to stay is printed where the live lines were, and
// these below it.
func TestProgressAbove(t *testing.T) {
	var terminal bytes.Buffer
	p := &progress{w: &terminal, lines: 2}
	p.above(func() { fmt.Fprintln(&terminal, "one condition met") })
	p.above(func() { fmt.Fprintln(&terminal, "two condition met") })
	const want = "\x1b[2A\r\x1b[Jone condition met\ntwo condition met\n"
	if terminal.String() != want {
		t.Errorf("got %q, want %q", terminal.String(), want)
	}
}

// TestProgressFits: no terminal is so small that the live lines are broken or
// scroll, or else they could not be taken away again.
func TestProgressFits(t *testing.T) {
	p := &progress{why: map[string]string{}}
	for i := range 20 {
		p.set(fmt.Sprintf("sandbox.sandboxd.dev/s%d", i), "the guest boots\tand\x1b[31m boots")
	}
	for width := 1; width <= 120; width++ {
		for height := 1; height <= 40; height++ {
			text := p.frame(3, width, height)
			lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			if len(lines) > max(2, height-1) || len(lines) > maxLive+1 {
				t.Fatalf("%d lines on a terminal of %d", len(lines), height)
			}
			for _, line := range lines {
				if n := utf8.RuneCountInString(line); n > width-1 || strings.ContainsAny(line, "\x1b\t") {
					t.Fatalf("%d characters on a terminal of %d: %q", n, width, line)
				}
			}
		}
	}
	if text := p.frame(0, 80, 24); strings.Count(text, "\n") != maxLive+1 || !strings.Contains(text, "… and 10 more") {
		t.Errorf("got %q", text)
	}
}
