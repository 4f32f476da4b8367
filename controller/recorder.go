package controller

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
)

// maxNote is how long the note of an event may be, in bytes: a real API server
// refuses a longer one, and nothing would be told at all.
const maxNote = 1024

// recorder records events whose notes are cut to what an API server takes. Notes
// quote guests, hypervisors and scripts, which say what they like.
type recorder struct{ to events.EventRecorder }

func newRecorder(to events.EventRecorder) recorder { return recorder{to} }

// Eventf records an event.
func (r recorder) Eventf(regarding, related runtime.Object, eventtype, reason, action, note string, args ...any) {
	r.to.Eventf(regarding, related, eventtype, reason, action, "%s", cutNote(fmt.Sprintf(note, args...)))
}

// cutNote shortens a note to maxNote bytes, at the end of a character, and shows
// that it did.
func cutNote(note string) string {
	note = strings.ToValidUTF8(note, "?")
	if len(note) <= maxNote {
		return note
	}
	const more = "…"
	return strings.ToValidUTF8(note[:maxNote-len(more)], "") + more
}
