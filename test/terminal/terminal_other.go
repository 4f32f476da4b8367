//go:build !linux

// Package terminal makes terminals for tests of what is used at one.
package terminal

import (
	"os"
	"testing"
)

// Open skips the test: terminals are made on Linux only.
func Open(t testing.TB, _, _ uint16) (keys, screen *os.File) {
	t.Helper()
	t.Skip("terminals for tests are made on Linux only")
	return nil, nil
}

// Resize is not reached.
func Resize(testing.TB, *os.File, uint16, uint16) {}
