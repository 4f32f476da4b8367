package controller

import (
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/client-go/tools/events"
)

func TestCutNote(t *testing.T) {
	for _, c := range []struct {
		note string
		size int
	}{
		{"", 0},
		{"short", 5},
		{strings.Repeat("a", maxNote), maxNote},
		{strings.Repeat("a", maxNote+1), maxNote},
		{strings.Repeat("ä", maxNote), maxNote - 1}, // not through the middle of one
		{"a" + strings.Repeat("ä", maxNote), maxNote},
		{"bad \xff", 5},
	} {
		got := cutNote(c.note)
		if len(got) != c.size || !utf8.ValidString(got) || len(c.note) > maxNote && !strings.HasSuffix(got, "…") {
			t.Errorf("%.20q… of %d bytes was cut to %d", c.note, len(c.note), len(got))
		}
	}
}

// TestRecorder: a note is no format, whatever is in it.
func TestRecorder(t *testing.T) {
	fake := events.NewFakeRecorder(1)
	newRecorder(fake).Eventf(nil, nil, "Normal", "Reason", "Action", "the guest said %q", "100%d")
	if got := <-fake.Events; got != `Normal Reason the guest said "100%d"` {
		t.Errorf("the event is %s", got)
	}
}
