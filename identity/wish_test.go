package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/identity"
)

// TestWishes: names that are not people's, and times that are no times, are refused.
func TestWishes(t *testing.T) {
	f := open(t)
	for name, w := range map[string]identity.Wish{
		"no user": {}, "a system user": {User: "system:admin"}, "a system group": {User: "a", Groups: []string{"system:masters"}},
		"a line break": {User: "a\nb"}, "long": {User: strings.Repeat("a", 129)}, "no text": {User: "\xff"},
		"empty group": {User: "a", Groups: []string{""}}, "too short": {User: "a", Life: time.Second}, "too long": {User: "a", Life: 11 * 365 * 24 * time.Hour},
		"too many groups": {User: "a", Groups: strings.Split(strings.Repeat("g,", 40), ",")},
	} {
		if _, _, err := f.IssueToken(w); !errors.Is(err, identity.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(f.List()); n != 0 {
		t.Errorf("%d credentials were recorded", n)
	}
}
