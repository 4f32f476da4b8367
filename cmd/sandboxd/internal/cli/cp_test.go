package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// TestLimited: a copy takes what fits, to the last byte, and ends with the first
// byte too many.
func TestLimited(t *testing.T) {
	var got bytes.Buffer
	w := &limited{w: &got, left: 10}
	for _, p := range []string{"12345", "", "67890"} {
		if n, err := io.WriteString(w, p); n != len(p) || err != nil {
			t.Errorf("%q: %d, %v", p, n, err)
		}
	}
	if n, err := io.WriteString(w, "x"); n != 0 || err == nil || !strings.Contains(err.Error(), "larger than a copy may be") {
		t.Errorf("the byte too many: %d, %v", n, err)
	}
	if got.String() != "1234567890" {
		t.Errorf("got %q", got.String())
	}
}
