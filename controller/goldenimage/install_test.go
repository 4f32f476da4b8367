package goldenimage

import (
	"slices"
	"strings"
	"testing"
)

func TestLastLines(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		most       int
		want       []string
	}{
		{"nothing", "", 1, nil},
		{"the last one", "a\nb\n", 1, []string{"b"}},
		{"a few", "a\nb\nc\n", 2, []string{"b", "c"}},
		{"fewer than asked for", "a\n", 3, []string{"a"}},
		{"empty ones", "a\n\n  \n\r\n", 1, []string{"a"}},
		{"drawn over", "10%\r20%\r", 1, []string{"20%"}},
		{"colours and cursors", "\x1b[2J\x1b[1;31mred\x1b[0m\x1b[?7l\x1bc", 1, []string{"red"}},
		{"a sequence that does not end", "a\n\x1b[12;", 1, []string{"a"}},
		{"an escape alone", "a\x1b", 1, []string{"a"}},
		{"what is no letter", "a\x00\x07b\u202ec\xff", 1, []string{"abc"}},
		{"a long one", strings.Repeat("x", 500), 1, []string{strings.Repeat("x", consoleLine) + "…"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := lastLines(tt.text, tt.most); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
