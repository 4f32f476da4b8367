// Package capture keeps what a process or a guest has written so far, for tests that look
// at it while it goes on.
package capture

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// Buffer is what was written so far. The zero Buffer is empty and ready for use, and it is
// safe for concurrent use.
type Buffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

// String is all of it.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// Shows waits until a text is in it. The test fails if that takes longer than within.
func (b *Buffer) Shows(t testing.TB, within time.Duration, text string) {
	t.Helper()
	for deadline := time.Now().Add(within); !strings.Contains(b.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q is never shown, but %q", text, b.String())
		}
	}
}
