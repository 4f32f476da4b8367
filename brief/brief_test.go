package brief_test

import (
	"testing"

	"sandboxd.dev/sandboxd/brief"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "abcd": "abcd", "abcde": "abcd…", "abcéf": "abc…", "abéf": "abé…", "ab\xffcd": "abc…",
	} {
		if got := brief.Text(text, 4); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
