package access

import (
	"errors"
	"testing"

	"sandboxd.dev/sandboxd/disk/worker"
	"sandboxd.dev/sandboxd/providers"
)

// TestDiskError: what the disk is to blame for is not tried again, and what the host is
// to blame for is.
func TestDiskError(t *testing.T) {
	for kind, want := range map[error]error{
		worker.ErrNotFound: providers.ErrNotFound, worker.ErrUnsupported: providers.ErrUnsupported, worker.ErrTooLarge: providers.ErrInvalid,
		worker.ErrCorrupt: providers.ErrInvalid, worker.ErrExhausted: providers.ErrInvalid, worker.ErrFailed: providers.ErrUnavailable,
	} {
		if err := diskError("disk", &worker.Error{Kind: kind, Text: "why"}); !errors.Is(err, want) {
			t.Errorf("%v: %v", kind, err)
		}
	}
}
