package client

import (
	"errors"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/guest/archive"
)

// endless sends zeros until nobody reads them any more.
type endless struct{ sent int64 }

func (e *endless) Read(p []byte) (int, error) {
	clear(p)
	e.sent += int64(len(p))
	return len(p), nil
}

// TestSkipPadding: what follows an archive is read to its end, unless it has none.
func TestSkipPadding(t *testing.T) {
	if err := skipPadding(strings.NewReader(strings.Repeat("\x00", 1<<20))); err != nil {
		t.Errorf("a megabyte: %v", err)
	}
	e := &endless{}
	if err := skipPadding(e); !errors.Is(err, archive.ErrRefused) || e.sent > 2*maxPadding {
		t.Errorf("without end: %v after %d bytes", err, e.sent)
	}
}
