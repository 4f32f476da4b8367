package providers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

func TestErrors(t *testing.T) {
	cause := errors.New("the disk is full")
	for _, tc := range []struct {
		err      error
		text     string
		kind     error
		reason   string
		terminal bool
	}{
		{
			providers.Errorf(providers.ErrInvalid, `image "a"`, "it is empty"),
			`image "a": it is empty`, providers.ErrInvalid, v1.ReasonInvalid, true,
		},
		{
			providers.Errorf(providers.ErrInvalid, `image "a"`, "it is empty").WithReason(providers.ReasonBackingFile),
			`image "a": it is empty`, providers.ErrInvalid, providers.ReasonBackingFile, true,
		},
		{
			providers.Errorf(providers.ErrCapacity, "machine m", "it cannot be made: %w", cause),
			"machine m: it cannot be made: the disk is full", providers.ErrCapacity, v1.ReasonCapacity, false,
		},
		{
			&providers.Error{Kind: providers.ErrUnsupported, Object: "machine m"},
			"machine m: unsupported", providers.ErrUnsupported, v1.ReasonUnsupported, true,
		},
		{
			fmt.Errorf("outer: %w", providers.Errorf(providers.ErrBusy, "machine m", "it runs")),
			"outer: machine m: it runs", providers.ErrBusy, v1.ReasonBusy, false,
		},
		{
			providers.Errorf(providers.ErrNotFound, "machine a\nb", "bell \a, escape \x1b[31m, ä and \u0085"),
			`machine a\nb: bell \a, escape \x1b[31m, ä and \u0085`, providers.ErrNotFound, v1.ReasonNotFound, false,
		},
		{
			providers.Errorf(providers.ErrNotFound, "machine m", "turned \u202e round, line\u2028end"),
			`machine m: turned \u202e round, line\u2028end`, providers.ErrNotFound, v1.ReasonNotFound, false,
		},
		{context.Canceled, "context canceled", nil, v1.ReasonError, false},
	} {
		if got := tc.err.Error(); got != tc.text {
			t.Errorf("got %q, want %q", got, tc.text)
		}
		if got := providers.KindOf(tc.err); !errors.Is(got, tc.kind) {
			t.Errorf("%q: kind %v, want %v", tc.text, got, tc.kind)
		}
		if got := providers.ReasonOf(tc.err); got != tc.reason {
			t.Errorf("%q: reason %s, want %s", tc.text, got, tc.reason)
		}
		if got := providers.IsTerminal(tc.err); got != tc.terminal {
			t.Errorf("%q: terminal %v, want %v", tc.text, got, tc.terminal)
		}
	}
	if err := providers.Errorf(providers.ErrBusy, "x", "because: %w", cause); !errors.Is(err, cause) {
		t.Error("the cause cannot be seen")
	}
}
