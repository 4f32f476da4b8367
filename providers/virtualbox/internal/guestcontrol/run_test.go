package guestcontrol

import (
	"regexp"
	"testing"
)

// TestPattern: who is told to kill a command does not take itself for it.
func TestPattern(t *testing.T) {
	for range 1000 {
		id := token()
		pattern := patternOf(id)
		matches := regexp.MustCompile(pattern).MatchString
		if !matches(encode([]byte(head(id)))) {
			t.Fatalf("%s does not find the command that it is made for", pattern)
		}
		if matches(pattern) || matches(encode([]byte("set -- "+quote(pattern)))) {
			t.Fatalf("%s finds itself", pattern)
		}
	}
}
